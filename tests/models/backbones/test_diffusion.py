"""Stable Diffusion features against a computation with diffusers alone, and what noise may and may not depend on."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from deblora.data.readers.registry import read_chips
from deblora.detect.fcos.class_loss import FocalScoring
from deblora.detect.fcos.detector import build_detector, used_parameters
from deblora.errors import ModelError
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import Backbone, load_backbone, with_unit_features
from deblora.models.backbones import diffusion_files
from deblora.models.backbones.diffusion import ATTENTION, block_of, keyed_noise, noise_keys
from deblora.models.backbones.diffusion_files import pipeline_sha256
from deblora.models.hub import _snapshot
from deblora.models.maps import feature_maps, size_multiple
from deblora.pipeline.open_model import weights_path
from deblora.recipe.classify import BackboneRecipe
from deblora.run.artifacts import FeatureTable
from deblora.train.extract import extract_features
from deblora.train.objectives import Classify, Denoise, Numbered
from generative_builders import write_stable_diffusion

PIXELS = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("sd"))


def opened(folder: Path, **settings: object) -> Backbone:
    return load_backbone("stable-diffusion", path=folder, **{"draws": 2, **settings})


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return opened(folder)


@pytest.mark.parametrize(
    ("layer", "timestep", "prompt"), [("mid", 1, ""), ("up0", 300, "a photo"), ("up1", 1, "")]
)
def test_features_are_those_of_diffusers_own_pipeline(
    folder: Path, layer: str, timestep: int, prompt: str
) -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None, local_files_only=True)
    seen: list[torch.Tensor] = []
    block = pipe.unet.mid_block if layer == "mid" else pipe.unet.up_blocks[int(layer[2])]
    block.register_forward_hook(lambda _m, _i, out: seen.append(out))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = torch.cumprod(1 - betas, dim=0)[timestep]
    text = pipe.encode_prompt(prompt, "cpu", 1, False)[0].expand(5, -1, -1)
    with torch.no_grad():
        clean = pipe.vae.encode(PIXELS).latent_dist.mean * pipe.vae.config.scaling_factor
        for draw in range(3):
            noise = torch.stack([keyed_noise((4, 16, 16), 7, key, draw) for key in noise_keys(PIXELS)])
            pipe.unet(kept.sqrt() * clean + (1 - kept).sqrt() * noise, timestep, encoder_hidden_states=text)
        expected = torch.stack([out.mean(dim=(2, 3)) for out in seen]).mean(dim=0)
        model = opened(folder, layer=layer, timestep=timestep, prompt=prompt, draws=3, noise_seed=7)
        got = model(PIXELS)
    assert got.shape == (5, model.feature_size)
    assert model.spec.image_size == 32
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_batch_size_and_order_change_nothing(backbone: Backbone) -> None:
    with torch.no_grad():
        whole = backbone(PIXELS)
        order = torch.tensor([3, 0, 4, 2, 1])
        torch.testing.assert_close(backbone(PIXELS[order]), whole[order], rtol=1e-5, atol=1e-5)
        alone = torch.cat([backbone(PIXELS[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-5)


def test_noise_depends_on_picture_seed_and_draw_only(folder: Path) -> None:
    keys = noise_keys(PIXELS)
    assert len(set(keys)) == 5
    assert noise_keys(PIXELS + 1e-7) == keys  # the last bits of a resize
    assert not torch.equal(keyed_noise((4, 4), 0, keys[0], 0), keyed_noise((4, 4), 0, keys[0], 1))
    assert not torch.equal(keyed_noise((4, 4), 0, keys[0], 0), keyed_noise((4, 4), 1, keys[0], 0))
    state = torch.random.get_rng_state()
    with torch.no_grad():
        first, second = (opened(folder, noise_seed=seed, timestep=300)(PIXELS) for seed in (0, 1))
    assert not torch.allclose(first, second, atol=1e-4)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_features_know_neither_labels_nor_names_of_folders(backbone: Backbone, tmp_path: Path) -> None:
    from builders import write_chips

    write_chips(tmp_path / "a", counts={"checks": 3, "rows": 3})
    shutil.copytree(tmp_path / "a" / "checks", tmp_path / "b" / "ship")
    shutil.copytree(tmp_path / "a" / "rows", tmp_path / "b" / "harbor")
    one, two = (read_chips(tmp_path / name) for name in "ab")
    assert set(one.ids).isdisjoint(two.ids)
    rename = {"checks": "ship", "rows": "harbor"}
    renamed = tuple("/".join((rename[i.split("/")[0]], i.split("/")[1])) for i in one.ids)
    before = extract_features(backbone, one.pixels, one.ids, batch_size=4)
    after = extract_features(backbone, two.pixels, two.ids, batch_size=6)
    torch.testing.assert_close(
        torch.from_numpy(FeatureTable(two.ids, after).rows(renamed)),
        torch.from_numpy(before),
        rtol=1e-5,
        atol=1e-5,
    )


def test_v15_has_the_blocks_and_layers_that_are_documented() -> None:
    """The real size without its weights: channels of every block, and 797,184 numbers at rank 4, as diffusers has."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        shapes = {}
        for layer in ("mid", "up0", "up1", "up2", "up3"):
            block_of(unet, layer).register_forward_hook(
                lambda _m, _i, out, layer=layer: shapes.update({layer: tuple(out.shape[1:])})
            )
        unet(torch.empty(1, 4, 64, 64), torch.empty(1), encoder_hidden_states=torch.empty(1, 77, 768))
    assert shapes == {
        "mid": (1280, 8, 8),
        "up0": (1280, 16, 16),
        "up1": (1280, 32, 32),
        "up2": (640, 64, 64),
        "up3": (320, 64, 64),
    }
    adapted = [m for n, m in unet.named_modules() if isinstance(m, torch.nn.Linear) and ATTENTION.search(n)]
    assert len(adapted) == 128
    assert sum(4 * (m.in_features + m.out_features) for m in adapted) == 797_184


def test_the_forward_stops_after_the_block(folder: Path) -> None:
    model, ran = opened(folder), []
    model.encoder.up_blocks[0].register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        model(PIXELS)
    assert not ran
    assert not model.encoder.mid_block._forward_hooks


def test_cross_entropy_reaches_adapters_before_the_block_only(folder: Path) -> None:
    model = opened(folder)
    attach_lora(model, rank=2, alpha=2, seed=0)
    with torch.no_grad():
        still = model(PIXELS)
    loss = Classify(model, 3, log_prior=None, seed=0)(PIXELS, torch.tensor([0, 1, 2, 0, 1]))["loss"]
    loss.backward()
    torch.testing.assert_close(model(PIXELS).detach(), still)  # recomputed activations change nothing
    trained = {
        n for n, p in model.encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert any("mid_block" in name for name in trained)
    assert any("down_blocks" in name for name in trained)
    assert not any("up_blocks" in name for name in trained)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_denoising_loss_is_its_closed_form(tmp_path: Path, kind: str) -> None:
    model = opened(write_stable_diffusion(tmp_path / kind, prediction_type=kind))
    attach_lora(model, rank=2, alpha=2, seed=0)
    goal = Denoise(model, seed=5)
    numbers = torch.tensor([11, 12, 40, 41, 99])
    noise, steps = goal.draw(numbers.tolist(), torch.Size((4, 16, 16)))
    assert len(set(steps.tolist())) > 1
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = torch.cumprod(1 - betas, dim=0)[steps].view(-1, 1, 1, 1)
    with torch.no_grad():
        clean = model.pooled.latents(PIXELS)
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        predicted = model.encoder(
            noisy, steps, encoder_hidden_states=model.pooled.text.expand(5, -1, -1)
        ).sample
    target = noise if kind == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * clean
    loss = goal(PIXELS, numbers)["loss"]
    torch.testing.assert_close(loss, (predicted - target).pow(2).mean(), rtol=1e-4, atol=1e-5)
    loss.backward()
    moved = [n for n, p in model.named_parameters() if p.grad is not None]
    assert moved
    assert all("lora_" in name for name in moved)
    assert any("up_blocks" in name for name in moved)
    halves = torch.stack([goal(PIXELS[rows], numbers[rows])["loss"] for rows in ([0], [1], [2], [3], [4])])
    torch.testing.assert_close(halves.mean(), loss)  # the same noise in every split of the batch


def test_numbered_samples_carry_no_label() -> None:
    rows = [{"pixels": torch.full((1,), float(i)), "labels": torch.tensor(i)} for i in range(3)]
    sample = Numbered(rows)[2]
    assert set(sample) == {"pixels", "number"}
    assert (sample["pixels"].item(), sample["number"].item(), len(Numbered(rows))) == (2.0, 2, 3)


def test_unit_features_keep_the_vae_inside(backbone: Backbone) -> None:
    unit = with_unit_features(backbone)
    with torch.no_grad():
        torch.testing.assert_close(unit(PIXELS).norm(dim=1), torch.ones(5))
    assert any("vae" in name for name, _ in unit.named_parameters())  # so that it follows to a device
    Denoise(unit, seed=0)


def test_settings_are_part_of_what_an_adapter_belongs_to(folder: Path, backbone: Backbone) -> None:
    assert opened(folder, layer="up0").pool != backbone.pool
    assert opened(folder, prompt="ships").pool != backbone.pool
    assert backbone.weights_sha256 == pipeline_sha256(folder)


def test_bf16_changes_features_and_losses_by_rounding_only(folder: Path) -> None:
    model = opened(folder)
    attach_lora(model, rank=2, alpha=2, seed=0)
    goal, numbers = Denoise(model, seed=0), torch.arange(5)
    with torch.no_grad():
        exact, loss = model(PIXELS), goal(PIXELS, numbers)["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(PIXELS)
        mixed = goal(PIXELS, numbers)["loss"]
        mixed.backward()
    assert rounded.dtype == mixed.dtype == torch.float32
    torch.testing.assert_close(rounded.detach(), exact, rtol=0.05, atol=0.05)
    torch.testing.assert_close(mixed.detach(), loss, rtol=0.02, atol=0.02)
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(("layer", "stride"), [("mid", 4), ("up0", 2), ("up1", 2)])
def test_maps_for_detection_are_what_the_feature_averages(folder: Path, layer: str, stride: int) -> None:
    model = opened(folder, layer=layer)
    with torch.no_grad():
        (found,) = feature_maps(model, PIXELS)
        torch.testing.assert_close(found.mean(dim=(2, 3)), model(PIXELS))
        (wide,) = feature_maps(model, torch.zeros(1, 3, 3 * stride, 5 * stride))
    assert size_multiple(model) == stride
    assert found.shape == (5, model.feature_size, 32 // stride, 32 // stride)
    assert wide.shape[2:] == (3, 5)
    if layer == "mid":
        attach_lora(model, rank=2, alpha=2, seed=0)
        assert size_multiple(model) == stride
        used = {id(parameter) for parameter in used_parameters(model)}
        names = {name for name, parameter in model.encoder.named_parameters() if id(parameter) in used}
        assert any("mid_block" in name for name in names)
        assert not any("up_blocks" in name for name in names)


def test_a_detector_trains_the_adapter_through_the_maps(folder: Path) -> None:
    model = opened(folder, layer="up0")
    attach_lora(model, rank=2, alpha=2, seed=0)
    detector = build_detector(model, FocalScoring(2), seed=0, n_channels=8, n_convs=1, scales=(1, 0.5))
    outputs = detector(PIXELS[:1])
    boxes, labels = [torch.tensor([[16.0, 16.0, 10.0, 6.0, 0.3]])], [torch.tensor([1])]
    detector.loss([(outputs, detector.targets(outputs, boxes, labels))])["loss"].backward()
    assert [level.stride for level in outputs] == [2, 4, 8, 16]
    learned = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert learned
    assert all("lora_" in name for name in learned)


def test_half_precision_weights_are_read(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    half = Path(shutil.copytree(folder, tmp_path / "half"))
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        full = half / f"{name}.safetensors"
        save_file(
            {k: v.half() if v.is_floating_point() else v for k, v in load_file(full).items()},
            half / f"{name}.fp16.safetensors",
            metadata={"format": "pt"},
        )
        full.unlink()
    model = opened(half)
    assert next(model.encoder.parameters()).dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(model(PIXELS), opened(folder)(PIXELS), rtol=0.05, atol=0.05)


def test_a_hub_id_is_downloaded_at_its_revision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[object, ...]] = []

    def download(
        name: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool
    ) -> str:
        whole = "unet/diffusion_pytorch_model.safetensors" in allow_patterns
        asked.append((name, revision, whole, local_files_only))
        if local_files_only:
            raise OSError("not in the cache")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    _snapshot.cache_clear()
    assert weights_path(BackboneRecipe(name="stable-diffusion", path="hub:some/model@abc")) == folder
    assert asked == [("some/model", "abc", True, True), ("some/model", "abc", True, False)]
    recipe = BackboneRecipe(name="stable-diffusion", path="hub:some/model", revision="abc")
    assert weights_path(recipe) == folder
    assert len(asked) == 2  # asked once per process

    def offline(*_: object, **__: object) -> str:
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ModelError, match=r"hf download some/other model_index.json .* 'tokenizer/\*' "):
        weights_path(BackboneRecipe(name="stable-diffusion", path="hub:some/other"))
    _snapshot.cache_clear()


def _edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _pickle(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


def _cut(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


DAMAGE = {
    "no index": (lambda f: (f / "model_index.json").unlink(), "model_index.json is missing"),
    "pickled vae": (_pickle, "is a pickle"),
    "cut unet": (_cut, "unet cannot be loaded"),
    "tokenizer": (
        lambda f: (f / "tokenizer" / "tokenizer_config.json").unlink(),
        "tokenizer_config.json is missing",
    ),
    "inpainting": (lambda f: _edit(f / "unet" / "config.json", in_channels=9), "inpainting"),
    "sdxl": (
        lambda f: _edit(f / "unet" / "config.json", addition_embed_type="text_time"),
        "only Stable Diffusion",
    ),
    "sample": (
        lambda f: _edit(f / "scheduler" / "scheduler_config.json", prediction_type="sample"),
        "predicts 'sample'",
    ),
    "json": (lambda f: (f / "unet" / "config.json").write_text("{"), "not readable JSON"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_no_stable_diffusion_is_refused(folder: Path, tmp_path: Path, case: str) -> None:
    damage, message = DAMAGE[case]
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    damage(broken)
    with pytest.raises(ModelError, match=message):
        opened(broken)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "up2"}, "has mid, up0, up1"),
        ({"timestep": 1000}, "steps 0 to 999"),
        ({"image_size": 33}, "multiples of 2 pixels"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    folder: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        opened(folder, **settings)


def test_a_missing_package_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ModelError, match=r"deblora\[sd\]"):
        opened(folder)
    diffusion_files.pipeline_files(folder)  # checking and hashing need no diffusers
