"""What to label next: every strategy proposes free samples that are no copies; half-sure helps rare classes most."""

import numpy as np
import pytest

from deblora.evaluate.suggest import STRATEGIES, UNLIKE, Strategy, propose, suggest

N_LABELED, N_POOL = (60, 12, 3), (400, 80, 20)


def blobs(rng: np.random.Generator, counts: tuple[int, ...], d: int = 12) -> tuple[np.ndarray, np.ndarray]:
    centers = np.random.default_rng(1).normal(size=(len(counts), d)) * 0.7
    y = np.repeat(np.arange(len(counts)), counts)
    return centers[y] + rng.normal(size=(len(y), d)), y


@pytest.fixture
def problem(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return *blobs(rng, N_LABELED), *blobs(rng, N_POOL)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_chooses_as_many_as_asked_once_each(
    problem: tuple[np.ndarray, ...], strategy: Strategy
) -> None:
    x, y, pool, _ = problem
    found, again = (suggest(x, y, pool, 30, strategy=strategy, seed=3) for _ in range(2))
    assert len(set(found.indices.tolist())) == 30 and set(found.classes.tolist()) <= {0, 1, 2}
    assert ((found.probabilities >= 0) & (found.probabilities <= 1)).all()
    np.testing.assert_array_equal(found.indices, again.indices)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_copies_of_known_and_chosen_samples_are_never_proposed(
    problem: tuple[np.ndarray, ...], strategy: Strategy
) -> None:
    x, y, pool, _ = problem
    pool = np.vstack([x[:10], pool[:8], pool[:8] * (1 + 1e-5), pool[:8]])  # labeled ones, and three of each
    found = suggest(x, y, pool, 34, strategy=strategy)
    assert len(found.indices) == 8 and set((found.indices[found.indices >= 10] - 10) % 8) == set(range(8))


def test_half_sure_and_rare_first_find_more_rare_samples_than_random(problem: tuple[np.ndarray, ...]) -> None:
    x, y, pool, truth = problem
    rare = {
        strategy: np.mean(
            [(truth[suggest(x, y, pool, 12, strategy=strategy, seed=s).indices] == 2).sum() for s in range(3)]
        )
        for strategy in ("half-sure", "rare-first", "random")
    }
    assert rare["half-sure"] >= 3 and rare["rare-first"] >= 3 and rare["random"] < 2, rare


def test_half_sure_by_hand(rng: np.random.Generator) -> None:
    pool = np.eye(5)
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.45, 0.55], [0.2, 0.8], [0.05, 0.95]])
    counts = np.array([3, 1])
    found = propose(
        np.log(p) - np.log(counts / 4),
        pool,
        3,
        temperature=1.0,
        counts=counts,
        known=-np.ones((1, 5)),
        rng=rng,
    )
    # Class 1 needs most: nearest to one half is 2 (.55), then 1 (.4); then both have 3: the first class, .6 is gone, so .2.
    assert found.indices.tolist() == [2, 1, 3] and found.classes.tolist() == [1, 1, 0]
    np.testing.assert_allclose(found.probabilities, [0.55, 0.4, 0.2], rtol=1e-5)
    failed = propose(
        np.log(p) - np.log(counts / 4), pool, 1, temperature=1.0, counts=counts, known=-np.ones((1, 5)),
        failed=np.array([0, 6]), rng=rng,
    )  # fmt: skip
    assert failed.classes.tolist() == [0]  # six failed proposals count three labels


def test_a_hidden_class_is_found_by_what_is_unlike_all_others(rng: np.random.Generator) -> None:
    x, y = blobs(rng, (60, 30, 20, 0))
    pool, truth = blobs(rng, (300, 100, 60, 15))
    pool[truth == 3] += 4
    found = suggest(x, y, pool, 10, n_unlike=5)
    assert found.classes[:5].tolist() == [UNLIKE] * 5 and (found.classes[5:] != UNLIKE).all()
    assert (truth[found.indices[:5]] == 3).sum() >= 4


def test_large_pools_take_seconds(rng: np.random.Generator) -> None:
    x, y = blobs(rng, N_LABELED)
    pool, _ = blobs(rng, (90_000, 9_000, 1_000))
    for strategy in STRATEGIES:
        if strategy != "typiclust":  # its clusters take longer
            assert len(suggest(x, y, pool, 20, strategy=strategy).indices) == 20


def test_wrong_arguments_are_refused(problem: tuple[np.ndarray, ...]) -> None:
    x, y, pool, _ = problem
    with pytest.raises(ValueError, match="known are apart, half-sure"):
        suggest(x, y, pool, 3, strategy="best")  # type: ignore[arg-type]
    for numbers in ({"n": 0}, {"n": 2, "n_unlike": 3}):
        with pytest.raises(ValueError, match="allowed"):
            suggest(x, y, pool, **numbers)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="differ"):
        propose(
            np.zeros((4, 2)),
            pool,
            1,
            temperature=1.0,
            counts=np.array([1, 1]),
            known=x,
            rng=np.random.default_rng(),
        )
