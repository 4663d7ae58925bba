"""Choosing on validation: the best wins, its gain is not flattered, and the parts left out are the parts left out."""

import numpy as np
import pytest

from deblora.evaluate.choice import choose, left_out
from deblora.evaluate.metrics import macro_f1


def guesses(rng: np.random.Generator, y: np.ndarray, right: float) -> np.ndarray:
    return np.where(rng.random(len(y)) < right, y, rng.integers(0, y.max() + 1, len(y)))


def test_the_best_is_chosen_and_its_gain_is_that_of_new_samples(rng: np.random.Generator) -> None:
    y = np.repeat(np.arange(5), 200)
    predicted = {"plain": guesses(rng, y, 0.5), "good": guesses(rng, y, 0.7), "bad": guesses(rng, y, 0.3)}
    choice = choose(predicted, y, 5, reference="plain", rng=rng)
    assert choice.name == "good" and choice.share > 0.99
    assert choice.scores["good"] == macro_f1(y, predicted["good"], 5)
    assert 0.1 < choice.ci_lower < choice.gain < choice.ci_upper < 0.3


def test_among_many_equal_candidates_no_gain_is_promised(rng: np.random.Generator) -> None:
    y = np.repeat(np.arange(4), 10)
    flattered, stated = [], []
    for _ in range(30):
        predicted = {i: guesses(rng, y, 0.5) for i in range(20)}
        choice = choose(predicted, y, 4, reference=0, rng=rng, n_draws=100)
        flattered.append(choice.scores[choice.name] - choice.scores[0])
        stated.append(choice.gain)
    assert np.mean(flattered) > 0.1  # what the validation scores themselves would promise
    assert abs(np.mean(stated)) < 0.35 * np.mean(flattered)


def test_the_first_candidate_wins_ties(rng: np.random.Generator) -> None:
    y = np.arange(3).repeat(4)
    choice = choose({"a": y, "b": y}, y, 3, reference="b", rng=rng, n_draws=50)
    assert choice.name == "a" and choice.gain == 0.0


def test_left_out_is_the_complement() -> None:
    draws = np.array([[0, 0, 2], [1, 1, 1]])
    assert left_out(draws, 3).tolist() == [[-1, 1, -1], [0, -1, 2]]


def test_an_unknown_reference_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="no candidate"):
        choose({"a": np.zeros(2, dtype=int)}, np.zeros(2, dtype=int), 2, reference="b", rng=rng)
