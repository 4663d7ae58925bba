"""Tables in shards give the rows of the table in memory; damaged shards are refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest

from deblora.debias.row_blocks import RowBlocks, blocks_of_rows
from deblora.errors import ArtifactError
from deblora.run.artifacts import FeatureTable, save_index

N, D = 23, 5
IDS = tuple(f"chip-{i:02d}" for i in range(N))


@pytest.fixture
def table(rng: np.random.Generator) -> FeatureTable:
    return FeatureTable(IDS, rng.standard_normal((N, D)).astype(np.float32), {"adapter": "lora"})


def write(folder: Path, table: FeatureTable, most: int) -> Path:
    parts = blocks_of_rows(N, most)
    shards = [folder / f"lora-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))]
    for path, rows in zip(shards, parts, strict=True):
        FeatureTable(table.ids[rows], table.features[rows], table.provenance).save(path)
    save_index(folder / "lora.index.json", shards)
    return folder / "lora.index.json"


@pytest.mark.parametrize("most", [1, 7, 23, 100])
def test_shards_give_the_rows_of_the_table(tmp_path: Path, table: FeatureTable, most: int) -> None:
    loaded = FeatureTable.load(write(tmp_path, table, most))
    assert loaded.ids == IDS and loaded.provenance == table.provenance
    assert isinstance(loaded.features, RowBlocks)
    assert loaded.features.shape == (N, D) and len(loaded.features) == N and loaded.features.size == N * D
    assert np.array_equal(np.asarray(loaded.features), table.features)
    for rows in (
        slice(0, 0),
        slice(5, 9),
        slice(3, 20),
        slice(-4, None),
        slice(20, 2, -3),
        np.array([22, 0, 7, 7, -1]),
        np.array([], dtype=np.int64),
        np.arange(N) % 3 == 0,
        6,
        -2,
    ):
        assert np.array_equal(loaded.features[rows], table.features[rows]), rows
    with pytest.raises(IndexError):
        loaded.features[np.array([N])]


def test_rows_and_views_are_matched_by_id(tmp_path: Path, table: FeatureTable) -> None:
    loaded = FeatureTable.load(write(tmp_path, table, 7))
    wanted = (IDS[20], IDS[3], IDS[4], IDS[5], IDS[13], IDS[14])
    expected = table.rows(wanted)
    assert type(loaded.rows(wanted)) is np.ndarray and np.array_equal(loaded.rows(wanted), expected)
    view = loaded.view(wanted)
    assert isinstance(view, RowBlocks) and view.shape == (6, D)
    assert np.array_equal(view[1:4], expected[1:4]) and np.array_equal(np.asarray(view), expected)
    assert np.array_equal(table.view(wanted), expected)  # in memory a view is the rows
    with pytest.raises(ArtifactError, match="1 chips have no features, first: nobody"):
        loaded.view(("nobody",))


def test_a_block_is_the_readers_own(tmp_path: Path, table: FeatureTable) -> None:
    loaded = FeatureTable.load(write(tmp_path, table, 7))
    block = loaded.features[2:6]
    block += 1
    assert np.array_equal(loaded.features[2:6], table.features[2:6])


def cut_off(folder: Path) -> None:
    path = folder / "lora-00002-of-00004.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def missing(folder: Path) -> None:
    (folder / "lora-00002-of-00004.safetensors").unlink()


def no_header(folder: Path) -> None:
    (folder / "lora-00002-of-00004.safetensors").write_bytes(b"\xff" * 40)


def other_width(folder: Path) -> None:
    ids = IDS[7:14]
    FeatureTable(ids, np.zeros((7, D + 1), dtype=np.float32)).save(folder / "lora-00002-of-00004.safetensors")


def other_ids(folder: Path) -> None:
    FeatureTable(IDS[:2], np.zeros((7, D), dtype=np.float32)).save(folder / "lora-00002-of-00004.safetensors")


@pytest.mark.parametrize("damage", [cut_off, missing, no_header, other_width, other_ids])
def test_damaged_shards_are_named(tmp_path: Path, table: FeatureTable, damage: object) -> None:
    index = write(tmp_path, table, 7)
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=r"lora-00002-of-00004\.safetensors is damaged"):
        FeatureTable.load(index)


@pytest.mark.parametrize("text", ["", "[]", '{"shards": []}', '{"shards": [{}]}', '{"shards": 3}'])
def test_a_damaged_index_is_named(tmp_path: Path, table: FeatureTable, text: str) -> None:
    index = write(tmp_path, table, 7)
    index.write_text(text)
    with pytest.raises(ArtifactError, match=r"lora\.index\.json is damaged"):
        FeatureTable.load(index)


def test_an_index_opens_no_file_elsewhere(tmp_path: Path, table: FeatureTable) -> None:
    (tmp_path / "run").mkdir()
    index = write(tmp_path / "run", table, 23)
    table.save(tmp_path / "other.safetensors")
    index.write_text(json.dumps({"shards": [{"file": "../other.safetensors"}]}))
    with pytest.raises(ArtifactError, match="is damaged"):
        FeatureTable.load(index)
