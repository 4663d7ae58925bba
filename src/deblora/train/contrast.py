"""Image-text contrast against fixed class texts: CLIP's own loss for the first adapter."""

import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional

from deblora.models.backbone import Backbone
from deblora.models.backbones.clip_text import TextHead


class Contrast(nn.Module):
    """Symmetric contrast of chips and class texts; only the vision tower's adapter is trained.

    With cosines ``s_ic`` of chip i and class c, CLIP's inverse temperature ``k``, and the classes C(b) of the batch::

        image to text   a = mean over chips i of    -log softmax over all classes c of k s_ic, at c = y_i
        text to image   b = mean over c in C(b) of  -mean over i with y_i = c of log softmax over chips of k s_ic
        loss = (a + b) / 2

    Several chips of one class are all right answers for its text, as in UniCL (arXiv 2204.03610); chips are compared
    with every class text instead of only those of the batch (our choice: the texts are few and computed once).

    Args:
        backbone: CLIP's vision tower with ``pool: cls`` and a trainable adapter.
        head: Texts of the training classes.
        n_classes: Classes that labels count.
        trained: Label of each text of ``head``; a class without training chips has no text.
    """

    def __init__(self, backbone: Backbone, head: TextHead, *, n_classes: int, trained: list[int]) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        place = torch.full((n_classes,), -1)
        place[torch.tensor(trained)] = torch.arange(len(trained))
        self.place: torch.Tensor
        self.register_buffer("place", place)

    def forward(
        self, pixels: Float[torch.Tensor, "b c h w"], labels: Int[torch.Tensor, " b"]
    ) -> dict[str, torch.Tensor]:
        """Return the loss of a batch."""
        logits = self.head.scale * self.head(self.backbone(pixels))
        return {"loss": contrast(logits, self.place[labels])}


def contrast(logits: Float[torch.Tensor, "b c"], texts: Int[torch.Tensor, " b"]) -> Float[torch.Tensor, ""]:
    """Return the symmetric loss of scaled cosines, given the right text of every chip."""
    to_text = functional.cross_entropy(logits, texts)
    right = functional.one_hot(texts, logits.shape[1]).to(logits)
    n_chips = right.sum(dim=0)
    present = n_chips > 0
    per_text = -(right * logits.log_softmax(dim=0)).sum(dim=0)[present] / n_chips[present]
    return (to_text + per_text.mean()) / 2
