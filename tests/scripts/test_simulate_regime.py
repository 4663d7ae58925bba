"""The simulation of the paper's regime: what tail classes hide in training they show in the test."""

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest

from conftest import REPOSITORY_ROOT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = REPOSITORY_ROOT / "scripts" / "simulate_regime.py"
    spec = importlib.util.spec_from_file_location("simulate_regime", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("coverage", "n_shown"), [(0.01, 1), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_tail_classes_show_their_share_of_the_attributes(
    script: ModuleType, coverage: float, n_shown: int
) -> None:
    shown = script.World(np.random.default_rng(0)).shown(coverage)
    assert (shown[list(script.GROUPS.tail)].sum(axis=1) == n_shown).all()
    assert shown[[*script.GROUPS.head, *script.GROUPS.middle]].all()


def test_samples_scatter_about_the_mean_of_class_attribute_and_interaction(script: ModuleType) -> None:
    rng = np.random.default_rng(1)
    world = script.World(rng)
    shown = np.zeros((script.N_CLASSES, script.N_ATTRIBUTES), dtype=bool)
    shown[:, 3] = True  # one attribute only, so every class has one mean
    counts = np.full(script.N_CLASSES, 4000)
    drawn = world.draw(counts, shown, rng)
    for c in (0, 14):
        own = drawn.x[drawn.y == c]
        expected = world.classes[c] + world.attributes[3] + world.interactions[c, 3]
        np.testing.assert_allclose(own.mean(axis=0), expected, atol=5 / np.sqrt(4000))
        np.testing.assert_allclose(own.std(axis=0), 1.0, atol=0.07)


def test_hidden_attributes_cost_the_tail(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "ROWS", ("none", "shift"))
    monkeypatch.setattr(
        script, "exponential_counts", lambda n, **_: np.linspace(400, 60, n).round().astype(np.int64)
    )
    seen, hidden = (
        {(row["features"], row["classifier"]): row for row in script.scores(0, coverage)}
        for coverage in (1.0, 0.125)
    )
    assert set(seen) == {(row, loss) for row in script.ROWS for loss in ("cross_entropy", "balanced_softmax")}
    for name in seen:
        assert seen[name]["tail"] > hidden[name]["tail"] + 5
        assert abs(seen[name]["head"] - hidden[name]["head"]) < 15
