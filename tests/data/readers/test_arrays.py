"""Chips in NumPy files."""

from pathlib import Path

import numpy as np
import pytest

from builders import COUNTS
from data_builders import arrays
from deblora.data.readers.registry import read_chips
from deblora.data.sources import Reading
from deblora.errors import DataError

FEW = {"checks": 2, "rows": 2}


def test_an_npz_with_names_and_splits(tmp_path: Path) -> None:
    values = arrays()
    n = len(values["images"])
    np.savez_compressed(tmp_path / "a.npz", **values, splits=np.array(["train", "valid"] * (n // 2)))
    chips = read_chips(tmp_path / "a.npz")
    assert (
        chips.class_names == tuple(COUNTS)
        and chips.splits[:2] == ("train", "val")
        and chips.ids[1] == "000001"
    )
    assert np.bincount(chips.labels).tolist() == list(COUNTS.values())
    assert np.array_equal(chips.pixels.read(7), values["images"][7])


def test_split_arrays_and_folders_of_npy_files(tmp_path: Path) -> None:
    values = arrays(counts=FEW)
    parts = {f"{s}_{k}": values[k] for s in ("train", "val", "test") for k in ("images", "labels")}
    np.savez(tmp_path / "m.npz", **parts)
    chips = read_chips(tmp_path / "m.npz")
    assert (
        chips.ids[-1] == "test/000003" and chips.splits.count("val") == 4 and chips.class_names == ("0", "1")
    )
    folder = tmp_path / "f"
    folder.mkdir()
    np.save(folder / "images.npy", values["images"][..., 0].astype(np.float32))
    np.save(folder / "labels.npy", np.array(["ship", "ship", "car", "car"]))
    chips = read_chips(folder)
    assert chips.class_names == ("car", "ship") and chips.pixels.read(0).shape == (16, 16, 1)
    (tmp_path / "names.txt").write_text("zero\none\nnobody\n")
    named = read_chips(tmp_path / "m.npz", reading=Reading(class_names=str(tmp_path / "names.txt")))
    assert named.class_names == ("zero", "one", "nobody")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "no array images"),
        ({"labels": None}, "no array labels"),
        ({"labels": np.zeros(3)}, "labels is float64"),
        ({"labels": np.zeros(3, dtype=int)}, "3 labels"),
        ({"labels": np.full(4, -1)}, "negative labels"),
        ({"images": np.zeros((4, 8), dtype=np.uint8)}, r"images has the shape \(4, 8\)"),
        ({"images": np.array([{}, {}, {}, {}])}, "images cannot be read .*no objects"),
        ({"splits": np.array(["train", "foo", "", ""])}, "it holds 'foo'"),
        ({"splits": np.array(["train"])}, "it holds 1 entries"),
        ({"class_names": np.array(["only"])}, "the label 1 has no class name"),
        ({"class_names": np.array(["a", "a"])}, "two classes have the same name"),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    values = {**arrays(counts=FEW), **change}
    path = tmp_path / "a.npz"
    np.savez(path, allow_pickle=True, **{key: value for key, value in values.items() if value is not None})
    with pytest.raises(DataError, match=message):
        read_chips(path)


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DataError, match=r"a\.npz: damaged or no \.npz"):
        read_chips(path)
    np.savez(path, **arrays(counts=FEW))
    content = bytearray(path.read_bytes())
    content[200:260] = b"x" * 60
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: the array .* cannot be read"):
        read_chips(path)


def test_an_array_that_unpacks_to_a_hundred_times_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deblora.data.readers import arrays as module

    monkeypatch.setattr(module, "_BOMB_BYTES", 10_000)
    np.savez_compressed(
        tmp_path / "a.npz", images=np.zeros((4, 200, 200), dtype=np.uint8), labels=np.arange(4)
    )
    with pytest.raises(DataError, match=r"a\.npz: images\.npy unpacks from .* to 160128 bytes"):
        read_chips(tmp_path / "a.npz")
