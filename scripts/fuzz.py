"""Damaged and hostile files for every reader, recipe, artifact and adapter: each is read, or refused in one line.

Valid files of every kind are made, changed at random (bits, bytes, pieces, numbers, tokens that parsers choke on), and
read in this process as a command would. A fault is an error that is no `DebloraError`, a message that is none, a file
left half-written, more than 10 seconds, or more than a gigabyte.

    python scripts/fuzz.py --n 2000 --seed 0
"""

import argparse
import csv
import io
import json
import logging
import resource
import shutil
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deblora.errors import DebloraError

MOST_SECONDS, MOST_BYTES = 10.0, 2**30
TOKENS = (
    *(b"", b"\0", b"\xff\xfe", b"nan", b"-inf", b"1e999", b"-1", b"9" * 400, "\u202e\u0301".encode()),
    *(b"!!python/object:os.system x", b"&a [*a, *a]", b"!!bool maybe", b"1:30:30", b"1_0", b"2001-99-99"),
    *(b"[" * 3000, b'{"a":' * 3000, b"<a>" * 3000, b"<!DOCTYPE x [<!ENTITY a 'b'>]>", b"../../etc/passwd"),
    *(b"true", b"null", b'"', b",", b"\n", b"\r", b"\t", b": ", b"- "),
)


@dataclass(frozen=True)
class Kind:
    """One kind of file: how a valid one is made below a folder, which files of it are changed, how it is read."""

    name: str
    make: Callable[[Path, np.random.Generator], list[Path]]
    read: Callable[[Path], object]


def changed(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the content with one to four random changes."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        size = len(data)
        place = int(rng.integers(0, size + 1))
        end = min(size, place + int(rng.integers(1, 64)))
        match int(rng.integers(8)):
            case 0 if size:
                data[place % size] ^= 1 << int(rng.integers(8))
            case 1:
                data[place:end] = rng.bytes(end - place)
            case 2:
                del data[place:end]
            case 3:
                data = data[:place]
            case 4:
                data[place:place] = data[place:end] * int(rng.integers(1, 40))
            case 5:
                data[place:end] = TOKENS[int(rng.integers(len(TOKENS)))]
            case 6:
                data[place:place] = TOKENS[int(rng.integers(len(TOKENS)))]
            case _:
                text = bytes(data)
                digits = [i for i in range(len(text)) if text[i : i + 1].isdigit()]
                if digits:
                    spot = digits[int(rng.integers(len(digits)))]
                    data[spot : spot + 1] = (b"99999999999", b"-7", b"0", b"1e308", b"0.5")[
                        int(rng.integers(5))
                    ]
    return bytes(data)


# --- kinds --------------------------------------------------------------------------------------------------------


def chip(rng: np.random.Generator) -> np.ndarray:
    """Return a small RGB chip."""
    return rng.integers(0, 255, (12, 10, 3), dtype=np.uint8)


def picture(form: str) -> Kind:
    """A folder of pictures, one of which is changed."""

    def make(root: Path, rng: np.random.Generator) -> list[Path]:
        from PIL import Image

        paths = []
        for name in ("plane", "ship"):
            for i in range(4):
                path = root / name / f"{i}.{form}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if form == "npy":
                    np.save(path, chip(rng))
                else:
                    Image.fromarray(chip(rng)).save(path)
                paths.append(path)
        return paths[:1]

    return Kind(f"folder of {form}", make, decoded)


def decoded(root: Path) -> object:
    """Read a source as the audit does, chip by chip."""
    from deblora.pipeline.classify.audit import (
        check_values,
        choose_groups,
        describe,
        doubts,
        readable,
        select_chips,
    )
    from deblora.pipeline.classify.chips import read_source
    from deblora.recipe.classify import recipe_from

    read_source.cache_clear()
    data = recipe_from({"data": {"source": str(root)}}).data
    chips, seen = readable(select_chips(data, 0), data)
    check_values(seen, data)
    return describe(chips, choose_groups(chips, data)), doubts(chips, seen, data)


def make_npz(root: Path, rng: np.random.Generator) -> list[Path]:
    """Arrays in one file."""
    path = root / "chips.npz"
    np.savez(path, images=np.stack([chip(rng) for _ in range(16)]), labels=np.repeat(["a", "b"], 8))
    return [path]


def make_stacks(root: Path, rng: np.random.Generator) -> list[Path]:
    """Arrays in a folder."""
    np.save(root / "images.npy", np.stack([chip(rng) for _ in range(16)]))
    np.save(root / "labels.npy", np.repeat([0, 1], 8))
    return [root / "images.npy", root / "labels.npy"]


def make_list(root: Path, rng: np.random.Generator) -> list[Path]:
    """A list of paths and labels."""
    from PIL import Image

    with (root / "list.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("path", "label"))
        for i in range(16):
            Image.fromarray(chip(rng)).save(root / f"{i}.png")
            lines.writerow((f"{i}.png", "ab"[i % 2]))
    return [root / "list.csv"]


def make_parquet(root: Path, rng: np.random.Generator) -> list[Path]:
    """A Parquet file with encoded images."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    images = []
    for _ in range(16):
        stream = io.BytesIO()
        Image.fromarray(chip(rng)).save(stream, "PNG")
        images.append({"bytes": stream.getvalue(), "path": None})
    pq.write_table(pa.table({"image": images, "label": ["a", "b"] * 8}), root / "chips.parquet")
    return [root / "chips.parquet"]


def make_dota(root: Path, rng: np.random.Generator) -> list[Path]:
    """Two images with label files."""
    from PIL import Image

    (root / "images").mkdir()
    (root / "labelTxt").mkdir()
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(root / "images" / f"P{i}.png")
        boxes = "5 5 25 5 25 15 5 15 ship 0\n20 20 35 22 34 33 19 30 plane 1\n" * 4
        (root / "labelTxt" / f"P{i}.txt").write_text(f"imagesource:x\ngsd:0.5\n{boxes}")
    return [root / "labelTxt" / "P0.txt", root / "images" / "P1.png"]


def make_voc(root: Path, rng: np.random.Generator) -> list[Path]:
    """Images with XML annotations."""
    from PIL import Image

    (root / "JPEGImages").mkdir()
    (root / "Annotations").mkdir()
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(
            root / "JPEGImages" / f"{i}.png"
        )
        box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>25</ymax></bndbox>"
        objects = "".join(f"<object><name>{name}</name>{box}</object>" for name in ("boat", "ship") * 3)
        (root / "Annotations" / f"{i}.xml").write_text(f"<annotation>{objects}</annotation>")
    return [root / "Annotations" / "0.xml"]


def make_geotiff(root: Path, rng: np.random.Generator) -> list[Path]:
    """GeoTIFF chips of ten bands."""
    import rasterio

    for name in ("crop", "wood"):
        for i in range(4):
            path = root / name / f"{i}.tif"
            path.parent.mkdir(exist_ok=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with rasterio.open(
                    path, "w", driver="GTiff", width=9, height=8, count=4, dtype="uint8"
                ) as file:
                    file.write(rng.integers(0, 255, (4, 8, 9), dtype=np.uint8))
    return [root / "crop" / "0.tif"]


def read_geotiffs(root: Path) -> object:
    """Read the chips of :func:`make_geotiff`."""
    from deblora.data.decode import read_contents
    from deblora.data.readers.registry import read_chips

    chips = read_chips(root, format="geotiff")
    reasons = read_contents(chips).unreadable
    for reason in reasons.values():
        raise DebloraError(reason)
    return chips


def make_recipe(text: str) -> Callable[[Path, np.random.Generator], list[Path]]:
    """A recipe file."""

    def make(root: Path, _: np.random.Generator) -> list[Path]:
        (root / "recipe.yaml").write_text(text)
        return [root / "recipe.yaml"]

    return make


def read_classify(root: Path) -> object:
    """Read a recipe of classification."""
    from deblora.recipe.classify import read_recipe, recipe_from

    return recipe_from(read_recipe(root / "recipe.yaml"))


def read_detect(root: Path) -> object:
    """Read a recipe of detection."""
    from deblora.recipe.classify import read_recipe
    from deblora.recipe.detect import detection_recipe_from

    return detection_recipe_from(read_recipe(root / "recipe.yaml"))


def read_a_study(root: Path) -> object:
    """Read a study."""
    from deblora.recipe.study import read_study

    return read_study(root / "recipe.yaml")


def make_task1(root: Path, _: np.random.Generator) -> list[Path]:
    """Detections in a zip."""
    with zipfile.ZipFile(root / "task1.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Task1_ship.txt", "P0 0.9 1 1 9 1 9 9 1 9\n" * 20)
    return [root / "task1.zip"]


def make_task1_folder(root: Path, _: np.random.Generator) -> list[Path]:
    """Detections in a folder."""
    (root / "Task1_ship.txt").write_text("P0 0.9 1 1 9 1 9 9 1 9\n" * 20)
    return [root / "Task1_ship.txt"]


def read_detections(root: Path) -> object:
    """Read Task-1 files."""
    from deblora.detect.task1 import read_task1

    path = root / "task1.zip"
    return read_task1(path if path.is_file() else root)


def make_features(root: Path, rng: np.random.Generator) -> list[Path]:
    """Features, clusters, centers and targets."""
    from deblora.run.artifacts import Centers, Clusters, FeatureTable

    ids = tuple(f"c{i}" for i in range(6))
    FeatureTable(ids, rng.normal(size=(6, 4)).astype(np.float32), {}).save(root / "features.safetensors")
    Clusters(ids, np.zeros(6, dtype=np.int64), np.zeros((1, 4)), 2, 0.5).save(root / "clusters.safetensors")
    Centers(np.array([0]), np.zeros((1, 4)), np.ones((1, 1))).save(root / "centers.safetensors")
    return sorted(root.glob("*.safetensors"))


def read_artifacts(root: Path) -> object:
    """Read what :func:`make_features` wrote."""
    from deblora.run.artifacts import Centers, Clusters, FeatureTable

    return [
        kind.load(root / f"{name}.safetensors")
        for name, kind in (("features", FeatureTable), ("clusters", Clusters), ("centers", Centers))
    ]


def of_run(*names: str) -> Callable[[Path, np.random.Generator], list[Path]]:
    """Files of a finished run, which is copied."""

    def make(root: Path, _: np.random.Generator) -> list[Path]:
        shutil.copytree(RUN[0], root / "run")
        return [path for name in names for path in sorted((root / "run").glob(name))]

    return make


def open_model(root: Path) -> object:
    """Open a run for prediction, with its adapters."""
    from deblora.pipeline.classify.extract import open_adapted
    from deblora.pipeline.classify.predict import Predictor
    from deblora.recipe.classify import read_recipe, recipe_from
    from deblora.run.run_dir import RunDir

    run = RunDir.open(root / "run")
    predictor = Predictor.open(run, recipe_from(read_recipe(run.recipe)))
    return open_adapted(run, predictor.recipe, "deblora", trained=True)


def open_adapter(root: Path) -> object:
    """Export the adapters of a run."""
    from deblora.pipeline.classify.export import export

    return export(root / "run" / "adapters" / "lora", root / "out", kind=None, adapter="lora")


def report_of(root: Path) -> object:
    """Read all that the report over runs needs."""
    from deblora.pipeline.compare.merge import read_run

    return read_run(root / "run", "run")


RUN: list[Path] = []
CLASSIFY = """seed: 0
data:
  source: chips
  largest: 40
  imbalance_factor: 50
lora:
  rank: 4
  targets: [query, value]
"""
DETECT = """seed: 0
data:
  train: a
  val: b
  tile: 64
  overlap: 16
  groups: names
  head: [x]
method:
  name: lora
"""
STUDY = """base:
  data:
    source: chips
vary:
  lora.rank: [2, 4]
seeds: 2
"""
KINDS = (
    *map(picture, ("png", "jpg", "tif", "webp", "bmp", "gif", "npy")),
    Kind("npz", make_npz, lambda root: decoded(root / "chips.npz")),
    Kind("stacks of npy", make_stacks, decoded),
    Kind("list", make_list, lambda root: decoded(root / "list.csv")),
    Kind("parquet", make_parquet, lambda root: decoded(root / "chips.parquet")),
    Kind("dota", make_dota, decoded),
    Kind("voc", make_voc, decoded),
    Kind("geotiff", make_geotiff, read_geotiffs),
    Kind("recipe", make_recipe(CLASSIFY), read_classify),
    Kind("detection recipe", make_recipe(DETECT), read_detect),
    Kind("study", make_recipe(STUDY), read_a_study),
    Kind("task1 zip", make_task1, read_detections),
    Kind("task1 folder", make_task1_folder, read_detections),
    Kind("artifacts", make_features, read_artifacts),
)
KINDS_OF_A_RUN = (
    Kind(
        "model",
        of_run("run.json", "eval/choice.json", "classifiers/shipped/*", "audit/groups.json"),
        open_model,
    ),
    Kind("adapter", of_run("adapters/lora/*"), open_model),
    Kind("adapter to export", of_run("adapters/lora/*"), open_adapter),
    Kind("tables", of_run("run.json", "recipe.yaml", "eval/*.csv", "audit/*"), report_of),
)
"""Kinds that need a finished run, given by --run."""


def attempt(kind: Kind, rng: np.random.Generator) -> tuple[str, str]:
    """Return what came of one changed file: ``read``, ``refused`` or what is wrong, and the message."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = kind.make(root, rng)
        path = files[int(rng.integers(len(files)))]
        path.write_bytes(changed(path.read_bytes(), rng))
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        message, found = "", "read"
        try:
            kind.read(root)
        except DebloraError as error:
            found, message = "refused", str(error)
            if not message.strip() or len(message) > 5000:
                found = "a poor message"
        except Exception:
            found, message = "traceback", traceback.format_exc()
        seconds = time.perf_counter() - start
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if seconds > MOST_SECONDS:
            found = f"{seconds:.0f} seconds"
        if grown > MOST_BYTES:
            found = f"{grown / 2**30:.1f} GiB"
        half = [
            p.name for p in root.iterdir() if p.name.startswith(".") or p.name.endswith((".tmp", ".partial"))
        ]
        return (f"left {half[0]}" if half else found), message


def fuzz(n: int, *, seed: int, kinds: tuple[Kind, ...]) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Return how often each kind ended how, and the messages of faults."""
    logging.getLogger("deblora").setLevel(logging.ERROR)
    counts: Counter[tuple[str, str]] = Counter()
    faults = []
    for i in range(n):
        kind = kinds[i % len(kinds)]
        found, message = attempt(kind, np.random.default_rng([seed, i]))
        counts[kind.name, found] += 1
        if found not in ("read", "refused"):
            faults.append(f"--- {kind.name}, seed {seed}, number {i}: {found}\n{message}")
    return counts, faults


def main() -> None:
    """Try changed files of every kind and print what came of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=2400, help="files (default: 2400)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="a finished run of deblora run, for kinds that need one")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    kinds = KINDS
    if options.run:
        RUN.append(options.run.resolve())
        kinds = (*KINDS, *KINDS_OF_A_RUN)
    start = time.perf_counter()
    counts, faults = fuzz(options.n, seed=options.seed, kinds=kinds)
    print("\n".join(faults))
    table = {
        kind.name: {end: counts[kind.name, end] for name, end in counts if name == kind.name}
        for kind in kinds
    }
    print(json.dumps(table, indent=1))
    refused = sum(number for (_, end), number in counts.items() if end == "refused")
    print(f"{options.n} files, {refused} refused, {len(faults)} faults, {time.perf_counter() - start:.0f} s")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
