"""The product from Python: fit a model on chips, load one, and ask it about new chips.

Example::

    model = deblora.fit("chips/")                 # a folder of class folders, as `deblora run chips/` takes it
    model.predict("new/")                         # a table: class, group and probability of every chip
"""

import csv
import io
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from deblora.data.chips import ArrayPixels, Pixels
from deblora.data.readers.registry import read_unlabeled
from deblora.errors import ArtifactError, DataError
from deblora.files import write_atomic
from deblora.pipeline.classify.audit import (
    check_values,
    choose_groups,
    describe,
    doubts,
    readable,
    select_chips,
)
from deblora.pipeline.classify.audit import unjudged as classes_unjudged
from deblora.pipeline.classify.chips import read_source, reading_of
from deblora.pipeline.classify.predict import Predictor, usable_chips
from deblora.pipeline.classify.road import recipe_of, start_run
from deblora.pipeline.compare.seeds import chosen_methods
from deblora.pipeline.compare.seeds import compare as compare_seeds
from deblora.recipe.classify import read_recipe, recipe_from
from deblora.recipe.engine import values_from
from deblora.run.run_dir import RunDir

NEEDED = ("run.json", "recipe.yaml", "audit", "adapters", "classifiers/shipped", "eval", "look", "updates")
"""What prediction and the tables of scores need of a run folder."""


class Model:
    """A finished run: its chosen classifier, the model that makes its features, and its scores.

    Chips are given as a path (folder at any depth, image, list, arrays, Parquet), a PIL image, an array ``h w``,
    ``h w b`` or ``n h w b``, a torch tensor ``b h w`` or ``n b h w`` (bands first), a sequence of any of these, or a
    torch ``Dataset`` or ``DataLoader`` that gives such values, pairs with a label, or mappings with ``image``. Pixels
    have the type and range of the training chips; nothing is rescaled.
    """

    def __init__(self, root: str | Path, *, weights: str | None = None) -> None:
        """Open a run folder.

        Args:
            root: Of `deblora run`, or what :meth:`save` wrote.
            weights: Where the weights of the backbone are now, if neither where the recipe says nor where they were.

        Raises:
            ArtifactError: If the folder is no finished run, or files are stale or damaged.
            ModelError: If the weights of the backbone are not found or are others.
        """
        self.run = RunDir.open(Path(root))
        self.recipe = recipe_from(read_recipe(self.run.recipe))
        self._predictor = Predictor.open(self.run, self.recipe, weights=weights)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __repr__(self) -> str:
        """Name the folder, the chosen method and the number of classes."""
        own = self._predictor
        return f"<deblora.Model {self.run.root}: {own.model.title}, {len(self.class_names)} classes>"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the columns of :meth:`predict_proba`."""
        return self._predictor.model.class_names

    @cached_property
    def groups(self) -> dict[str, str]:
        """Class name to ``head``, ``middle`` or ``tail``."""
        names, groups = self.class_names, self._predictor.model.groups
        return {names[c]: group for group, members in groups.named().items() for c in members}

    @property
    def scores(self) -> pd.DataFrame:
        """Macro F1 on the test chips by method, classifier and group, with 95 % intervals; fractions."""
        table = pd.read_csv(self.run.evaluation("scores.csv"))
        columns = ["method", "classifier", "group", "value", "ci_lower", "ci_upper", "n_classes", "n_test"]
        return table[table["metric"] == "macro_f1"][columns].reset_index(drop=True)

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.run.report("index.html")

    def predict(self, chips: Any) -> pd.DataFrame:
        """Return ``id``, ``class``, ``group`` and ``probability`` (calibrated, in [0, 1]) of every chip.

        Raises:
            DataError: If chips cannot be read, or have other bands or values than those of the training.
        """
        ids, probabilities = self._probabilities(chips)
        best = probabilities.argmax(axis=1)
        names = [self.class_names[c] for c in best.tolist()]
        return pd.DataFrame(
            {
                "id": ids,
                "class": names,
                "group": [self.groups[name] for name in names],
                "probability": probabilities[np.arange(len(best)), best],
            }
        )

    def predict_proba(self, chips: Any) -> Float[np.ndarray, "n c"]:
        """Return calibrated probabilities, a line per chip and a column per class of :attr:`class_names`."""
        return self._probabilities(chips)[1]

    def embed(self, chips: Any) -> Float[np.ndarray, "n d"]:
        """Return the features that the chosen classifier reads."""
        return self._predictor.features(*self._usable(chips))

    def save(self, folder: str | Path) -> Path:
        """Copy what prediction needs into a new folder, which :func:`load` opens here or on another machine.

        Left out are features, checkpoints and the page. The weights of the backbone stay where they are, except for
        those that come with the package.

        Raises:
            ArtifactError: If the folder exists.
        """
        out = Path(folder)
        if out.exists():
            raise ArtifactError(f"{out} exists; name a new folder")
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            for name in NEEDED:
                source = self.run.root / name
                if source.is_dir():
                    shutil.copytree(source, partial / name)
                elif source.is_file():
                    shutil.copy2(source, partial / name)
            partial.chmod(0o755)
            partial.rename(out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return out

    def _usable(self, chips: Any) -> tuple[tuple[str, ...], Pixels]:
        ids, pixels, _ = usable_chips(self.run, self.recipe, *self._read(chips), "stop")
        return ids, pixels

    def _read(self, chips: Any) -> tuple[tuple[str, ...], Pixels]:
        if isinstance(chips, str | Path):
            data = self.recipe.data
            return read_unlabeled(Path(chips), geotiff=reading_of(data) if data.format == "geotiff" else None)
        return _in_memory(chips)

    def _probabilities(self, chips: Any) -> tuple[tuple[str, ...], Float[np.ndarray, "n c"]]:
        ids, pixels = self._usable(chips)
        return ids, self._predictor.probabilities(ids, pixels)


def load(run: str | Path, *, weights: str | None = None) -> Model:
    """Return the model of a finished run; see :class:`Model`."""
    return Model(run, weights=weights)


def fit(
    data: Any,
    *,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Model:
    """Train, evaluate and choose as `deblora run` does, and return the model.

    Args:
        data: A path (data or a recipe, ``.yaml``), a pair of chips and labels (arrays or sequences; labels are names
            or numbers), or a torch or Hugging Face ``Dataset`` whose samples are pairs or mappings with ``image`` and
            ``label``.
        out: Run folder; a temporary one that lives as long as the model if left out. Chips in memory are written
            beside it, into ``<out>-chips``.
        settings: By dotted name, such as ``{"lora.max_train_steps": 500, "seed": 1}``; see docs/settings.md.
        resume: Go on in an existing folder.
        overwrite: Empty an existing folder first.

    Raises:
        DebloraError: What is wrong with data, settings or folder.
    """
    temporary = tempfile.TemporaryDirectory(prefix="deblora-") if out is None else None
    root = Path(temporary.name) / "run" if temporary else Path(str(out))
    source = str(data) if isinstance(data, str | Path) else str(_written(data, root))
    recipe, note = recipe_of(source, dict(settings or {}))
    model = Model(start_run(root, recipe, resume=resume, overwrite=overwrite, note=note).root)
    model._temporary = temporary
    return model


def audit(
    data: str | Path, *, settings: Mapping[str, Any] | None = None, decode: bool = True
) -> pd.DataFrame:
    """Return class, group, chips per split and imbalance ratio; what is doubtful stands in ``attrs["warnings"]``.

    Args:
        data: Data or a recipe.
        settings: By dotted name.
        decode: Read every chip, for copies, wrong values and damage.

    Raises:
        DataError: What a run would refuse.
    """
    read_source.cache_clear()
    values = values_from(str(data), dict(settings or {}))
    recipe = recipe_from({key: values[key] for key in ("seed", "data") if key in values})
    chips = select_chips(recipe.data, recipe.seed)
    lines = [*chips.notes, *classes_unjudged(chips)]
    if decode:
        chips, seen = readable(chips, recipe.data)
        check_values(seen, recipe.data)
        lines += [*seen.unreadable.values(), *doubts(chips, seen, recipe.data)]
    found = pd.DataFrame(describe(chips, choose_groups(chips, recipe.data)))
    found.attrs["warnings"] = lines
    return found


def compare(
    data: str | Path,
    *,
    out: str | Path,
    n_seeds: int = 5,
    methods: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    n_jobs: int = 1,
) -> pd.DataFrame:
    """Compare methods over seeds as `deblora compare` does, and return the scores of all seeds, one below the other.

    Args:
        data: Data or a recipe.
        out: Folder for all runs, ``index.html`` and tables; finished seeds in it are kept.
        n_seeds: At least 1.
        methods: Names; the default list if empty.
        settings: By dotted name.
        n_jobs: Seeds and methods that run at the same time.

    Raises:
        DebloraError: What is wrong with data, settings or folder.
    """
    recipe, _ = recipe_of(str(data), dict(settings or {}))
    compare_seeds(recipe, Path(out), n_seeds=n_seeds, methods=chosen_methods(methods, recipe), n_jobs=n_jobs)
    return pd.read_csv(Path(out) / "results.csv")


# --- chips in memory ----------------------------------------------------------------------------------------------


def _in_memory(chips: Any) -> tuple[tuple[str, ...], ArrayPixels]:
    """Return ids (positions) and pixels of chips in any form but a path."""
    arrays = [array for one in _each(chips) for array in _arrays(one)]
    if not arrays:
        raise DataError("no chips were given")
    ids = tuple(str(i) for i in range(len(arrays)))
    return ids, ArrayPixels(arrays, ids)


def _each(chips: Any) -> Iterator[Any]:
    """Yield images or stacks of them, without labels, from one, several, a data set or a loader."""
    if _is_image(chips) or isinstance(chips, Mapping):
        yield _image_of(chips)
        return
    try:
        samples = _samples(chips)
    except TypeError as error:
        raise DataError(f"{type(chips).__name__} is no form of chips; see help(deblora.Model)") from error
    for sample in samples:
        yield _image_of(sample)


def _samples(data: Any) -> Iterable[Any]:
    """Return an iterable over a sequence, a loader, or a data set that knows only its length and items."""
    if hasattr(data, "__iter__"):
        return data  # type: ignore[no-any-return]
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return (data[i] for i in range(len(data)))
    raise TypeError(type(data))


def _is_image(value: Any) -> bool:
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


def _image_of(sample: Any) -> Any:
    if isinstance(sample, Mapping):
        if "image" not in sample:
            raise DataError(f"a sample has the keys {sorted(map(str, sample))}; image is needed")
        return sample["image"]
    return sample[0] if isinstance(sample, tuple | list) and sample else sample


def _label_of(sample: Any) -> str:
    label = sample.get("label") if isinstance(sample, Mapping) else sample[1] if len(sample) == 2 else None
    if label is None:
        raise DataError(
            "a sample for training is a pair of image and label, or a mapping with image and label"
        )
    return str(label.item() if hasattr(label, "item") else label)


def _arrays(image: Any) -> Iterator[np.ndarray]:
    """Yield ``h w b`` arrays of one image or a stack; bands come first in tensors and last in arrays."""
    if not _is_image(image):
        raise DataError(f"{type(image).__name__} is no image; see help(deblora.Model)")
    if hasattr(image, "convert"):  # PIL
        image = image if image.mode in ("L", "RGB", "I;16", "F") else image.convert("RGB")
    is_tensor = type(image).__module__.split(".")[0] == "torch"
    array = np.asarray(image.detach().cpu() if is_tensor else image)
    if is_tensor and array.ndim in (3, 4):
        array = np.moveaxis(array, -3, -1)
    if array.ndim not in (2, 3, 4):
        raise DataError(f"an array of shape {array.shape} is no chip; give h w, h w b or n h w b")
    yield from array if array.ndim == 4 else (array,)


def _written(data: Any, root: Path) -> Path:
    """Write chips in memory beside a run folder, as ``.npy`` files with a list that readers take."""
    folder = root.with_name(f"{root.name}-chips")
    if isinstance(data, tuple) and len(data) == 2:
        images, labels = [array for one in _each(data[0]) for array in _arrays(one)], list(data[1])
        if len(images) != len(labels):
            raise DataError(
                f"{len(images)} chips and {len(labels)} labels were given; give one label per chip"
            )
        pairs: Iterable[tuple[np.ndarray, str]] = zip(
            images, (_label_of((None, one)) for one in labels), strict=True
        )
    else:
        pairs = ((next(_arrays(_image_of(one))), _label_of(one)) for one in _samples(data))
    (folder / "chips").mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("path", "label"))
    for i, (array, label) in zip(count(), pairs):
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        write_atomic(folder / "chips" / f"{i:06d}.npy", stream.getvalue())
        lines.writerow((f"chips/{i:06d}.npy", label))
    write_atomic(folder / "list.csv", text.getvalue())
    return folder / "list.csv"
