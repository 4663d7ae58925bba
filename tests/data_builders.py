"""Tiny sources in the layout of every reader, drawn with patterns that a model can tell apart."""

import io
import json
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from builders import COUNTS, draw, write_chips

SIDE = 16
VOC_OBJECT = """ <object>
  <name>{name}</name>
  <difficult>{difficult}</difficult>
  <bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>
 </object>
"""


def scene(names: list[str], rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """Return an image with one 16 x 16 object per name side by side, 4 pixels apart, and where each starts."""
    pixels = np.zeros((SIDE + 8, 4 + (SIDE + 4) * len(names), 3), dtype=np.uint8)
    places = []
    for i, name in enumerate(names):
        x, y = 4 + (SIDE + 4) * i, 4
        pixels[y : y + SIDE, x : x + SIDE] = draw(name, rng)
        places.append((name, x, y))
    return pixels, places


def scenes(counts: dict[str, int], n_scenes: int, seed: int) -> list[tuple[np.ndarray, list]]:
    """Return scenes that hold ``counts`` objects, each class spread over as many scenes as it can."""
    rng = np.random.default_rng(seed)
    names: list[list[str]] = [[] for _ in range(n_scenes)]
    for name, count in counts.items():
        for i in range(count):
            names[i % n_scenes].append(name)
    return [scene(entry, rng) for entry in names]


def quad_text(x: float, y: float, width: float = SIDE, height: float = SIDE) -> str:
    corners = (x, y, x + width, y, x + width, y + height, x, y + height)
    return " ".join(str(value) for value in corners)


def write_dota(
    folder: Path,
    *,
    splits: tuple[str, ...] = ("train", "val"),
    counts: dict[str, int] = COUNTS,
    n_scenes: int = 6,
) -> Path:
    """Write ``folder/<split>/{images,labelTxt}``; the third object of each split's first image is difficult."""
    for number, split in enumerate(splits):
        root = folder / split
        (root / "images").mkdir(parents=True)
        (root / "labelTxt").mkdir()
        for i, (pixels, places) in enumerate(scenes(counts, n_scenes, number)):
            name = f"{split or 'P'}{i:04d}"
            Image.fromarray(pixels).save(root / "images" / f"{name}.png")
            lines = ["imagesource:GoogleEarth", "gsd:0.5"]
            for row, (label, x, y) in enumerate(places):
                lines.append(f"{quad_text(x, y)} {label} {int(i == 0 and row == 2)}")
            (root / "labelTxt" / f"{name}.txt").write_text("\r\n".join(lines) + "\r\n")
    return folder


def write_voc(folder: Path, *, counts: dict[str, int] = COUNTS, n_scenes: int = 6) -> Path:
    """Write ``Annotations``, ``JPEGImages``, ``ImageSets/Main`` and ``captions.jsonl`` with train and val images."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    captions = []
    for split, seed in (("train", 0), ("val", 1)):
        names = []
        for i, (pixels, places) in enumerate(scenes(counts, n_scenes, seed)):
            name = f"{split}_{i}"
            names.append(name)
            Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.bmp")
            objects = "".join(
                VOC_OBJECT.format(name=label, difficult=0, x1=x + 1, y1=y + 1, x2=x + SIDE, y2=y + SIDE)
                for label, x, y in places
            )
            text = f"<annotation>\n <filename>{name}.bmp</filename>\n{objects}</annotation>\n"
            (folder / "Annotations" / f"{name}.xml").write_text(text)
            captions.append(json.dumps({"file_name": f"{name}.bmp", "caption": f"ships in scene {name}"}))
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    (folder / "captions.jsonl").write_text("\n".join(captions) + "\n")
    return folder


def write_text_lists(folder: Path, *, counts: dict[str, int] = COUNTS) -> Path:
    """Write ``NAME_train.txt`` and ``NAME_val.txt`` (every fifth chip) with numbers as labels, and ``classes.txt``."""
    write_chips(folder / "images", counts=counts)
    lines: dict[str, list[str]] = {"train": [], "val": []}
    for label, name in enumerate(counts):
        for i in range(counts[name]):
            lines["val" if i % 5 == 4 else "train"].append(f"images/{name}/{i:03d}.png {label}")
    for split, rows in lines.items():
        (folder / f"Toy_LT_{split}.txt").write_text("\n".join(rows) + "\n")
    (folder / "classes.txt").write_text("".join(f"{name} {label}\n" for label, name in enumerate(counts)))
    return folder


def write_fusrs(folder: Path) -> Path:
    """Write gray chips in three of the five classes of FUSRS, ``<split>/<class>/<chip>``."""
    patterns = {"Cargo": "checks", "Fishing": "rows", "Dredger": "slope"}
    for split, share in (("train", 1.0), ("val", 0.5), ("test", 0.5)):
        rng = np.random.default_rng(len(split))
        for name, count in (("Cargo", 24), ("Fishing", 14), ("Dredger", 6)):
            (folder / split / name).mkdir(parents=True)
            for i in range(int(count * share)):
                gray = draw(patterns[name], rng)[:, :, :1] // 4
                Image.fromarray(gray[:, :, 0]).save(folder / split / name / f"{i:03d}.png")
    return folder


def write_geotiffs(folder: Path, *, n_bands: int = 4, counts: dict[str, int] = COUNTS) -> Path:
    """Write uint16 GeoTIFF chips with ``n_bands`` bands (the first three hold the pattern), nodata 0."""
    import rasterio
    from rasterio.transform import from_origin

    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((n_bands, SIDE, SIDE), 7, dtype=np.uint16)
            pixels[:3] = draw(name, rng).transpose(2, 0, 1)[:n_bands].astype(np.uint16) * 10 + 1
            profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": n_bands, "dtype": "uint16"}
            place = from_origin(500_000 + 100 * i, 5_000_000, 10, 10)
            with rasterio.open(
                folder / name / f"{i}.tif", "w", nodata=0, crs="EPSG:32632", transform=place, **profile
            ) as file:
                file.write(pixels)
    return folder


def arrays(*, counts: dict[str, int] = COUNTS, seed: int = 0) -> dict[str, np.ndarray]:
    """Return ``images``, ``labels`` (numbers) and ``class_names``."""
    rng = np.random.default_rng(seed)
    return {
        "images": np.stack([draw(name, rng) for name, count in counts.items() for _ in range(count)]),
        "labels": np.repeat(np.arange(len(counts)), list(counts.values()))[:, None],
        "class_names": np.array(list(counts)),
    }


def encoded(value: int) -> dict[str, Any]:
    """Return a small gray PNG as ``datasets`` gives images that it does not decode."""
    stream = io.BytesIO()
    Image.new("L", (4, 3), value).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def huge_png() -> bytes:
    """A file of a few bytes that declares a picture of ten thousand million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 9))
        + chunk(b"IEND", b"")
    )


class FakeHubSplit:
    """What deblora uses of a ``datasets.Dataset``."""

    def __init__(self, columns: dict[str, list], names: list[str] | None) -> None:
        self.columns = columns
        self.features: dict[str, Any] = {name: SimpleNamespace() for name in columns}
        if "label" in columns:
            self.features["label"] = SimpleNamespace(names=names)
        self.is_encoded = False

    def cast_column(self, name: str, feature: Any) -> "FakeHubSplit":
        assert name == "image" and feature.decode is False
        self.is_encoded = True
        return self

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        assert self.is_encoded, "images must not be decoded by datasets"
        return {name: values[key] for name, values in self.columns.items()}


def fake_datasets(splits: dict[str, FakeHubSplit]) -> SimpleNamespace:
    """Return a stand-in for the package ``datasets``, which the tests must not install."""

    def load_dataset(name: str) -> dict[str, FakeHubSplit]:
        if name != "owner/ships":
            raise ValueError(f"Dataset '{name}' doesn't exist\non the Hub")
        return splits

    return SimpleNamespace(load_dataset=load_dataset, Image=lambda decode: SimpleNamespace(decode=decode))
