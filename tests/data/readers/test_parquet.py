"""Chips in Parquet files and in data sets of the hub."""

import io
import json
import pickle
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from data_builders import FakeHubSplit, encoded, fake_datasets
from deblora.data.readers.registry import read_chips
from deblora.data.sources import Reading
from deblora.errors import DataError


def png(value: int, mode: str = "L", kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (4, 3), value if mode in ("L", "P", "I;16") else (value,) * len(mode)).save(stream, kind)
    return stream.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def put_parquet(
    path: Path, images: list, labels: list, names: list[str] | None = None, **columns: list
) -> Path:
    table = pa.table({"image": images, "label": labels, **columns})
    if names is not None:
        features = {"info": {"features": {"label": {"names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=2)
    return path


def structs(*contents: bytes | None) -> list:
    return [{"bytes": content, "path": f"x/{i}.jpg"} for i, content in enumerate(contents)]


def test_parquet_folder_reads_any_row_by_content(tmp_path: Path) -> None:
    put_parquet(tmp_path / "train.parquet", structs(*[png(i) for i in range(5)]), [0, 1, 0, 1, 1], ["a", "b"])
    put_parquet(tmp_path / "test.parquet", structs(png(9, "RGB", "WEBP")), [1], ["a", "b"])
    chips = read_chips(tmp_path)
    assert (chips.class_names, chips.splits) == (("a", "b"), ("train",) * 5 + ("test",))
    assert chips.ids[3] == "train/3/x/3.jpg"
    assert [int(chips.pixels.read(i)[0, 0, 0]) for i in (4, 0, 2)] == [4, 0, 2]
    copy = pickle.loads(pickle.dumps(chips.pixels))
    assert copy.read(5).shape == (3, 4, 3)


def test_parquet_file_without_metadata_takes_names_from_labels(tmp_path: Path) -> None:
    chips = read_chips(
        put_parquet(tmp_path / "x.parquet", [png(1), png(2)], ["ship", "car"], split=["train", None])
    )
    assert (chips.class_names, chips.labels.tolist(), chips.splits) == (
        ("car", "ship"),
        [1, 0],
        ("train", ""),
    )
    chips = read_chips(put_parquet(tmp_path / "y.parquet", structs(png(1), png(2)), [10, 9]))
    assert (chips.class_names, chips.labels.tolist()) == (("9", "10"), [1, 0])


@pytest.mark.parametrize(
    ("images", "labels", "names", "message"),
    [
        (structs(png(1), png(1), None), [0, 1, 0], ["a", "b"], "image of row 2 is null"),
        ([png(1), png(1), None], [0, 1, 0], ["a", "b"], "image of row 2 is null"),
        (structs(png(1), png(1)), [0, None], ["a", "b"], "label of row 1 is missing"),
        (structs(png(1), png(1)), [0, 2], ["a", "b"], "label 2 of row 1 is none of the 2 classes"),
        (structs(png(1)), [0.5], None, "column label is double"),
        (["text"], [0], None, "column image is string"),
        (structs(png(1)), [0], ["a", "a"], "not distinct"),
    ],
)
def test_parquet_rows_that_are_refused(
    tmp_path: Path, images: list, labels: list, names: list[str] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_chips(put_parquet(tmp_path / "x.parquet", images, labels, names))


def test_parquet_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="damaged or no Parquet"):
        read_chips(put(tmp_path / "x.parquet", b"PAR1 nothing PAR1"))
    parquet.write_table(pa.table({"label": [1]}), tmp_path / "y.parquet")
    with pytest.raises(DataError, match="no column image"):
        read_chips(tmp_path / "y.parquet")
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())])
    parquet.write_table(schema.empty_table(), tmp_path / "z.parquet")
    with pytest.raises(DataError, match="no rows"):
        read_chips(tmp_path / "z.parquet")
    put_parquet(tmp_path / "d" / "train.parquet", structs(png(1)), [0], ["a", "b"])
    put_parquet(tmp_path / "d" / "val.parquet", structs(png(1)), [0], ["b", "a"])
    with pytest.raises(DataError, match="different classes"):
        read_chips(tmp_path / "d")
    with pytest.raises(DataError, match="does not exist"):
        read_chips(tmp_path / "nothing")


def test_missing_shards_are_refused_and_other_files_noted(tmp_path: Path) -> None:
    put_parquet(tmp_path / "train-00000-of-00002.parquet", structs(png(1)), [0], ["a", "b"])
    put_parquet(tmp_path / "test.parquet", structs(png(1)), [1], ["a", "b"])
    with pytest.raises(DataError, match="1 of 2 files of train are there"):
        read_chips(tmp_path)
    put_parquet(tmp_path / "train-00001-of-00002.parquet", structs(png(1)), [1], ["a", "b"])
    put_parquet(tmp_path / "more" / "train.parquet", structs(png(1)), [1], ["a", "b"])
    put_parquet(tmp_path / "train_part2.parquet", structs(png(1)), [1], ["a", "b"])
    chips = read_chips(tmp_path)
    assert chips.splits == ("train", "train", "test")
    assert chips.notes[0].startswith("2 Parquet files passed over, first: ")


def hub(monkeypatch: pytest.MonkeyPatch, columns: dict | None = None, names: list | None = None) -> None:
    columns = columns or {
        "image": [encoded(i) for i in range(3)],
        "label": [0, 1, 1],
        "scene": ["a", "b", "b"],
    }
    names = names or ["car", "ship"]
    splits = {"train": FakeHubSplit(columns, names), "validation": FakeHubSplit(columns, names)}
    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(splits))


def test_a_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch)
    chips = read_chips(Path("owner/ships"), format="hub", reading=Reading(unit="scene"))
    assert chips.class_names == ("car", "ship") and chips.labels.tolist() == [0, 1, 1, 0, 1, 1]
    assert chips.splits == ("train",) * 3 + ("val",) * 3 and chips.ids[3] == "validation/0000000"
    assert chips.pixels.read(5)[0, 0, 0] == 2 and chips.units[1] == "b"


def test_bad_sets_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the package datasets; install deblora\[hub\]"):
        read_chips(Path("owner/ships"), format="hub")
    hub(monkeypatch)
    with pytest.raises(DataError, match="owner/none: datasets cannot load it .*doesn't exist on the Hub"):
        read_chips(Path("owner/none"), format="hub")
    with pytest.raises(DataError, match=r"no column flight \(data\.unit\)"):
        read_chips(Path("owner/ships"), format="hub", reading=Reading(unit="flight"))
    hub(monkeypatch, {"text": ["a"]})
    with pytest.raises(DataError, match="no columns image and label; found: text"):
        read_chips(Path("owner/ships"), format="hub")
    hub(monkeypatch, {"image": [encoded(0)], "label": [-1]})
    with pytest.raises(DataError, match="labels span -1 to -1"):
        read_chips(Path("owner/ships"), format="hub")
    hub(monkeypatch, {"image": [{"bytes": None, "path": str(tmp_path / "gone.png")}], "label": [0]})
    with pytest.raises(DataError, match="train/0000000: cannot be read"):
        read_chips(Path("owner/ships"), format="hub").pixels.read(0)
