"""``deblora predict``: classes of new chips by a finished run, with the method and classifier that validation chose."""

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax

from deblora.data.chips import Pixels, SubsetPixels
from deblora.data.decode import picture_size, unreadable
from deblora.data.longtail import Groups
from deblora.data.readers.registry import OfKind, read_unlabeled
from deblora.errors import ArtifactError, DataError
from deblora.evaluate.classifiers.classifier import Classifier
from deblora.evaluate.classifiers.files import load_classifier
from deblora.files import remove_leftovers, write_atomic
from deblora.models.adapters.files import read_folder
from deblora.models.backbone import Backbone
from deblora.pipeline.audited import as_audited, band_counts, class_names, groups_of, train_counts
from deblora.pipeline.classify.additions import grouped, n_labels, read_additions
from deblora.pipeline.classify.chips import reading_of
from deblora.pipeline.classify.evaluate.choose import read_choice
from deblora.pipeline.classify.extract import open_adapted
from deblora.pipeline.classify.train_deblora import is_map, load_map
from deblora.pipeline.open_model import find_noted_weights
from deblora.recipe.classify import Recipe
from deblora.recipe.methods import SHIPPED
from deblora.report.overlays import data_uri, to_rgb
from deblora.report.page import Picture, render_html
from deblora.report.pictures import Found, found_page
from deblora.run.artifacts import FeatureTable
from deblora.run.processes import device
from deblora.run.run_dir import RunDir
from deblora.train.extract import extract_features

OnError = Literal["stop", "skip"]  # as data.on_error
WHITE = 255.0  # of 8-bit pixels
N_NAMED = 10  # chips named in a message


def usable_chips(
    run: RunDir, recipe: Recipe, ids: tuple[str, ...], pixels: Pixels, on_error: OnError
) -> tuple[tuple[str, ...], Pixels, dict[str, str]]:
    """Decode every chip once; return those that the model can see, and the reason by id for the others.

    Raises:
        DataError: If there are others and ``on_error`` is stop (up to ten are named), or no chip is left.
    """
    reasons = unreadable(of_kind(run, recipe, ids, pixels))
    if reasons and on_error == "stop":
        lines = [f"  - {reason}" for reason in list(reasons.values())[:N_NAMED]]
        raise DataError(
            f"{len(reasons)} of {len(ids)} chips cannot be used:\n" + "\n".join(lines) + "\n"
            "restore or convert them, or leave them out with --on-error skip"
        )
    kept = tuple(i for i in range(len(ids)) if i not in reasons)
    if not kept:
        raise DataError(f"none of the {len(ids)} chips can be used, first: {reasons[0]}")
    skipped = {ids[i]: reason for i, reason in reasons.items()}
    return tuple(ids[i] for i in kept), SubsetPixels(pixels, kept), skipped


def of_kind(run: RunDir, recipe: Recipe, ids: tuple[str, ...], pixels: Pixels) -> OfKind:
    """Return pixels that raise a DataError where they have other bands or types of values than the run knows."""
    types: tuple[str, ...] = ("uint8", "uint16", "float32")
    if recipe.data.scale is None:
        types = types[:1]
    elif recipe.data.scale > WHITE:
        types = types[1:]
    # The model would take gray chips after it saw RGB ones, repeated, and be wrong without a word.
    n_bands = band_counts(run) or frozenset({1, int(read_folder(run.adapter("lora"))[1]["n_bands"])})
    return OfKind(pixels, ids, types, n_bands)


LARGEST_CHIP = 4_000_000  # pixels; ours, ten times the chips of AID


def _refuse_scenes(pixels: Pixels) -> None:
    """Notice a scene where a chip is expected: shrunk to the input of the model it would get one wrong class."""
    for path in getattr(pixels, "paths", ()):
        try:
            with path.open("rb") as file:
                size = picture_size(file) or (0, 0)
        except OSError:
            continue  # reading it will say what is wrong
        except DataError:
            size = (LARGEST_CHIP, 2)
        if size[0] * size[1] > LARGEST_CHIP:
            raise DataError(
                f"{path} is a scene, not a chip; give --tile with the side of the training chips in pixels, and a map "
                "is made of it"
            )


def shortened(reason: str) -> str:
    """Return what is wrong with a chip without where it lies and what to do: ``unreadable image (truncated)``."""
    return reason.partition(": ")[2].partition("; ")[0] or reason


N_SHOWN = 9  # chips per class on the page (ours)
SIDE = 96


@dataclass(frozen=True)
class Shipped:
    """The classifier for new chips: the one that was shipped, or that fitted with labels that were added since.

    Attributes:
        method: Whose features it reads.
        classifier: Its name.
        head: The classifier.
        tables: Feature tables it reads, side by side.
        temperature: Of its logits.
        settings: At which it was fitted.
        class_names: Classes it knows, founded ones last.
        groups: Head, middle and tail classes.
        n_labels: Training chips per class.
        unjudged: Classes that labeling has founded; no test chip has judged them.
        n_added: Chips that labeling added.
    """

    method: str
    classifier: str
    head: Classifier
    tables: tuple[str, ...]
    temperature: float
    settings: Mapping[str, Any]
    class_names: tuple[str, ...]
    groups: Groups
    n_labels: Int[np.ndarray, " c"]
    unjudged: tuple[str, ...] = ()
    n_added: int = 0

    @property
    def title(self) -> str:
        """Method and classifier, and what was added, for people."""
        added = f", with {self.n_added} labels added" if self.n_added else ""
        return f"{self.method} + {self.classifier}{added}"


def model_of(run: RunDir, *, updated: bool = True) -> Shipped:
    """Return the classifier for new chips, after checking that nothing behind it was made anew.

    Args:
        run: Finished, with a choice.
        updated: Whether labels that were added since count.

    Raises:
        ArtifactError: If the run has no choice, or its files or those of an update are stale or damaged.
    """
    choice = read_choice(run)
    method, name = str(choice["method"]), str(choice["classifier"])
    check_model_files(run, method, name)
    head, tables, temperature = load_chosen(run, method, name)
    _, notes = load_classifier(run.classifier(SHIPPED, name))
    own = class_names(run)
    shipped = Shipped(
        method, name, head, tables, temperature, notes["settings"], own, groups_of(run), train_counts(run)
    )
    added = read_additions(run) if updated else None
    if added is None or added.classifier is None:
        return shipped
    return replace(
        shipped,
        classifier=str(added.notes["classifier"]),
        head=added.classifier,
        temperature=float(added.notes["temperature"]),
        settings=added.notes["settings"],
        class_names=added.class_names,
        groups=grouped(run, added.class_names),
        n_labels=n_labels(run, added),
        unjudged=added.class_names[len(own) :],
        n_added=len(added.chips),
    )


@dataclass(frozen=True)
class Predicted:
    """Probabilities of every class for every new chip by a model, and why others were skipped, by id."""

    model: Shipped
    ids: tuple[str, ...]
    probabilities: Float[np.ndarray, "n c"]
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> Int[np.ndarray, " n"]:
        """The most probable class."""
        return np.asarray(self.probabilities.argmax(axis=1))


def predict(
    run: RunDir,
    recipe: Recipe,
    source: Path,
    out: Path,
    *,
    on_error: OnError = "stop",
    overwrite: bool = False,
    weights: str | None = None,
) -> Predicted:
    """Write ``predictions.csv`` and ``index.html``, which shows the best chips of every class, rare ones first.

    Needed are the run folder and the weights of the backbone, and neither the chips of the training nor the folder it
    ran in. Probabilities are the softmax of the logits over the temperature that fits the validation chips best.

    Args:
        run: Finished, with a choice.
        recipe: Its settings.
        source: What :func:`~deblora.data.readers.registry.read_unlabeled` takes.
        out: Folder for both files; new or empty.
        on_error: Chips that cannot be read, or that have other bands or types of values than the run knows:
            stop and name them, or leave them out, counted and named in table and page.
        overwrite: ``out`` may hold an earlier prediction, which is replaced once this one is complete.
        weights: Where the weights of the backbone are, if neither where the recipe says nor where they were.

    Raises:
        ArtifactError: If the run has no choice, its files are stale or damaged, or ``out`` holds something.
        DataError: If chips cannot be read and ``on_error`` is stop, or none can be.
        ModelError: If the weights of the backbone are not found or are others.
    """
    _check_out(out, source, overwrite=overwrite)
    predictor = Predictor.open(run, recipe, weights=weights)
    geotiff = reading_of(recipe.data) if recipe.data.format == "geotiff" else None
    named = read_unlabeled(source, geotiff=geotiff)
    _refuse_scenes(named[1])
    ids, pixels, skipped = usable_chips(run, recipe, *named, on_error)
    found = Predicted(predictor.model, ids, predictor.probabilities(ids, pixels), skipped)
    out.mkdir(parents=True, exist_ok=True)
    page = render_html(found_page(_content(run, found, pixels)))
    write_atomic(out / "predictions.csv", _table(found))
    write_atomic(out / "index.html", page)
    return found


@dataclass(frozen=True)
class Predictor:
    """The classifier for new chips, with the networks that make its features, which are opened once."""

    run: RunDir
    recipe: Recipe
    model: Shipped

    @classmethod
    def open(cls, run: RunDir, recipe: Recipe, *, weights: str | None = None) -> "Predictor":
        """Check and load the files of a run; networks are opened when they are needed.

        Raises:
            ArtifactError: If the run has no choice, or its files are stale or damaged.
            ModelError: If the weights of the backbone are not found or are others.
        """
        model = model_of(run)
        return cls(run, find_noted_weights(run, recipe, weights), model)

    def features(self, ids: tuple[str, ...], pixels: Pixels) -> Float[np.ndarray, "n d"]:
        """Return the features that the classifier reads, of chips as they are in the data."""
        seen = as_audited(self.run, pixels)
        return np.hstack([self._table(own, ids, seen).features for own in self.model.tables])

    def probabilities(self, ids: tuple[str, ...], pixels: Pixels) -> Float[np.ndarray, "n c"]:
        """Return calibrated probabilities of every class."""
        logits = self.model.head.logits(self.features(ids, pixels))
        return np.asarray(softmax(logits / self.model.temperature, axis=1))

    def _table(self, own: str, ids: tuple[str, ...], pixels: Pixels) -> FeatureTable:
        kept = self._backbones
        if own not in kept:
            kept[own] = open_for_new_chips(self.run, self.recipe, own)
        return new_features(self.run, self.recipe, own, ids, pixels, backbone=kept[own])

    @cached_property
    def _backbones(self) -> dict[str, Backbone]:
        return {}


def check_model_files(run: RunDir, method: str, name: str) -> None:
    """Check that choice, classifier and adapters belong together: none was changed or made anew since the choice.

    Raises:
        ArtifactError: Says what is stale and what to run.
    """
    arrays = run.classifier(SHIPPED, name)
    adapters = [run.adapter(own) for own in ("lora", "deblora") if run.adapter(own).is_dir()]
    trained = [run.row(method)] if run.row(method).is_dir() else []
    for path in (run.evaluation("choice.json"), arrays, arrays.with_suffix(".json"), *adapters, *trained):
        run.check_fresh(path, again=f"deblora run --out {run.root} --resume")


def load_chosen(run: RunDir, method: str, name: str) -> tuple[Classifier, tuple[str, ...], float]:
    """Return the classifier for new chips, the feature tables it reads, and the temperature of its logits.

    Raises:
        ArtifactError: If it is missing, damaged, or of another method or other classes.
    """
    path = run.classifier(SHIPPED, name)
    head, notes = load_classifier(path)
    temperature = notes.get("settings", {}).get("temperature")
    found = (notes.get("method"), notes.get("classifier"), tuple(notes.get("class_names", ())))
    tables = tuple(notes.get("tables", ()))
    if (
        found != (method, name, class_names(run))
        or not set(tables) <= {"base", "lora", "deblora"}
        or not tables
        or not isinstance(temperature, float)
        or not 0 < temperature < math.inf
    ):
        raise ArtifactError(
            f"{path} is not the classifier {name} of {method} for the classes of this run; fit it again with: "
            f"deblora evaluate {run.root}"
        )
    return head, tables, temperature


def open_for_new_chips(run: RunDir, recipe: Recipe, adapter: str) -> Backbone:
    """Return the network that makes the features ``base``, ``lora`` or ``deblora`` of new chips."""
    is_mapped = adapter == "deblora" and is_map(recipe.deblora.placement)
    return open_adapted(run, recipe, "lora" if is_mapped else adapter, trained=True).to(device())


def new_features(
    run: RunDir,
    recipe: Recipe,
    adapter: str,
    ids: tuple[str, ...],
    pixels: Pixels,
    *,
    backbone: Backbone | None = None,
) -> FeatureTable:
    """Return features of new chips through the network of a method, which is opened if it is not given."""
    placement, settings = recipe.deblora.placement, recipe.extract
    features = extract_features(
        backbone or open_for_new_chips(run, recipe, adapter),
        pixels,
        ids,
        batch_size=settings.batch_size,
        n_views=settings.views,
        precision=settings.precision,
        title="predict",
    )
    if adapter == "deblora" and is_map(placement):
        features = load_map(run, placement, features.shape[1])(features)
    return FeatureTable(ids, features)


def _check_out(out: Path, source: Path, *, overwrite: bool) -> None:
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out} lies inside the chips, {source}; name a folder outside")
    if out.exists() and not out.is_dir():
        raise ArtifactError(f"{out} is a file; name a folder")
    remove_leftovers(out, deep=False)
    for path in sorted(out.iterdir()) if out.is_dir() else ():
        if path.name not in ("predictions.csv", "index.html"):
            raise ArtifactError(f"{path} is no part of a prediction; choose another folder")
        if not overwrite:
            raise ArtifactError(
                f"{out} already holds a prediction; add --overwrite to replace it, or name another folder"
            )


def _table(found: Predicted) -> str:
    names = found.model.class_names
    group_of = {c: group for group, members in found.model.groups.named().items() for c in members}
    buffer = io.StringIO()
    lines = csv.writer(buffer, lineterminator="\n")
    lines.writerow(["id", "predicted", "group", "probability", *(f"p_{name}" for name in names), "skipped"])
    for chip_id, own, row in zip(found.ids, found.classes.tolist(), found.probabilities, strict=True):
        probabilities = [f"{p:.6f}" for p in (row[own], *row)]
        lines.writerow([chip_id, names[own], group_of[own], *probabilities, ""])
    for chip_id, reason in found.skipped.items():
        lines.writerow([chip_id, *[""] * (3 + len(names)), shortened(reason)])
    return buffer.getvalue()


def _content(run: RunDir, found: Predicted, pixels: Pixels) -> Found:
    names, n_train = found.model.class_names, found.model.n_labels
    order = sorted(range(len(names)), key=lambda c: (int(n_train[c]), names[c]))
    return Found(
        title=f"{len(found.ids)} chips by {run.root.name}",
        row=found.model.title,
        n_chips=len(found.ids),
        groups={names[c]: group for group, members in found.model.groups.named().items() for c in members},
        n_train={names[c]: int(n_train[c]) for c in order},
        n_predicted={names[c]: int((found.classes == c).sum()) for c in order},
        pictures={names[c]: tuple(_pictures(found, pixels, c)) for c in order},
        skipped={chip_id: shortened(reason) for chip_id, reason in found.skipped.items()},
    )


def _pictures(found: Predicted, pixels: Pixels, c: int) -> Iterator[Picture]:
    """Yield the chips predicted as a class, the most probable first."""
    from PIL import Image

    rows = np.flatnonzero(found.classes == c)
    for i in rows[np.argsort(-found.probabilities[rows, c], kind="stable")][:N_SHOWN].tolist():
        picture = Image.fromarray(to_rgb(pixels.read(i))).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        yield Picture(data_uri(picture), f"{found.probabilities[i, c]:.2f}", found.ids[i])
