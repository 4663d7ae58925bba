"""The table of methods: what is compared, under one name each, and what each method reads, trains and may fit.

A method is a way to get features and a classifier. A new one is a line in this table; whatever is trained for it, and
whatever moves its features, lives in a module of its own.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from deblora.errors import RecipeError
from deblora.evaluate.classifiers.names import CLASSIFIERS, FLOOR, ON_REQUEST, PRIOR_CLASSIFIERS

OWN_LOGITS, PSEUDO_LABELED, TEXT = "own_logits", "pseudo_labeled", "text"
GAUSSIANS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"gaussians_lora": ("lora",), "gaussians_both": ("lora", "base")}
)
"""Classifiers that also see features without labels -> the feature tables they read, one beside the other."""

EVERY = (*CLASSIFIERS, *ON_REQUEST)
OF_ADAPTERS = (*PRIOR_CLASSIFIERS, FLOOR, *ON_REQUEST)
OF_CONTRACTED = (*PRIOR_CLASSIFIERS[:3], *ON_REQUEST)
"""Without tau normalization, which needs features that were not moved."""
OF_SHIFTED = PRIOR_CLASSIFIERS[:3]
"""The shift changes training features of length 1; the SGD probe takes features as they are."""

PLAIN = ("lora", "cross_entropy")
"""Method and classifier that most people would use; always fitted."""

SIDE_BY_SIDE = "lora-and-zero-shot"
FLOORS = (("zero-shot", FLOOR), ("lora", FLOOR), (SIDE_BY_SIDE, FLOOR))
"""Methods and classifiers whose settings need no validation chip: always fitted. The first one is the simplest thing to
do, against which the promise of a choice is stated."""


@dataclass(frozen=True)
class Method:
    """One way to get features and classifiers.

    Attributes:
        name: The one name, in commands, tables and pages.
        says: What it is, in one sentence.
        reads: Feature tables: ``base``, ``lora``, ``deblora``, or the name of a method with a training of its own.
        classifiers: What may be fitted on its features, in the order it is shown.
        targets: File of the stage ``calibrate`` with its moved training features; empty for none.
        moved: Variant of :mod:`deblora.debias.variants` that moves its training features; empty for none.
        trains: What its own training changes: all weights, an adapter, or one adapter per class; empty for none.
        own_logits: Whether its training makes a classifier, whose logits are scored too.
        unlabeled: Split whose features its classifiers see without labels; empty for none.
        in_short_list: Whether every run evaluates it.
        by_default: Whether comparisons evaluate it unless other methods are asked for.
        for_new_chips: Whether it may be chosen to classify new chips.
    """

    name: str
    says: str
    reads: tuple[str, ...]
    classifiers: tuple[str, ...]
    targets: Literal["", "deblora", "shift"] = ""
    moved: str = ""
    trains: Literal["", "all", "adapter", "adapter-per-class"] = ""
    own_logits: bool = False
    unlabeled: Literal["", "val", "test"] = ""
    in_short_list: bool = False
    by_default: bool = True
    for_new_chips: bool = True

    def tables_of(self, classifier: str) -> tuple[str, ...]:
        """Return the feature tables that a classifier of the method reads, one beside the other."""
        return GAUSSIANS.get(classifier, self.reads)

    def chosen_classifiers(self, asked: Iterable[str]) -> tuple[str, ...]:
        """Return the classifiers to fit: those asked for, or all but the ones on request; the plain one always is."""
        wanted = set(asked) or set(self.classifiers) - set(ON_REQUEST)
        always = (PLAIN, *FLOORS)
        return tuple(name for name in self.classifiers if name in wanted or (self.name, name) in always)


def _trained(
    name: str,
    says: str,
    *more: str,
    trains: Literal["all", "adapter", "adapter-per-class"] = "adapter",
    own_logits: bool = False,
) -> Method:
    """Return a method with a training of its own, which only comparisons run and which is not chosen for new chips."""
    own = (*more, *((OWN_LOGITS,) if own_logits else ()))
    return Method(
        name,
        says,
        (name,),
        (*OF_ADAPTERS, *own),
        trains=trains,
        own_logits=own_logits,
        by_default=False,
        for_new_chips=False,
    )


_TABLE = (
    Method(
        "zero-shot",
        "Features of the pre-trained model as it is.",
        ("base",),
        EVERY,
        in_short_list=True,
    ),
    Method("lora", "Features of the model with the LoRA adapter.", ("lora",), EVERY, in_short_list=True),
    Method(
        SIDE_BY_SIDE,
        "Features with the LoRA adapter and without it, one beside the other.",
        ("lora", "base"),
        (FLOOR,),
        in_short_list=True,
    ),
    Method(
        "deblora",
        "Features of the model with a second adapter, which learned to reproduce the calibrated features.",
        ("deblora",),
        OF_ADAPTERS,
        in_short_list=True,
    ),
    Method(
        "contract",
        "The literal calibration: rare LoRA features pulled toward their de-biased centers, without a second adapter.",
        ("lora",),
        OF_CONTRACTED,
        targets="deblora",
        in_short_list=True,
    ),
    Method(
        "contract-class-mean",
        "Control of the calibration: the center is the class's own mean.",
        ("lora",),
        OF_CONTRACTED,
        moved="contract-class-mean",
    ),
    Method(
        "contract-random-head-mean",
        "Control of the calibration: the center is the mean of a random head class.",
        ("lora",),
        OF_CONTRACTED,
        moved="contract-random-head-mean",
    ),
    Method(
        "contract-kernel-neighbors",
        "The calibration toward better-populated neighbor classes instead of clusters.",
        ("lora",),
        OF_CONTRACTED,
        moved="contract-kernel-neighbors",
    ),
    Method(
        "shift",
        "Whole classes shifted toward better-populated neighbor classes, with a pull fitted to the training data.",
        ("lora",),
        OF_SHIFTED,
        targets="shift",
        in_short_list=True,
    ),
    Method(
        "semi-supervised",
        "Gaussians with one covariance that also see features of the validation chips, without their labels.",
        ("lora", "base"),
        tuple(GAUSSIANS),
        unlabeled="val",
        in_short_list=True,
    ),
    Method(
        "transductive",
        "The same Gaussians, which see features of the test chips instead, without their labels.",
        ("lora", "base"),
        tuple(GAUSSIANS),
        unlabeled="test",
        by_default=False,
        for_new_chips=False,
    ),
    _trained("scratch", "All weights trained from random ones.", trains="all"),
    _trained("fine-tune", "All weights of the pre-trained model trained on.", trains="all"),
    _trained(
        "clora",
        "One LoRA adapter per class; features are means over all of them.",
        trains="adapter-per-class",
    ),
    _trained("lora-bs", "LoRA trained with balanced softmax."),
    _trained("lift", "LoRA with LIFT's cosine classifier, started from class means.", own_logits=True),
    _trained("reslt", "LoRA with ResLT's three residual branches.", own_logits=True),
    _trained("sade", "LoRA with SADE's three experts of equal weight.", own_logits=True),
    _trained(
        "self-trained",
        "LoRA that also learns from soft labels of the validation chips, made from features alone.",
        PSEUDO_LABELED,
        own_logits=True,
    ),
    Method(
        "clip-text",
        "CLIP's own texts of the class names as the classifier, on features of the model as it is.",
        ("base",),
        (TEXT,),
        in_short_list=True,
    ),
    Method("clip-text-lora", "The same texts on LoRA features.", ("lora",), (TEXT,), in_short_list=True),
    Method(
        "clip-text-deblora",
        "The same texts on features of the second adapter.",
        ("deblora",),
        (TEXT,),
        in_short_list=True,
    ),
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _TABLE})
"""Every method by its name, in the order it is run and shown."""

STRONG, GUARDED, CHOSEN = "strong", "guarded", "chosen"
"""Two methods that validation derives from the others, and the name under which their classifier is shown."""

SHIPPED = "shipped"
"""The chosen method, its classifier fitted again with the labels of the validation chips: what ``predict`` uses."""

SAYS: Mapping[str, str] = MappingProxyType(
    {
        **{name: method.says for name, method in METHODS.items()},
        STRONG: "The best classifier on LoRA features other than the plain probe, chosen on validation.",
        GUARDED: "The better of the strong and the semi-supervised classifier on validation chips that it did not see.",
        SHIPPED: "The chosen method, its classifier fitted again to training and validation chips: what predict uses.",
    }
)
"""What each method is, derived ones included."""

TRAINED = tuple(name for name, method in METHODS.items() if method.trains)
"""Methods with a training of their own."""


def short_list() -> tuple[str, ...]:
    """Return the methods that every run evaluates, and among which it chooses."""
    return tuple(name for name, method in METHODS.items() if method.in_short_list)


def default_list() -> tuple[str, ...]:
    """Return the methods of a comparison that none were named for."""
    return tuple(name for name, method in METHODS.items() if method.by_default)


def check_methods(names: Iterable[str]) -> None:
    """Check that every name is one of the table.

    Raises:
        RecipeError: If one is not; names the nearest known one.
    """
    for name in names:
        if name not in METHODS:
            near = difflib.get_close_matches(name, METHODS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise RecipeError(f"{name} is no method; {hint}known are {', '.join(METHODS)}")


def known_classifiers() -> tuple[str, ...]:
    """Return the name of every classifier that some method may fit."""
    return tuple(dict.fromkeys(name for method in METHODS.values() for name in method.classifiers))
