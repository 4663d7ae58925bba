"""Chips without labels: every source gives the same pixels, labels in it are not read, and faults are named."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deblora.data.decode import unreadable
from deblora.data.readers.registry import OfKind, read_unlabeled
from deblora.errors import DataError

N = 5
CHIPS = np.random.default_rng(0).integers(0, 256, (N, 6, 7, 3)).astype(np.uint8)


def png(chip: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(chip).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, chip in enumerate(CHIPS):
        path = tmp_path / "chips" / f"c {i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(chip))
    return tmp_path / "chips"


def in_order(folder: Path) -> list[str]:
    return [f"c {i % 2}/{i}.png" for i in range(N)]


def write_list(folder: Path) -> Path:
    lines = ["label,path,note", *(f'"",{path},"a, b"' for path in in_order(folder))]
    (folder / "list.csv").write_text("\n".join(lines))
    return folder / "list.csv"


def write_tsv(folder: Path) -> Path:
    (folder / "list.tsv").write_text("\n".join(["path", *in_order(folder)]))
    return folder / "list.tsv"


def write_text(folder: Path) -> Path:
    (folder / "list.txt").write_text("\n".join(in_order(folder)) + "\n\n")
    return folder / "list.txt"


def write_labeled_text(folder: Path) -> Path:
    (folder / "list.txt").write_text("\n".join(f"{path} {i}" for i, path in enumerate(in_order(folder))))
    return folder / "list.txt"


def write_npz(folder: Path) -> Path:
    np.savez(folder / "a.npz", train_images=CHIPS[:3], test_images=CHIPS[3:], train_labels=np.zeros(1))
    return folder / "a.npz"


def write_stack(folder: Path) -> Path:
    np.save(folder / "a.npy", CHIPS)
    return folder / "a.npy"


def write_arrays(folder: Path) -> Path:
    (folder / "arrays").mkdir()
    np.save(folder / "arrays" / "images.npy", CHIPS)
    np.save(folder / "arrays" / "labels.npy", np.array([{}], dtype=object), allow_pickle=True)
    return folder / "arrays"


def write_parquet(folder: Path, **columns: list) -> Path:
    import pyarrow
    from pyarrow import parquet

    images = [{"bytes": png(chip), "path": f"{i}.png"} for i, chip in enumerate(CHIPS)]
    (folder / "tables").mkdir()
    for part in (slice(0, 2), slice(2, N)):
        table = pyarrow.table({"image": images[part], **{k: v[part] for k, v in columns.items()}})
        parquet.write_table(table, folder / "tables" / f"part-{part.start}.parquet", row_group_size=2)
    return folder / "tables"


def write_labeled_parquet(folder: Path) -> Path:
    return write_parquet(folder, label=[None] * N, split=["nowhere"] * N)


@pytest.mark.parametrize(
    "write",
    [
        write_list,
        write_tsv,
        write_text,
        write_labeled_text,
        write_npz,
        write_stack,
        write_arrays,
        write_parquet,
        write_labeled_parquet,
    ],
)
def test_every_source_gives_the_same_pixels_and_no_label(write, folder: Path) -> None:
    ids, pixels = read_unlabeled(write(folder))
    assert len(set(ids)) == len(ids) == len(pixels) == N
    np.testing.assert_array_equal(np.stack([pixels.read(i) for i in range(N)]), CHIPS)
    assert unreadable(pixels) == {}


def test_a_folder_is_read_at_any_depth_whatever_its_names(folder: Path) -> None:
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    ids, pixels = read_unlabeled(folder)
    assert ids == ("c 0/0.png", "c 0/2.png", "c 0/4.png", "c 1/1.png", "c 1/3.png")
    np.testing.assert_array_equal(pixels.read(3), CHIPS[1])


def test_one_array_is_one_chip(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", CHIPS[0])
    ids, pixels = read_unlabeled(tmp_path / "one.npy")
    assert ids == ("one.npy",) and pixels.read(0).shape == CHIPS[0].shape


def test_what_cannot_be_used_is_named_with_its_reason(tmp_path: Path) -> None:
    Image.fromarray(CHIPS[0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(png(CHIPS[0])[:40])
    np.save(tmp_path / "c.npy", CHIPS[0].astype(np.uint16))
    np.save(tmp_path / "d.npy", np.zeros((4, 4, 2), dtype=np.uint8))
    ids, pixels = read_unlabeled(tmp_path)
    reasons = unreadable(OfKind(pixels, ids, ("uint8",), frozenset({1, 3})))
    assert list(reasons) == [1, 2, 3]
    for reason, words in zip(
        reasons.values(),
        ("unreadable image", "are uint16", "2 bands, the model was trained on chips with 1 or 3"),
        strict=True,
    ):
        assert words in reason


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "file\nx.png\n", "a.csv:1: the header must be path, or path,label; got file"),
        ("a.csv", "path\nx.png\n", "a.csv:2: x.png does not exist below"),
        ("a.csv", "path\n../x.png\n", "a.csv:2: ../x.png leaves the folder"),
        ("a.csv", "path\n", "has no rows"),
        ("a.txt", "x.png 1\n", "a.txt:1: x.png does not exist below"),
        ("a.txt", "/etc/hostname\n", "leaves"),
        ("a.txt", "\n", "has no rows"),
        ("a.npz", "no zip", "no .npz file"),
        ("a.npy", "no array", "cannot be read"),
        ("a.parquet", "no table", "no Parquet file"),
        ("a.zip", "x", "deblora detect chips"),
        ("a.doc", "x", "has no suffix of chips"),
    ],
)
def test_bad_sources(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        read_unlabeled(tmp_path / name)
    assert message in str(caught.value)


def test_arrays_and_tables_without_images_are_refused(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    np.savez(tmp_path / "a.npz", pictures=CHIPS)
    with pytest.raises(DataError, match="no images; expected an array images"):
        read_unlabeled(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", images=CHIPS[0, 0])
    with pytest.raises(DataError, match=r"images has the shape \(7, 3\)"):
        read_unlabeled(tmp_path / "b.npz")
    parquet.write_table(pyarrow.table({"label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column image \(found: label\)"):
        read_unlabeled(tmp_path / "a.parquet")


def test_a_null_image_of_a_table_is_one_chip_that_cannot_be_read(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"image": [png(CHIPS[0]), None]}), tmp_path / "a.parquet")
    ids, pixels = read_unlabeled(tmp_path / "a.parquet")
    assert ids == ("a/0", "a/1") and list(unreadable(pixels)) == [1]
