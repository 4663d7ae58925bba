"""Tiles and chips on disk."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deblora.cli.main import main
from deblora.data.scenes.labeled_images import object_counts, read_detection_set
from deblora.detect.tiling import each_once, parse_tile_name, to_scene
from deblora.errors import ArtifactError, DataError
from deblora.pipeline.detect.prepare import cut_chips, tile_set
from toy_scenes import NAMES, write_split


@pytest.fixture
def large(tmp_path: Path) -> Path:
    write_split(tmp_path / "large", "train", seed=0, size=150)
    return tmp_path / "large"


def test_tiles_lead_back_to_the_scene(large: Path, tmp_path: Path) -> None:
    counts = tile_set(large, tmp_path / "tiles", size=64, overlap=40, rates=(0.5, 1.0))
    tiles, scenes = read_detection_set(tmp_path / "tiles"), read_detection_set(large)
    assert counts["n_tiles"] == len(tiles.names) > counts["n_scenes"] == len(scenes.names)
    seen = {name: set() for name in scenes.names}
    for name in tiles.names:
        scene, rate, x, y = parse_tile_name(name)
        assert tiles.files.open(name).read(0, 0, 64, 64).shape == (64, 64, 3)
        for quad in to_scene(tiles.labels[name].quads, x, y, rate=rate):
            gaps = np.abs(scenes.labels[scene].quads - quad).max(axis=(1, 2))
            assert gaps.min() < 1e-6
            seen[scene].add(int(gaps.argmin()))
        assert tiles.labels[name].gsd == pytest.approx(0.5 / rate)
    assert all(rows == set(range(len(scenes.labels[name].quads))) for name, rows in seen.items())


def test_tiling_goes_on_and_skips_what_is_finished(large: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiles"
    first = tile_set(large, out, size=64, overlap=16)
    manifest = json.loads((out / "tiles.json").read_text())
    content = {path.name: path.read_bytes() for path in (out / "images").iterdir()}
    again = tile_set(large, out, size=64, overlap=16)
    assert again == {**first, "n_new": 0} and json.loads((out / "tiles.json").read_text()) == manifest
    lost = next(iter(manifest["scenes"]))
    del manifest["scenes"][lost]  # as if killed before this scene
    (out / "tiles.json").write_text(json.dumps(manifest))
    assert tile_set(large, out, size=64, overlap=16) == {**first, "n_new": 1}
    assert {path.name: path.read_bytes() for path in (out / "images").iterdir()} == content
    with pytest.raises(ArtifactError, match="other settings"):
        tile_set(large, out, size=64, overlap=20)
    with pytest.raises(DataError, match="overlap"):
        tile_set(large, tmp_path / "new", size=64, overlap=64)


def test_objects_of_overlapping_tiles_are_counted_once(
    large: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "tiles"
    counts = tile_set(large, out, size=64, overlap=40, rates=(0.5, 1.0))
    found = read_detection_set(out).labels
    assert counts["n_objects"] == sum(object_counts(found.values(), NAMES)) > 17
    once = each_once(out, found)
    assert set(once) == set(found) and object_counts(once.values(), NAMES).tolist() == [9, 5, 3]
    assert (
        each_once(large, read_detection_set(large).labels).keys() == read_detection_set(large).labels.keys()
    )
    full = next(name for name, entry in found.items() if len(entry.quads))
    (out / "labelTxt" / f"{full}.txt").write_text("")
    changed = read_detection_set(out).labels
    assert object_counts(each_once(out, changed).values(), NAMES).sum() == counts["n_objects"] - len(
        found[full].quads
    )
    assert full in caplog.text
    (out / "objects.csv").write_text("scene,thing\na,b\n")
    with pytest.raises(DataError, match="objects.csv is damaged"):
        each_once(out, found)


def test_chips_are_a_folder_per_class(scenes: Path, tmp_path: Path) -> None:
    counts = cut_chips(scenes / "train", tmp_path / "chips")
    assert counts == dict(zip(NAMES, (9, 5, 3), strict=True))
    for name in NAMES:
        paths = list((tmp_path / "chips" / name).iterdir())
        assert len(paths) == counts[name]
        with Image.open(paths[0]) as chip:
            middle = np.asarray(chip)[chip.height // 2, chip.width // 2]
        assert middle.argmax() == NAMES.index(name) and middle.max() == 240
    with pytest.raises(ArtifactError, match="not empty"):
        cut_chips(scenes / "train", tmp_path / "chips")
    with pytest.raises(DataError, match="context"):
        cut_chips(scenes / "train", tmp_path / "other", context=0.5)


def test_the_commands(large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["detect", "tile", str(large), "--out", str(tmp_path / "t"), "--size", "64", "--overlap", "16"])
        == 0
    )
    assert "9 scenes (9 cut now)" in capsys.readouterr().out
    assert main(["detect", "chips", str(large), "--out", str(tmp_path / "c"), "--ignore", "square"]) == 0
    assert "square" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "advice"),
    [("tile", "then give the command again\n"), ("chips", "then give the command again with a new folder\n")],
)
def test_a_full_disk_is_told_how_to_go_on(
    command: str,
    advice: str,
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert main(["detect", command, str(scenes / "train"), "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "No space left on device; free space, " + advice in message and "--resume" not in message
