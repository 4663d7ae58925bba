"""Oriented boxes ``(cx, cy, w, h, theta)``: conversion, exact overlap, suppression.

Pixels and radians, y down. ``theta`` runs from the x axis to the ``w`` side, so it is positive clockwise on
the screen. The canonical form is le90: ``w >= h`` and ``theta`` in ``[-pi/2, pi/2)``.
"""

from deblora.detect.boxes.convert import (
    boxes_from_quads,
    corners,
    flip_horizontal,
    flip_vertical,
    rotate_90,
    scale,
    untangle_quads,
    wrap_angle,
    wrap_le90,
)
from deblora.detect.boxes.nms import rotated_nms
from deblora.detect.boxes.overlap import (
    aligned_iou,
    pairwise_intersection,
    pairwise_iou,
    pairwise_quad_iou,
    quad_areas,
    quad_intersection,
    quad_iou,
)

__all__ = [
    "aligned_iou",
    "boxes_from_quads",
    "corners",
    "flip_horizontal",
    "flip_vertical",
    "pairwise_intersection",
    "pairwise_iou",
    "pairwise_quad_iou",
    "quad_areas",
    "quad_intersection",
    "quad_iou",
    "rotate_90",
    "rotated_nms",
    "scale",
    "untangle_quads",
    "wrap_angle",
    "wrap_le90",
]
