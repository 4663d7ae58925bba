"""The table of methods: one name each, and everything it names exists."""

import pytest

from deblora.debias.variants import VARIANTS
from deblora.errors import RecipeError
from deblora.evaluate.classifiers.names import CLASSIFIERS, FLOOR, ON_REQUEST
from deblora.recipe.methods import (
    FLOORS,
    GAUSSIANS,
    GUARDED,
    METHODS,
    OWN_LOGITS,
    PLAIN,
    PSEUDO_LABELED,
    SAYS,
    SHIPPED,
    SIDE_BY_SIDE,
    STRONG,
    TEXT,
    TRAINED,
    check_methods,
    default_list,
    known_classifiers,
    short_list,
)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_names_only_what_exists(name: str) -> None:
    method = METHODS[name]
    assert method.name == name and method.says.endswith(".") and method.says[0].isupper()
    assert set(method.reads) <= {"base", "lora", "deblora", *TRAINED}
    known = {*CLASSIFIERS, *ON_REQUEST, *GAUSSIANS, OWN_LOGITS, PSEUDO_LABELED, TEXT}
    assert method.classifiers and set(method.classifiers) <= known
    assert not method.moved or method.moved in VARIANTS
    assert method.own_logits == (OWN_LOGITS in method.classifiers)
    # What new chips are classified with must be there in every run, and have seen no test chip.
    assert not (method.for_new_chips and (method.trains or method.unlabeled == "test"))
    # Without the feature before it was moved, its lengths tell nothing.
    assert "tau_norm" not in method.classifiers or not (method.moved or method.targets)


def test_lists_follow_the_table() -> None:
    first = ("zero-shot", "lora", SIDE_BY_SIDE, "deblora", "contract", "shift", "semi-supervised")
    assert short_list()[:7] == first
    assert set(short_list()) < set(default_list()) < set(METHODS)
    assert "transductive" not in default_list() and not set(TRAINED) & set(default_list())
    assert set(SAYS) == {*METHODS, STRONG, GUARDED, SHIPPED}


def test_classifiers_are_those_asked_for() -> None:
    lora = METHODS["lora"]
    assert lora.chosen_classifiers(()) == CLASSIFIERS
    assert lora.chosen_classifiers(["sgd_probe"]) == (PLAIN[1], FLOOR, "sgd_probe")
    assert METHODS["shift"].chosen_classifiers(["sgd_probe"]) == ()
    for method, classifier in FLOORS:  # always there, so that a choice has something to beat
        assert classifier in METHODS[method].chosen_classifiers(["sgd_probe"])
    assert METHODS["semi-supervised"].tables_of("gaussians_both") == ("lora", "base")
    assert set(ON_REQUEST) < set(known_classifiers())


def test_unknown_names_get_the_nearest_one() -> None:
    with pytest.raises(RecipeError, match="debloar is no method; did you mean deblora"):
        check_methods(["lora", "debloar"])
