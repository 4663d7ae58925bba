"""The folders of the benchmark of the default: long tails as asked for, a test apart from them."""

from pathlib import Path

import numpy as np
import pytest

from conftest import REPOSITORY_ROOT
from deblora.data.chips import ArrayPixels, ChipSet


def test_a_folder_has_a_long_tail_and_a_test_of_other_chips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY_ROOT / "benchmarks"))
    import own_folders

    n, names = 4 * 60, ("a", "b", "c/d", "dont-care")
    labels = np.repeat(np.arange(4), 60)
    arrays = [np.full((4, 4, 1), i, dtype=np.uint8) for i in range(n)]
    ids = tuple(str(i) for i in range(n))
    chips = ChipSet(ids, labels, ("",) * n, names, ArrayPixels(arrays, ids))
    own_folders.draw(chips, tmp_path / "x", own_folders.Folder("-", 30, 10, 0, 24, "[8]", 10))
    found = {
        split: {
            path.name: {own.name for own in path.iterdir()} for path in (tmp_path / "x" / split).iterdir()
        }
        for split in ("train", "test")
    }
    assert sorted(len(own) for own in found["train"].values()) == [3, 9, 30]
    assert set(found["train"]) == set(found["test"]) == {"a", "b", "c-d"}
    assert all(len(own) == 8 for own in found["test"].values())
    assert not any(found["train"][name] & found["test"][name] for name in found["train"])
    assert set(own_folders.FROM_DATA) | set(own_folders.SIMULATED) == {
        *("aid-a", "aid-b", "mstar-a", "mstar-b", "hit-uav", "opensarship"),
        *("simulated-sar", "simulated-optical"),
    }
