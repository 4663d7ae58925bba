"""Stable Diffusion (v1 and v2) as a backbone: what its UNet sees in a chip after one noising step.

    z0 = scaling_factor * VAE(x)
    z_t = sqrt(abar_t) z0 + sqrt(1 - abar_t) e
    feature = mean over draws of e, rows and columns of UNet(z_t, t, prompt) at one block

Timestep 1, eight draws and the middle block are those of the debLoRA authors' code; reading features off a denoising
UNet is DIFT (arXiv 2306.03881). The text is one constant for all chips, never a class name.
"""

import hashlib
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional

from deblora.errors import ModelError
from deblora.models.backbone import Backbone, InputSpec
from deblora.models.backbones.diffusion_files import (
    EXTRA,
    open_part,
    pipeline_files,
    pipeline_sha256,
)
from deblora.models.weights import quiet, read_json

NAME = "stable-diffusion"
ATTENTION = re.compile(r"\.(to_q|to_k|to_v|to_out\.0)$")  # the projections that diffusers' LoRA scripts adapt
CELLS, LEVELS = 8, 32  # noise key: averages of 8 x 8 cells in steps of 1/32 of the model's input range


class _Reached(Exception):
    """Raised by the hook once the wanted block has run: what follows it is not needed."""


class DiffusionFeatures(nn.Module):
    """Everything around the UNet: latents, noise, the constant text, and the pooled output of one block.

    Args:
        vae: Frozen encoder to latents.
        scheduler: diffusers' ``DDPMScheduler`` of the model.
        text: Embedding of the constant prompt, ``1 t d``.
        timestep: Noising step of the features, 0 to the scheduler's last.
        n_draws: Noise draws that a feature averages.
        layer: ``mid``, or ``up0``, ``up1``, ... for the blocks after it.
        seed: Seed of the noise.
    """

    def __init__(
        self,
        vae: nn.Module,
        scheduler: Any,
        text: Float[torch.Tensor, "1 t d"],
        *,
        timestep: int,
        n_draws: int,
        layer: str,
        seed: int,
    ) -> None:
        super().__init__()
        self.vae, self.scheduler = vae, scheduler
        self.timestep, self.n_draws, self.layer, self.seed = timestep, n_draws, layer, seed
        self.text: torch.Tensor
        self.register_buffer("text", text)

    def train(self, mode: bool = True) -> "DiffusionFeatures":  # noqa: ARG002
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, unet: nn.Module, pixels: Float[torch.Tensor, "b 3 h w"]) -> Float[torch.Tensor, "b d"]:
        """Return one feature per chip. The same pixels give the same noise, whatever else is in the batch."""
        return self.maps(unet, pixels).mean(dim=(2, 3))

    def maps(
        self, unet: nn.Module, pixels: Float[torch.Tensor, "b 3 h w"]
    ) -> Float[torch.Tensor, "b d h2 w2"]:
        """Return the block's output, averaged over the draws."""
        clean, keys = self.latents(pixels), noise_keys(pixels)
        steps = torch.full((len(pixels),), self.timestep, device=clean.device)
        total = torch.zeros((), device=clean.device)
        for draw in range(self.n_draws):
            noise = torch.stack([keyed_noise(clean.shape[1:], self.seed, key, draw) for key in keys])
            noisy = self.scheduler.add_noise(clean, noise.to(clean), steps)
            total = total + self._block_output(unet, noisy, steps).float()
        return total / self.n_draws

    def map_multiple_of(self, unet: nn.Module) -> int:
        """Return the pixels per cell of the maps: 64 at ``mid`` of v1.5, 32, 16, 8 and 8 at ``up0`` to ``up3``."""
        config: Any = self.vae.config
        n_blocks, i = (
            len(_without_adapters(unet).up_blocks),
            -1 if self.layer == "mid" else int(self.layer[2:]),
        )
        return 2 ** (len(config.block_out_channels) - 1 + max(n_blocks - 2 - i, 0))

    @torch.no_grad()
    def latents(self, pixels: Float[torch.Tensor, "b 3 h w"]) -> Float[torch.Tensor, "b c h2 w2"]:
        """Return scaled latents: the mean of the VAE's distribution, not a sample (our choice)."""
        config: Any = self.vae.config
        encode: Any = self.vae.encode
        latents: torch.Tensor = encode(pixels).latent_dist.mode().float()
        return latents * config.scaling_factor

    def predict(
        self, unet: nn.Module, noisy: Float[torch.Tensor, "b c h w"], steps: Int[torch.Tensor, " b"]
    ) -> Float[torch.Tensor, "b c h w"]:
        """Return what the whole UNet predicts."""
        text = self.text.expand(len(noisy), -1, -1)
        return unet(noisy, steps, encoder_hidden_states=text, return_dict=False)[0]

    def _block_output(
        self, unet: nn.Module, noisy: Float[torch.Tensor, "b c h w"], steps: Int[torch.Tensor, " b"]
    ) -> Float[torch.Tensor, "b d h2 w2"]:
        seen: list[torch.Tensor] = []

        def stop(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            seen.append(output)
            raise _Reached

        handle = block_of(unet, self.layer).register_forward_hook(stop)
        try:
            with suppress(_Reached):  # the whole UNet would take three times as long as up to `mid`
                self.predict(unet, noisy, steps)
        finally:
            handle.remove()
        return seen[0]


def load(
    path: str | Path,
    *,
    image_size: int | None = None,
    timestep: int = 1,
    draws: int = 8,
    layer: str = "mid",
    prompt: str = "",
    noise_seed: int = 0,
) -> Backbone:
    """Load Stable Diffusion, frozen, from a folder of diffusers.

    Adapters go to the UNet's attention projections (``to_q``, ``to_k``, ``to_v``, ``to_out.0``). The text encoder reads
    the prompt once and is dropped. Activations are recomputed while training (gradient checkpointing).

    Args:
        path: Folder with ``model_index.json``.
        image_size: Pixels per side, a multiple of the VAE's stride (8); the model's own (v1.5: 512) if ``None``.
        timestep: Noising step, 0 to 999 for v1.5 (authors' code: 1).
        draws: Noise draws averaged per chip, >= 1 (authors' code: 8). Time grows with it.
        layer: ``mid`` (authors' code) or ``up0`` to ``up3``.
        prompt: One text for all chips (ours: empty; the authors' scripts leak the class name here).
        noise_seed: Seed of the noise.

    Raises:
        ModelError: If diffusers is not installed, files are missing, damaged or pickled, the pipeline is of another
            family (SDXL, inpainting), or a setting does not fit it.
    """
    try:
        import diffusers
    except ImportError as error:
        raise ModelError(EXTRA) from error
    folder = Path(path)
    pipeline_files(folder)
    _check_family(folder)
    with quiet():
        unet = open_part(folder, "unet", diffusers.UNet2DConditionModel)
        vae = open_part(folder, "vae", diffusers.AutoencoderKL)
        text = _embedded(folder, prompt)
    scheduler = diffusers.DDPMScheduler.from_pretrained(str(folder / "scheduler"))
    _check_settings(folder, unet, vae, scheduler, timestep=timestep, layer=layer, text=text)
    stride = 2 ** (len(vae.config.block_out_channels) - 1)
    size = image_size or int(unet.config.sample_size) * stride
    if size % stride:
        raise ModelError(f"backbone.image_size is {size}, {folder} takes multiples of {stride} pixels")
    unet.enable_gradient_checkpointing()  # acts where gradients are computed only
    widths = unet.config.block_out_channels
    return Backbone(
        unet,
        DiffusionFeatures(
            vae, scheduler, text, timestep=timestep, n_draws=draws, layer=layer, seed=noise_seed
        ),
        spec=InputSpec(int(vae.config.in_channels), size, (0.5,) * 3, (0.5,) * 3, 255.0),
        feature_size=int(widths[-1] if layer == "mid" else widths[-1 - int(layer[2:])]),
        name=NAME,
        weights_sha256=pipeline_sha256(folder),
        lora_targets=tuple(
            n for n, m in unet.named_modules() if isinstance(m, nn.Linear) and ATTENTION.search(n)
        ),
        pool=f"mean of {layer} at t = {timestep} over {draws} draws, prompt {prompt!r}",
    )


def diffusion_of(backbone: Backbone) -> DiffusionFeatures:
    """Return what surrounds the UNet of a backbone.

    Raises:
        ModelError: If the backbone is no diffusion model.
    """
    features: Any = backbone.pooled
    features = getattr(features, "inner", features)
    if not isinstance(features, DiffusionFeatures):
        raise ModelError(
            f"the backbone {backbone.name} does not denoise; set lora.loss to cross_entropy or backbone.name to {NAME}"
        )
    return features


def block_of(unet: nn.Module, layer: str) -> nn.Module:
    """Return the block whose output is the feature; adapters may be attached."""
    inner = _without_adapters(unet)
    block: nn.Module = inner.mid_block if layer == "mid" else inner.up_blocks[int(layer[2:])]
    return block


def _without_adapters(unet: nn.Module) -> Any:
    base: Any = getattr(unet, "get_base_model", None)
    return base() if base is not None else unet


def noise_keys(pixels: Float[torch.Tensor, "b c h w"]) -> list[int]:
    """Return an integer per chip that depends on what it shows and on nothing else.

    Not on its id, because the id of a chip in a folder per class holds the class name; not on its place in the batch;
    and not on the last bits of a resize, hence the coarse averages. Chips that look the same share their noise.
    """
    cells = functional.adaptive_avg_pool2d(pixels.detach().float().cpu(), CELLS)
    levels = torch.round(cells * LEVELS).clamp(-32768, 32767).to(torch.int16).numpy()
    return [int.from_bytes(hashlib.sha256(chip.tobytes()).digest()[:8], "big") for chip in levels]


def keyed_noise(shape: torch.Size | tuple[int, ...], *key: int) -> Float[torch.Tensor, "..."]:
    """Return standard normal numbers that depend on the key only, drawn on the CPU on every machine."""
    return torch.randn(tuple(shape), generator=keyed_generator(*key))


def keyed_generator(*key: int) -> torch.Generator:
    """Return a generator for a key of integers."""
    seed = hashlib.sha256(repr(key).encode()).digest()[:8]
    return torch.Generator().manual_seed(int.from_bytes(seed, "big") >> 1)


def _check_family(folder: Path) -> None:
    index, unet = (read_json(folder / name) for name in ("model_index.json", "unet/config.json"))
    text_encoder = (index.get("text_encoder") or [None, None])[-1]
    odd = {
        "its UNet expects more than an image and a text": unet.get("addition_embed_type")
        or unet.get("class_embed_type"),
        "it is an inpainting or depth model": unet.get("in_channels", 4) != unet.get("out_channels", 4),
        f"its text encoder is {text_encoder}": text_encoder != "CLIPTextModel",
    }
    for reason, is_so in odd.items():
        if is_so:
            raise ModelError(
                f"{folder} holds a {index.get('_class_name')}: {reason}; only Stable Diffusion v1 and v2 are known"
            )


def _check_settings(
    folder: Path, unet: Any, vae: Any, scheduler: Any, *, timestep: int, layer: str, text: torch.Tensor
) -> None:
    n_up, n_steps = len(unet.up_blocks), int(scheduler.config.num_train_timesteps)
    layers = ["mid", *(f"up{i}" for i in range(n_up))]
    if layer not in layers:
        raise ModelError(f"backbone.layer is {layer!r}, {folder} has {', '.join(layers)}")
    if not 0 <= timestep < n_steps:
        raise ModelError(f"backbone.timestep is {timestep}, {folder} has steps 0 to {n_steps - 1}")
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise ModelError(f"{folder} predicts {kind!r}; only epsilon and v_prediction are known")
    if vae.config.latent_channels != unet.config.in_channels or getattr(vae.config, "shift_factor", None):
        raise ModelError(f"{folder}: VAE and UNet do not belong together; get the model again")
    if text.shape[2] != unet.config.cross_attention_dim:
        raise ModelError(f"{folder}: text encoder and UNet do not belong together; get the model again")


def _embedded(folder: Path, prompt: str) -> Float[torch.Tensor, "1 t d"]:
    """Return the embedding of one text; encoder and tokenizer are dropped."""
    from transformers import CLIPTextModel, CLIPTokenizer

    encoder = open_part(folder, "text_encoder", CLIPTextModel)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
        length = min(int(tokenizer.model_max_length), int(encoder.config.max_position_embeddings))
        tokens = tokenizer(
            prompt, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            text: torch.Tensor = encoder(tokens)[0].float()
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, IndexError) as error:
        raise ModelError(
            f"{folder / 'tokenizer'} cannot read a prompt ({str(error)[:200]}); get the model again"
        ) from error
    return text
