"""A small part of the damaged and hostile files that `make fuzz` tries: none ends in anything but one clear message."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "scripts" / "fuzz.py"
spec = importlib.util.spec_from_file_location("fuzz_script", PATH)
assert spec and spec.loader
script = importlib.util.module_from_spec(spec)
sys.modules["fuzz_script"] = script
spec.loader.exec_module(script)


@pytest.mark.filterwarnings("ignore")
def test_no_changed_file_ends_in_a_fault() -> None:
    counts, faults = script.fuzz(12 * len(script.KINDS), seed=7, kinds=script.KINDS)
    assert not faults, faults[0]
    ends = {end for _, end in counts}
    assert ends == {"read", "refused"}
    refused = {kind for kind, end in counts if end == "refused"}
    assert len(refused) > 0.8 * len(script.KINDS)


def test_faults_are_seen() -> None:
    def broken(_: Path) -> object:
        raise KeyError("no message for people")

    kind = script.Kind("broken", script.make_task1_folder, broken)
    counts, faults = script.fuzz(3, seed=0, kinds=(kind,))
    assert counts["broken", "traceback"] == 3 and "KeyError" in faults[0]


def test_changes_repeat_with_the_seed() -> None:
    content = bytes(range(200))
    one, other = (script.changed(content, np.random.default_rng(5)) for _ in range(2))
    assert one == other and one != content
