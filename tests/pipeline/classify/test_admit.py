"""Which chips belong to an image, by their names; copies by their looks."""

import numpy as np
import pytest

from deblora.data.near_copies import thumbnail
from deblora.pipeline.classify.additions import AddedChip
from deblora.pipeline.classify.admit import _is_of, _Seen


@pytest.mark.parametrize(
    ("chip", "unit", "expected"),
    [
        ("P0001.png", "P0001", True),
        ("P0001__1__0___512.png", "P0001.tif", True),
        ("tiles/P0001-7.png", "P0001", True),
        ("P0001/7.png", "P0001", True),
        ("scenes/P0001.png", "scenes/P0001.png", True),
        ("P00012.png", "P0001", False),
        ("xP0001.png", "P0001", False),
        ("other/7.png", "P0001", False),
    ],
)
def test_a_chip_is_of_the_image_that_its_name_says(chip: str, unit: str, expected: bool) -> None:
    assert _is_of(AddedChip("", chip, f"/pool/{chip}", "/pool", "ship", ""), unit) is expected


def test_turned_and_resized_chips_are_known(rng: np.random.Generator) -> None:
    chips = [rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(4)]
    known = np.stack([thumbnail(chip) for chip in chips[:2]])
    seen = _Seen({}, ("a", "b"), known)
    flat = np.full((32, 32, 1), 7, np.uint8)
    new = [
        chips[3],
        np.rot90(chips[1]).repeat(3, axis=0).repeat(3, axis=1),
        chips[0][:, ::-1],
        chips[2],
        flat,
    ]
    assert seen.copies([thumbnail(chip) for chip in new]) == {1: "b", 2: "a"}
    assert _Seen().copies([thumbnail(chips[0])]) == {}
