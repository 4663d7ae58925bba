"""``deblora suggest``: the chips of an unlabeled pool to label next, as a queue with a page.

Chips go through the model of the run once; their features are kept in the run folder, block by block, so that a killed
command goes on and a pool that has grown costs what is new.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from deblora.data.chips import Pixels, SubsetPixels
from deblora.data.decode import FilePixels, content_hash
from deblora.data.readers.registry import read_unlabeled
from deblora.errors import ArtifactError, DataError
from deblora.evaluate.suggest import UNLIKE, Proposals, Strategy, propose
from deblora.files import remove_leftovers, write_atomic
from deblora.models.adapters.lora import adapter_sha256
from deblora.pipeline.audited import read_audited
from deblora.pipeline.classify.additions import read_additions
from deblora.pipeline.classify.admit import features_of
from deblora.pipeline.classify.chips import reading_of
from deblora.pipeline.classify.evaluate.fit import side_by_side
from deblora.pipeline.classify.predict import OnError, Predictor, Shipped, usable_chips
from deblora.pipeline.classify.queue import MAX_SIDE, Queue, QueueChip, QueueClass, run_id, write_queue
from deblora.pipeline.open_model import model_settings
from deblora.recipe.classify import Recipe
from deblora.report.overlays import data_uri, to_rgb
from deblora.run.artifacts import FeatureTable
from deblora.run.run_dir import RunDir, fingerprint

log = logging.getLogger("deblora")

BLOCK = 1024
"""Chips whose features are one file."""

FILES = ("queue.json", "queue.csv", "index.html", "pictures")
TAIL_FIRST = {"tail": 0, "middle": 1, "head": 2, "": 3}


def suggest_chips(
    run: RunDir,
    recipe: Recipe,
    pool: Path,
    out: Path,
    *,
    n: int = 50,
    strategy: Strategy = "half-sure",
    n_unlike: int = 0,
    seed: int = 0,
    on_error: OnError = "stop",
    weights: str | None = None,
) -> Queue:
    """Choose chips of a pool to label next and write them as a queue.

    Chips of the run, of its validation and test too, and copies of them are never proposed; nor are copies of chosen
    ones.

    Args:
        run: A finished run; labels that were added since count.
        recipe: Its settings.
        pool: What :func:`~deblora.data.readers.registry.read_unlabeled` takes.
        out: Folder of the queue; new or empty.
        n: Chips to choose.
        strategy: See :mod:`deblora.evaluate.suggest`.
        n_unlike: How many of them are to be unlike all classes.
        seed: Of the strategy.
        on_error: Chips of the pool that cannot be used: stop and name them, or leave them out.
        weights: Where the weights of the backbone are, if not where they were.

    Raises:
        ArtifactError: If ``out`` holds something, or files of the run are missing, stale or damaged.
        DataError: If the pool cannot be read, or has no chip that is not known.
        ModelError: If the weights of the backbone are not found or are others.
    """
    _check_out(out, pool)
    predictor = Predictor.open(run, recipe, weights=weights)
    model = predictor.model
    geotiff = reading_of(recipe.data) if recipe.data.format == "geotiff" else None
    ids, pixels, skipped = usable_chips(run, recipe, *read_unlabeled(pool, geotiff=geotiff), on_error)
    if skipped:
        log.warning("suggest: %d chips cannot be used, first: %s", len(skipped), next(iter(skipped.values())))
    audited = read_audited(run)
    judges = {i for i, split in zip(audited.ids, audited.splits, strict=True) if split != "train"}
    free = [i for i, chip_id in enumerate(ids) if chip_id not in judges]
    if len(free) < len(ids):
        log.warning(
            "suggest: %d chips have the names of validation or test chips and are left out",
            len(ids) - len(free),
        )
    ids, pixels = tuple(ids[i] for i in free), SubsetPixels(pixels, tuple(free))
    features = _pool_features(predictor, ids, pixels) if ids else np.zeros((0, 1))
    found = propose(
        _balanced(model, features),
        features,
        n,
        temperature=model.temperature,
        counts=np.maximum(model.n_labels, 0),
        known=_known(run, model.tables),
        strategy=strategy,
        n_unlike=n_unlike,
        rng=np.random.default_rng(seed),
    ) if ids else Proposals(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))  # fmt: skip
    if not len(found.indices):
        raise DataError(f"{pool} holds no chip that the run does not know already; give another pool")
    if len(found.indices) < n:
        log.warning("suggest: %d chips instead of %d; the others are known or copies", len(found.indices), n)
    order = _rare_first(found, model)
    queue = Queue(
        root=out,
        run=run_id(run),
        run_folder=str(run.root),
        pool=str(pool),
        classes=_classes(model),
        strategy=strategy,
        n=n,
        seed=seed,
        chips=tuple(_chip(found, k, ids, pixels, model) for k in order),
    )
    pictures = [to_rgb(pixels.read(int(found.indices[k]))) for k in order]
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "index.html", _page(queue, pictures))
    write_queue(queue, pictures)
    return queue


def _check_out(out: Path, pool: Path) -> None:
    if pool.is_dir() and out.resolve().is_relative_to(pool.resolve()):
        raise DataError(f"{out} lies inside the pool, {pool}; name a folder outside")
    if out.exists() and not out.is_dir():
        raise ArtifactError(f"{out} is a file; name a folder")
    remove_leftovers(out, deep=True)
    if (out / "queue.json").is_file():
        raise ArtifactError(f"{out} holds a queue, maybe with labels; name a new folder")
    for path in sorted(out.iterdir()) if out.is_dir() else ():
        if path.name not in FILES:
            raise ArtifactError(f"{path} is no part of a queue; choose another folder")
        # What a killed command left: without queue.json it is no queue yet.
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _balanced(model: Shipped, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
    """Return logits that take all classes as equally frequent."""
    logits = model.head.logits(features)
    if model.classifier != "cross_entropy":
        return logits
    prior = np.log(np.maximum(model.n_labels, 0.5) / max(1, int(model.n_labels.sum())))
    return np.asarray(logits - model.temperature * prior)


def _known(run: RunDir, tables: tuple[str, ...]) -> Float[np.ndarray, "n d"]:
    """Return the features of all chips of the run, of every split, and of those that labeling added."""
    audited, added = read_audited(run), read_additions(run)
    parts = [side_by_side(run, tables, audited.ids)]
    if added is not None and added.chips:
        parts.append(features_of(added, tables))
    return np.vstack(parts)


def _pool_features(predictor: Predictor, ids: tuple[str, ...], pixels: Pixels) -> Float[np.ndarray, "n d"]:
    """Return the features of a pool; blocks that were extracted before, by content and model, are read."""
    run, recipe = predictor.run, predictor.recipe
    adapters = [run.adapter(name) for name in ("lora", "deblora") if run.adapter(name).is_dir()]
    key = fingerprint(
        [model_settings(recipe.backbone), recipe.extract.__dict__, predictor.model.tables],
        {"adapters": [adapter_sha256(folder) for folder in adapters]},
    )[:16]
    folder = run.root / "pools" / key
    parts = []
    for first in range(0, len(ids), BLOCK):
        rows = tuple(range(first, min(first + BLOCK, len(ids))))
        own = tuple(ids[i] for i in rows)
        path = folder / f"{fingerprint(_contents(pixels, rows), {})[:24]}.safetensors"
        if path.is_file():
            parts.append(FeatureTable.load(path).rows(tuple(str(i) for i in range(len(rows)))))
            continue
        features = predictor.features(own, SubsetPixels(pixels, rows))
        FeatureTable(tuple(str(i) for i in range(len(rows))), features, {}).save(path)
        parts.append(features)
    return np.vstack(parts)


def _contents(pixels: Pixels, rows: Sequence[int]) -> list[str]:
    """Return what tells chips from others: hashes of their pixels."""
    return [content_hash(pixels.read(i)) for i in rows]


def _classes(model: Shipped) -> tuple[QueueClass, ...]:
    group_of = {c: group for group, members in model.groups.named().items() for c in members}
    return tuple(
        QueueClass(name, group_of.get(c, ""), int(model.n_labels[c]))
        for c, name in enumerate(model.class_names)
    )


def _rare_first(found: Proposals, model: Shipped) -> list[int]:
    """Return the order to label: classes with few labels first, each in the order it was proposed; unlike ones last."""

    def key(k: int) -> tuple[int, int, int]:
        c = int(found.classes[k])
        return (1, 0, k) if c == UNLIKE else (0, int(model.n_labels[c]) * len(model.n_labels) + c, k)

    return sorted(range(len(found.indices)), key=key)


def _chip(found: Proposals, k: int, ids: tuple[str, ...], pixels: SubsetPixels, model: Shipped) -> QueueChip:
    i, c = int(found.indices[k]), int(found.classes[k])
    group_of = {c: group for group, members in model.groups.named().items() for c in members}
    name, group = ("", "") if c == UNLIKE else (model.class_names[c], group_of.get(c, ""))
    path = _path(pixels, i) or ids[i]
    return QueueChip(ids[i], path, name, float(found.probabilities[k]), group)


def _path(pixels: Pixels, i: int) -> str:
    """Return the file of a chip, where it is a file of its own."""
    if isinstance(pixels, SubsetPixels):
        return _path(pixels.base, pixels.indices[i])
    return str(pixels.paths[i]) if isinstance(pixels, FilePixels) else ""


def _page(queue: Queue, pictures: Sequence[np.ndarray]) -> str:
    """Return the static page: pictures by proposed class with a field each, and a button that gives ``labels.csv``."""
    groups: dict[str, list[str]] = {}
    for chip, picture in zip(queue.chips, pictures, strict=True):
        image = Image.fromarray(picture)
        image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
        field = (
            f'<figure><img alt="" src="{data_uri(image)}"><figcaption title="{escape(chip.id)}">{chip.probability:.0%}'
            f'</figcaption><input list="classes" data-id="{escape(chip.id, quote=True)}" '
            f'data-path="{escape(chip.path, quote=True)}" placeholder="{escape(chip.proposed, quote=True)}"></figure>'
        )
        groups.setdefault(chip.proposed, []).append(field)
    counts = {own.name: own for own in queue.classes}
    sections = "".join(
        f"<section><h2>{escape(_heading(name, counts))}</h2><div>{''.join(fields)}</div></section>"
        for name, fields in groups.items()
    )
    options = "".join(f'<option value="{escape(own.name, quote=True)}">' for own in queue.classes)
    text = resources.files("deblora.pipeline.classify").joinpath("suggest.html").read_text(encoding="utf-8")
    said = f"{len(queue.chips)} chips of {queue.pool} to label next, by {queue.strategy}."
    parts = {"SAID": escape(said), "SECTIONS": sections, "OPTIONS": options}
    for name, part in parts.items():
        text = text.replace(f"[[{name}]]", part)
    return text.replace("[[FOLDER]]", escape(json.dumps(queue.root.name)[1:-1]))


def _heading(name: str, counts: dict[str, QueueClass]) -> str:
    if not name:
        return "Unlike all classes: maybe a new one"
    own = counts[name]
    return f"{name}? ({own.group + ', ' if own.group else ''}{own.n_labels} labels so far)"
