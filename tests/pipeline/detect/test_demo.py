"""The simulated scenes of the demo of detection."""

from pathlib import Path

import pytest

from deblora.data.scenes.labeled_images import read_detection_set
from deblora.errors import ArtifactError
from deblora.pipeline.detect.demo import N_TAIL, scene_settings, write_scenes


def small(seed: int = 0) -> dict[str, object]:
    return scene_settings(seed) | {"n_scenes": (4, 2, 0), "largest": 12, "balanced": 1}


def test_scenes_are_a_detection_set_with_a_long_tail(tmp_path: Path) -> None:
    write_scenes(tmp_path, small())
    found = read_detection_set(tmp_path / "train")
    assert len(found.names) == 4
    assert not (tmp_path / "test").exists()
    seen = [name for entry in found.labels.values() for name in entry.class_names]
    names = scene_settings(0)["class_names"]
    assert seen.count(names[0]) > max(seen.count(name) for name in names[-N_TAIL:])


def test_scenes_are_written_once_and_other_settings_refused(tmp_path: Path) -> None:
    write_scenes(tmp_path, small())
    path = next(tmp_path.rglob("*.png"))
    before = path.stat().st_mtime_ns
    write_scenes(tmp_path, small())
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ArtifactError, match="other settings"):
        write_scenes(tmp_path, small(seed=1))
