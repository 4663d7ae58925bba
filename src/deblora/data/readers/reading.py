"""How a source is read: the switches that readers share, as one plain value."""

from dataclasses import dataclass
from typing import Literal

from deblora.data.scenes.crops import CropShape

DotaVersion = Literal["any", "v1.0", "v1.5", "v2.0"]


@dataclass(frozen=True)
class Reading:
    """What a reader may need to know beside the path; each reader uses the part that concerns it.

    Attributes:
        crop: What is cut around an object: the upright hull of its box, clipped to the image (authors' rule), or a
            square with the object in its middle, the border of the image repeated beyond it (ours).
        context: Side of the crop over that of the hull, >= 1; 1 cuts the hull itself (authors' rule).
        min_side: Objects whose hull has a shorter side, in pixels, are left out and counted; 0 keeps all (authors).
        difficult: Keep or drop objects marked difficult (the authors' counts hold all objects: keep).
        version: Class list of DOTA that labels must obey; "any" takes the classes that occur.
        unit: Column of a list or Parquet file that names what a split must not part, such as a scene.
        class_names: File with one class name per line, for labels that are numbers.
        images: Folder that the paths of a text list start from; None means the folder of the list.
        bands: Bands of a GeoTIFF to keep, counted from 1 as GDAL does; empty keeps all.
        max_missing: Share of pixels, 0 to 1, that may be missing (nodata) in a GeoTIFF chip; beyond it the chip is
            refused (ours).
    """

    crop: CropShape = "hull"
    context: float = 1.0
    min_side: float = 0.0
    difficult: Literal["keep", "drop"] = "keep"
    version: DotaVersion = "any"
    unit: str | None = None
    class_names: str | None = None
    images: str | None = None
    bands: tuple[int, ...] = ()
    max_missing: float = 0.5
