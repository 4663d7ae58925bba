"""Chips of studies: drawn once, whole or not at all."""

from pathlib import Path

import pytest
from PIL import Image

from deblora.data.readers.registry import read_chips
from deblora.data.simulate.chip_folder import Simulation, draw_chips, simulated_folder
from deblora.data.simulate.chips import CLASS_NAMES

SMALL = Simulation(largest=3, imbalance_factor=3, n_val=1, n_test=1, chip_size=16)


def test_chips_are_a_long_tailed_folder(tmp_path: Path) -> None:
    folder = draw_chips(tmp_path, SMALL, seed=0)
    chips = read_chips(folder, format="folder")
    counts = [sum(name == CLASS_NAMES[i] for name in _names(chips)) for i in (0, -1)]
    assert counts == [3, 1]
    assert set(chips.splits) == {"train", "val", "test"}


def _names(chips) -> list[str]:
    train = chips.split("train")
    return [chips.class_names[label] for label in train.labels]


def test_chips_are_drawn_once(tmp_path: Path) -> None:
    folder = draw_chips(tmp_path, SMALL, seed=0)
    chip = next(folder.rglob("*.png"))
    chip.unlink()
    assert draw_chips(tmp_path, SMALL, seed=0) == folder
    assert not chip.exists()


def test_a_killed_drawing_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            draw_chips(tmp_path, SMALL, seed=0)
    assert not simulated_folder(tmp_path, SMALL, seed=0).exists()
    assert len(list(draw_chips(tmp_path, SMALL, seed=0).rglob("*.png"))) > 3 * len(CLASS_NAMES) - 1


def test_settings_and_seeds_have_their_own_folder(tmp_path: Path) -> None:
    other = Simulation(largest=4, imbalance_factor=3, n_val=1, n_test=1, chip_size=16)
    assert len({simulated_folder(tmp_path, s, seed=k) for s in (SMALL, other) for k in (0, 1)}) == 4
