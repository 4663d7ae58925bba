"""The frozen model of a recipe: where its weights lie, how it is opened, and what stages that run it depend on.

Whatever is read of a model, its texts included, is looked for where :func:`weights_path` says.
"""

import json
from dataclasses import replace
from pathlib import Path

from deblora.data.chips import ChipSet
from deblora.data.pixels import band_statistics
from deblora.errors import DataError, ModelError
from deblora.files import file_sha256, write_atomic
from deblora.models.adapters.lora import SIDECAR
from deblora.models.backbone import Backbone, load_backbone, with_bands, with_unit_features
from deblora.models.backbones.diffusion_files import pipeline_sha256
from deblora.models.backbones.vision import EMBEDDED
from deblora.models.hub import find_weights
from deblora.models.presets import PRESETS, how_to_get
from deblora.models.weights import weights_file
from deblora.pipeline.audited import check_bands
from deblora.recipe.classify import BackboneRecipe, Recipe, tables
from deblora.run.run_dir import RunDir


def uses_train_statistics(recipe: BackboneRecipe, *, native_bands: int) -> bool:
    """Tell whether bands are normalized by the training chips: asked for, or the model knows other bands."""
    return recipe.normalize == "train" or recipe.n_bands not in (None, native_bands)


def fit_input(backbone: Backbone, chips: ChipSet) -> None:
    """Set mean and standard deviation of every band to those of the training chips of a set, in place.

    Args:
        backbone: Its ``spec`` is replaced where it asks for it (``train_statistics``).
        chips: Chips of the run; those outside of the split ``train`` are not read.

    Raises:
        DataError: If training chips differ in their number of bands.
    """
    if not backbone.train_statistics:
        return
    mean, std = band_statistics(chips.split("train").pixels, scale=backbone.spec.scale)
    n_bands = backbone.spec.n_bands
    if len(mean) == 1:  # a gray band is repeated
        mean, std = mean * n_bands, std * n_bands
    if len(mean) != n_bands:
        raise DataError(
            f"training chips have {len(mean)} bands, the backbone takes {n_bands}; set backbone.n_bands to {len(mean)}"
        )
    backbone.spec = replace(backbone.spec, mean=mean, std=std)


def adopt_input(backbone: Backbone, adapter: Path) -> None:
    """Take over the statistics that an adapter was trained with, in place.

    Raises:
        ModelError: If its ``base.json`` is damaged.
    """
    try:
        record = json.loads((adapter / SIDECAR).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # loading the adapter says what is wrong with it
    if not isinstance(record, dict) or not (backbone.train_statistics or record.get("normalize") == "train"):
        return
    try:
        mean, std = (tuple(map(float, record[key])) for key in ("mean", "std"))
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError("mean and std do not fit")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{adapter / SIDECAR} is damaged ({error}); train the adapter again") from error
    if len(mean) == backbone.spec.n_bands:
        backbone.spec = replace(backbone.spec, mean=mean, std=std)
        backbone.train_statistics = True


DIFFUSION = "stable-diffusion"
OF_DIFFUSION = ("timestep", "draws", "layer", "prompt")  # other backbones do not read them


def weights_path(recipe: BackboneRecipe) -> Path | None:
    """Return where the weights of the recipe lie, fetched from the hub if need be; ``None`` for the embedded model.

    Raises:
        ModelError: If the weights are not here and cannot be fetched; says how to get them.
    """
    preset = PRESETS.get(recipe.name)
    if not recipe.path or preset is None:
        return Path(recipe.path) if recipe.path else None
    get = how_to_get(recipe.name, recipe.path)
    if get and not Path(recipe.path).exists():
        raise ModelError(f"{recipe.path} does not exist; where there is a network, get it with\n  {get}")
    return find_weights(
        recipe.path, revision=recipe.revision, files=preset.hub_files, from_hub=bool(preset.hub_files)
    )


def note_weights(run: RunDir, recipe: Recipe) -> None:
    """Note where the weights of the backbone lie, for uses of the run from another folder."""
    path = Path(recipe.backbone.path or "")
    if recipe.backbone.path and path.exists():
        write_atomic(run.weights_note, json.dumps({"path": str(path.resolve())}))


def find_noted_weights(run: RunDir, recipe: Recipe, given: str | None = None) -> Recipe:
    """Return the recipe with the place where the weights of the backbone are now.

    That is the place given, else that of the recipe, seen from the present folder, else that which was noted when the
    run was made.

    Raises:
        ModelError: If they are in none of these places; says how to name another one.
    """
    if given is not None:
        return replace(recipe, backbone=replace(recipe.backbone, path=given))
    path = recipe.backbone.path
    if not path or Path(path).exists() or not run.weights_note.is_file():
        return recipe
    try:
        noted = str(json.loads(run.weights_note.read_text(encoding="utf-8"))["path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{run.weights_note} is damaged ({error}); name the weights with --backbone.path PATH"
        ) from error
    if not Path(noted).exists():
        raise ModelError(
            f"the weights of {recipe.backbone.name} are neither at {path}, seen from here, nor at {noted}, where they "
            "were when the run was made; name their place with --backbone.path PATH"
        )
    return replace(recipe, backbone=replace(recipe.backbone, path=noted))


def text_model(recipe: BackboneRecipe) -> Path:
    """Return where a text tower would lie: in the folder of the model, on disk or of the hub."""
    return weights_path(recipe) or Path()


def open_backbone(recipe: BackboneRecipe, *, seed: int) -> Backbone:
    """Load the frozen model of the recipe, for as many bands as it asks for; the seed is that of diffusion noise."""
    settings = {key: value for key, value in tables(recipe).items() if key not in ("name", "path")}
    backbone = load_backbone(recipe.name, path=weights_path(recipe), noise_seed=seed, **settings)
    by_chips = uses_train_statistics(recipe, native_bands=backbone.spec.n_bands)
    if recipe.n_bands is not None:
        backbone = with_bands(backbone, recipe.n_bands)
    backbone.train_statistics = by_chips
    return with_unit_features(backbone) if recipe.l2_normalize else backbone


def model_settings(recipe: BackboneRecipe) -> list[object]:
    """Return what a stage that runs the model depends on: its settings and the hash of its weights."""
    read = PRESETS[recipe.name].options
    chosen = {key: value for key, value in tables(recipe).items() if key in read or key not in OF_DIFFUSION}
    if recipe.name == DIFFUSION:
        return [chosen, pipeline_sha256(weights_path(recipe) or Path())]
    file = weights_file(weights_path(recipe) or EMBEDDED, names=PRESETS[recipe.name].files)
    return [chosen, file_sha256(file)]


def noise_settings(recipe: BackboneRecipe, *, seed: int) -> list[object]:
    """Return the seed where features depend on it, that is on the noise of diffusion; for keys that leave it out."""
    return [seed] if recipe.name == DIFFUSION else []


def open_for_chips(run: RunDir, recipe: Recipe, chips: ChipSet) -> Backbone:
    """Load the frozen model, check it against the bands of the run, and let it see chips as training chips are.

    Raises:
        DataError: If chips have other bands than the model takes.
    """
    backbone = open_checked(run, recipe)
    fit_input(backbone, chips)
    return backbone


def open_checked(run: RunDir, recipe: Recipe) -> Backbone:
    """Load the frozen model and check it against the bands of the run.

    Raises:
        DataError: If chips have other bands than the model takes.
    """
    backbone = open_backbone(recipe.backbone, seed=recipe.seed)
    check_bands(run, backbone.spec.n_bands, backbone.name, named=recipe.data.band_names)
    return backbone
