"""Flat boxes, left out and counted."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from deblora.data.scenes.dota import Labels


def drop_flat(labels: Mapping[str, Labels], *, shortest: float = 1e-3) -> tuple[dict[str, Labels], list[str]]:
    """Leave out objects whose box has a side of (almost) zero, and say which.

    Args:
        labels: Per image.
        shortest: Least side in pixels (ours).

    Returns:
        The other objects, and one line per object left out.
    """
    import torch

    from deblora.detect.boxes.convert import boxes_from_quads

    kept, lines = {}, []
    for image, entry in labels.items():
        sides = boxes_from_quads(torch.from_numpy(entry.quads))[:, 2:4].amin(dim=1).numpy()
        flat = np.flatnonzero(sides < shortest)
        lines += [f"{image}: object {row + 1} ({entry.class_names[row]}) has no area" for row in flat]
        kept[image] = entry.select(np.flatnonzero(sides >= shortest)) if len(flat) else replace(entry)
    return kept, lines
