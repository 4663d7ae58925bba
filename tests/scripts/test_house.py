"""The layout keeps to its limits, and every module says what it is."""

import runpy

import pytest

from conftest import REPOSITORY_ROOT

HOUSE = runpy.run_path(str(REPOSITORY_ROOT / "scripts" / "house.py"))
MOST_MODULES, MOST_LINES = 200, 39_500


def test_the_package_does_not_grow_beyond_its_limits() -> None:
    counts = HOUSE["counts"]()
    assert counts["modules"] <= MOST_MODULES
    assert counts["lines"] <= MOST_LINES
    assert counts["root_folders"] == 11
    assert counts["root_modules"] <= 6


@pytest.mark.parametrize("path", HOUSE["modules"](), ids=lambda path: str(path.relative_to(HOUSE["PACKAGE"])))
def test_every_module_says_in_one_line_what_it_is(path: object) -> None:
    line = HOUSE["summary_line"](path)
    assert 10 < len(line) <= 118
    assert line.endswith(".")


def test_the_map_has_every_module() -> None:
    printed = HOUSE["package_map"]()
    assert all(path.name in printed for path in HOUSE["modules"]() if path.name != "__init__.py")
