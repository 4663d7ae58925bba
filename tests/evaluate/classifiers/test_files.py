"""Every fitted classifier of the package comes back from its files with the same logits, bit for bit."""

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from deblora.errors import ArtifactError
from deblora.evaluate.classifiers.classifier import Classifier, Standardizer
from deblora.evaluate.classifiers.cosine import Cosine, ProjectedCosine
from deblora.evaluate.classifiers.files import PARTS, load_classifier, save_classifier
from deblora.evaluate.classifiers.linear import Linear, fit_linear, log_prior
from deblora.evaluate.classifiers.names import CLASSIFIERS
from deblora.evaluate.classifiers.search import Samples
from deblora.evaluate.classifiers.semi_supervised import (
    Start,
    fit_pseudo_labeled,
    fit_semi_supervised,
    fit_shared_gaussians,
    fit_transductive,
    soft_labels,
)
from deblora.evaluate.classifiers.sgd_probe import fit_sgd_probe
from deblora.evaluate.classifiers.trials import fit_classifiers


def every_classifier(samples: Samples) -> dict[str, Classifier]:
    x, y, n_classes, x_val = samples.x, samples.y, samples.n_classes, samples.x_val
    soft = soft_labels(x, y, n_classes, x_val, adapted_size=60)
    semi = fit_semi_supervised(samples, sizes=[60, 60])
    rng = np.random.default_rng(5)
    texts = rng.normal(size=(n_classes, 9)).astype(np.float32)
    return {
        **{name: chosen.classifier for name, chosen in fit_classifiers(samples, CLASSIFIERS)},
        "fewer_dimensions": fit_linear(x[:, :20], y, n_classes, l2=0.1).adjusted(log_prior(y, n_classes)),
        "semi-supervised": semi.classifier,
        "transductive": fit_transductive(samples, semi, x_val, sizes=[60, 60]).classifier,
        "sgd_probe": fit_sgd_probe(x, y, x_val, samples.y_val, n_classes, n_epochs=1)[0],
        "pseudo_labeled": fit_pseudo_labeled(x, y, n_classes, x_val, soft),
        "text": ProjectedCosine(rng.normal(size=(120, 9)).astype(np.float32), texts, 14.3),
    }


def kinds(described: object) -> set[str]:
    if isinstance(described, list):
        return set().union(*map(kinds, described))
    if not isinstance(described, dict) or "kind" not in described:
        return set()
    return {described["kind"]}.union(*(kinds(part) for part in described.values()))


def test_logits_are_bit_equal_after_saving_and_loading(samples: Samples, tmp_path: Path) -> None:
    seen: set[str] = set()
    for name, head in every_classifier(samples).items():
        path = tmp_path / f"{name}.safetensors"
        save_classifier(path, head, {"l2": 0.01, "name": name})
        loaded, notes = load_classifier(path)
        assert type(loaded) is type(head)
        assert notes == {"l2": 0.01, "name": name}
        for x in (samples.x_val, samples.x_val.astype(np.float32), samples.x_val[:1]):
            own = x[:, : head.n_features]
            np.testing.assert_array_equal(loaded.logits(own), head.logits(own), err_msg=name)
        seen |= kinds(json.loads(path.with_suffix(".json").read_text())["classifier"])
    assert seen == set(PARTS)


AS_GIVEN = Standardizer(np.zeros(3), np.ones(3), (3,), 1.0)
LINEAR = Linear(AS_GIVEN, np.ones((3, 2)), np.zeros(2))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "one.safetensors"
    save_classifier(path, LINEAR, {})
    return path


def rewrite(path: Path, change: Callable[[dict], None]) -> None:
    """Change the arrays in a way that keeps the hash right."""
    arrays = load_file(path)
    change(arrays)
    path.write_bytes(save(arrays))
    edit(path, lambda content: content.update(sha256=sha256(path.read_bytes()).hexdigest()))


def edit(path: Path, change: Callable[[dict], object]) -> None:
    beside = path.with_suffix(".json")
    content = json.loads(beside.read_text())
    change(content)
    beside.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(weights=np.full((3, 2), np.nan)), "weights holds values that are not finite"),
        (lambda a: a.update(bias=np.zeros(3)), "bias of the linear has another type or shape"),
        (
            lambda a: a.update(bias=np.zeros(2, dtype=np.int64)),
            "bias of the linear has another type or shape",
        ),
        (lambda a: a.update(more=np.zeros(2)), "array more belongs to nothing"),
        (lambda a: a.pop("standardizer.mean"), "array standardizer.mean is missing"),
    ],
)
def test_arrays_that_cannot_be_are_refused(saved: Path, change: Callable[[dict], None], message: str) -> None:
    rewrite(saved, change)
    with pytest.raises(ArtifactError, match=f"one.safetensors .*{message}.*deblora evaluate"):
        load_classifier(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["classifier"].update(kind="forest"), "unknown kind 'forest'"),
        (lambda c: c["classifier"]["standardizer"].update(power="2"), "power of the standardizer"),
        (lambda c: c["classifier"]["standardizer"].update(sizes=[1.5]), "sizes of the standardizer"),
        (lambda c: c["classifier"].pop("bias"), "a linear has"),
        (lambda c: c["classifier"].update(standardizer=c["classifier"]["bias"]), "array bias is missing"),
        (lambda c: c.update(version=2), "version 2, known is 1"),
        (lambda c: c.pop("notes"), "notes"),
        (lambda c: c.update(classifier=[]), "damaged"),
    ],
)
def test_a_wrong_description_is_refused(saved: Path, change: Callable[[dict], object], message: str) -> None:
    edit(saved, change)
    with pytest.raises(ArtifactError, match=message):
        load_classifier(saved)


def test_files_that_do_not_belong_together_or_are_missing(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_classifier(other, replace(LINEAR, weights=np.zeros((3, 2))), {})
    saved.write_bytes(other.read_bytes())
    with pytest.raises(ArtifactError, match="not the file that one.json was written for"):
        load_classifier(saved)
    saved.write_bytes(b"cut")
    with pytest.raises(ArtifactError, match="one.safetensors"):
        load_classifier(saved)
    other.with_suffix(".json").write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match="other.json is damaged"):
        load_classifier(other)
    other.with_suffix(".json").unlink()
    with pytest.raises(ArtifactError, match="other.json is missing"):
        load_classifier(other)


def test_parts_of_different_sizes_are_refused(samples: Samples, tmp_path: Path) -> None:
    start = Start.of(samples.x, samples.y, samples.n_classes, samples.x_val)
    path = tmp_path / "one.safetensors"
    save_classifier(path, fit_shared_gaussians(start), {})
    rewrite(path, lambda a: a.update(weights=a["weights"][:7]))
    with pytest.raises(ArtifactError, match="damaged"):
        load_classifier(path)


def test_only_finite_classifiers_of_the_package_are_saved(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    with pytest.raises(ValueError, match="bias holds values"):
        save_classifier(path, replace(LINEAR, bias=np.full(2, np.inf)), {})
    with pytest.raises(ValueError, match="scale is nan"):
        save_classifier(path, Cosine(AS_GIVEN, np.ones((2, 3)), float("nan")), {})
    with pytest.raises(TypeError, match="object is no classifier"):
        save_classifier(path, object(), {})
    assert not path.exists()
    save_classifier(path, AS_GIVEN, {})
    with pytest.raises(ArtifactError, match="a standardizer alone is no classifier"):
        load_classifier(path)
