"""The text side of a CLIP folder: class names as vectors that images are compared with by cosine.

    score(x, c) = < W f(x) / |.|, t_c >,    t_c = mean over templates of text(template(c)) / |.|, to unit length

``f(x)`` is the normalized class token of the vision tower, which is the feature of a CLIP backbone with ``pool: cls``,
at any length. The projection ``W`` is the model's own and stays as it is. Averaging templates is CLIP's prompt
ensembling (arXiv 2103.00020).
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from deblora.errors import ModelError
from deblora.models.weights import quiet, read_json, weights_file

# Our choice; CLIP's own lists for aerial data sets have one to three of this kind.
TEMPLATES = (
    "a satellite photo of a {class}.",
    "an aerial photo of a {class}.",
    "a remote sensing image of a {class}.",
    "a {class} seen from above.",
)
TOKENIZERS = ("tokenizer.json", "vocab.json")


class TextHead(nn.Module):
    """Cosine of image and class texts; nothing in it is trained.

    Args:
        projection: Weight that brings images into the space of the texts, ``d v``.
        texts: Unit text vectors of the classes, ``c d``.
        scale: Inverse temperature that CLIP learned.
    """

    def __init__(
        self,
        projection: Float[torch.Tensor, "d v"],
        texts: Float[torch.Tensor, "c d"],
        scale: float,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.projection: torch.Tensor
        self.texts: torch.Tensor
        self.register_buffer("projection", projection)
        self.register_buffer("texts", texts)

    def forward(self, features: Float[torch.Tensor, "b v"]) -> Float[torch.Tensor, "b c"]:
        """Return the cosine of every chip with every class, -1 to 1."""
        with torch.autocast(features.device.type, enabled=False):  # bf16 would round cosines to 1/256
            images = functional.normalize(features.float() @ self.projection.T, dim=1)
            return images @ self.texts.T


def has_text(folder: Path) -> bool:
    """Tell whether a folder holds a whole CLIP model with its tokenizer."""
    config = folder / "config.json"
    if not config.is_file() or read_json(config).get("model_type") != "clip":
        return False
    return any((folder / name).is_file() for name in TOKENIZERS)


def spoken(name: str) -> str:
    """Return a class name as words: ``ground-track-field`` is ``ground track field``."""
    return " ".join(name.replace("_", " ").replace("-", " ").split())


def load_text_head(
    folder: Path, class_names: tuple[str, ...], templates: tuple[str, ...] = TEMPLATES
) -> TextHead:
    """Embed class names with the frozen text tower of a CLIP folder, which is then dropped.

    Args:
        folder: Folder with ``config.json``, ``model.safetensors`` and a tokenizer; CLIP of OpenAI or OpenCLIP in the
            layout of Hugging Face.
        class_names: Names, known before any image is seen.
        templates: Sentences with ``{class}`` where the name goes.

    Raises:
        ModelError: If the folder is no whole CLIP model, is damaged, or a template has no ``{class}``.
    """
    wrong = [template for template in templates if "{class}" not in template]
    if wrong or not templates:
        raise ModelError(
            f"lora.templates needs sentences with {{class}} in them, got {list(wrong or templates)}"
        )
    check_text(folder)
    model, tokenizer = _open(folder)
    return TextHead(
        model.visual_projection.weight.detach().clone(),
        torch.stack([_class_text(model, tokenizer, name, templates) for name in class_names]),
        float(model.logit_scale.detach().exp()),
    )


def check_text(folder: Path) -> None:
    """Check that a folder holds a whole CLIP model with its tokenizer, without loading it.

    Raises:
        ModelError: If it does not.
    """
    if not has_text(folder):
        raise ModelError(
            f"{folder} is not a whole CLIP model with its tokenizer (config.json of type clip, and tokenizer.json or "
            "vocab.json); texts need one: fetch these files too, or set lora.loss to cross_entropy"
        )


def _open(folder: Path) -> tuple[Any, Any]:
    from transformers import CLIPModel, CLIPTokenizer

    weights_file(folder)  # says what to do about pickled weights
    try:
        with quiet():
            model, notes = CLIPModel.from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, output_loading_info=True
            )
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        if notes["missing_keys"]:
            raise ValueError(f"the weights lack {sorted(notes['missing_keys'])[0]}")
    except Exception as error:  # safetensors and the strict configurations raise classes of their own
        if isinstance(error, (MemoryError, ImportError)):
            raise
        raise ModelError(f"{folder} cannot be loaded as a whole CLIP model ({str(error)[:300]})") from error
    return model.float().eval(), tokenizer


@torch.no_grad()
def _class_text(
    model: Any, tokenizer: Any, name: str, templates: tuple[str, ...]
) -> Float[torch.Tensor, " d"]:
    tokens = tokenizer(
        [template.replace("{class}", spoken(name)) for template in templates],
        padding="max_length",
        truncation=True,
        max_length=int(model.config.text_config.max_position_embeddings),
        return_tensors="pt",
    )
    pooled = model.text_model(input_ids=tokens.input_ids).pooler_output
    each = functional.normalize(model.text_projection(pooled), dim=1)
    return functional.normalize(each.mean(dim=0), dim=0)
