"""Exported adapters give the same outputs in diffusers and peft, also stacked ones and those with alpha != rank."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deblora.errors import ArtifactError, ModelError
from deblora.models.adapters.export import DIFFUSERS_WEIGHTS, join_adapters
from deblora.models.adapters.lora import (
    CONFIG,
    SIDECAR,
    WEIGHTS,
    attach_lora,
    load_adapter,
    save_adapter,
    stack_adapter,
)
from deblora.models.backbone import Backbone, load_backbone
from deblora.pipeline.classify.export import chain_of, export
from deblora.pipeline.classify.train_deblora import RESIDUAL
from generative_builders import write_stable_diffusion

LATENTS = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
TEXT = torch.randn(2, 77, 16, generator=torch.Generator().manual_seed(2))


def output(unet: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return unet(LATENTS, 500, encoder_hidden_states=TEXT).sample


def randomize(model: Backbone, name: str, seed: int) -> None:
    """Give B values that are not zero, large enough to show in the output."""
    torch.manual_seed(seed)
    for key, parameter in model.encoder.named_parameters():
        if f"lora_B.{name}" in key:
            torch.nn.init.normal_(parameter, std=0.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Two stacked adapters of different rank, scale and targets, and what the UNet gives with each."""
    home = tmp_path_factory.mktemp("adapters")
    model = load_backbone("stable-diffusion", path=folder)
    found = {"base": output(model.encoder)}
    attach_lora(model, rank=2, alpha=6, targets=("to_q", "to_v"), seed=0)
    randomize(model, "stage0", 1)
    save_adapter(model, "stage0", home / "lora", {"classes": ["a"]})
    found["lora"] = output(model.encoder)
    stack_adapter(model, rank=3, alpha=1, targets=("to_k", "to_v", "to_out.0"), seed=1)
    randomize(model, "deblora", 2)
    save_adapter(model, "deblora", home / "deblora", {"classes": ["a"]})
    found["deblora"] = output(model.encoder)
    return home, found


def fresh_pipeline(folder: Path):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None, local_files_only=True)


@pytest.mark.parametrize(("name", "rank"), [("lora", 2), ("deblora", 5)])
@pytest.mark.parametrize("reads_metadata", [True, False])
def test_a_diffusers_pipeline_gives_the_same_output(
    folder: Path, trained, tmp_path: Path, name: str, rank: int, reads_metadata: bool
) -> None:
    home, found = trained
    file = export(home / name, tmp_path / "out", kind="diffusers")
    assert file.name == DIFFUSERS_WEIGHTS
    weights = load_file(file)
    if not reads_metadata:  # as tools that know nothing of it
        save_file(weights, file, metadata={"format": "pt"})
    pipe = fresh_pipeline(folder)
    pipe.load_lora_weights(str(file.parent), weight_name=DIFFUSERS_WEIGHTS, adapter_name="x")
    loaded = {
        key.replace(".x.", "."): value for key, value in pipe.unet.state_dict().items() if "lora_" in key
    }
    expected = {key.removeprefix("unet."): value for key, value in weights.items()}
    assert sorted(loaded) == sorted(expected)  # nothing dropped, nothing left at its start
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    assert pipe.unet.peft_config["x"].r == rank
    torch.testing.assert_close(output(pipe.unet), found[name], rtol=1e-4, atol=1e-5)
    assert (found[name] - found["base"]).abs().max() > 0.1


def test_the_unet_alone_loads_it_too(folder: Path, trained, tmp_path: Path) -> None:
    home, found = trained
    export(home / "deblora", tmp_path / "out", kind="diffusers")
    unet = fresh_pipeline(folder).unet
    unet.load_lora_adapter(str(tmp_path / "out"), prefix="unet", weight_name=DIFFUSERS_WEIGHTS)
    torch.testing.assert_close(output(unet), found["deblora"], rtol=1e-4, atol=1e-5)


def test_a_peft_folder_stands_alone(folder: Path, trained, tmp_path: Path) -> None:
    from peft import PeftModel

    home, found = trained
    out = export(home / "deblora", tmp_path / "out", kind="peft").parent
    unet = PeftModel.from_pretrained(fresh_pipeline(folder).unet, str(out))
    torch.testing.assert_close(output(unet), found["deblora"], rtol=1e-4, atol=1e-5)
    model = load_backbone("stable-diffusion", path=folder)
    load_adapter(model, out, adapter_name="stage0")
    torch.testing.assert_close(output(model.encoder), found["deblora"], rtol=1e-4, atol=1e-5)
    assert json.loads((out / SIDECAR).read_text())["classes"] == ["a"]


def test_convolutions_and_rslora_are_joined(tmp_path: Path) -> None:
    """By hand, on two adapters of one 3 x 3 convolution."""
    generator = torch.Generator().manual_seed(0)
    parts, folders, parents = [], [], {}
    for position, (rank, alpha, rslora) in enumerate([(2, 4, False), (4, 6, True)]):
        here = tmp_path / str(position)
        here.mkdir()
        a = torch.randn(rank, 5, 3, 3, generator=generator)
        b = torch.randn(7, rank, 1, 1, generator=generator)
        parts.append(
            (alpha / (rank**0.5 if rslora else rank)) * torch.einsum("or,rikl->oikl", b[..., 0, 0], a)
        )
        key = "base_model.model.conv"
        save_file({f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}, here / WEIGHTS)
        (here / CONFIG).write_text(
            json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "use_rslora": rslora})
        )
        (here / SIDECAR).write_text(json.dumps({"base": "x", "parents": parents}))
        from deblora.models.adapters.export import weights_digest

        parents, folders = {"stage0": weights_digest(here)}, [*folders, here]
    joined = join_adapters(tuple(folders))
    assert joined.rank == 6
    change = torch.einsum("or,rikl->oikl", joined.up["conv"][..., 0, 0], joined.down["conv"])
    torch.testing.assert_close(change, parts[0] + parts[1])
    with pytest.raises(ModelError, match="was trained on top of"):
        join_adapters((folders[1],))
    with pytest.raises(ModelError, match="--format peft"):
        export(folders[0], tmp_path / "out", kind="diffusers")


def _set(folder: Path, **changes: object) -> None:
    file = folder / CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "no plain LoRA .use_dora"),
        ({"init_lora_weights": "pissa"}, "no plain LoRA .pissa"),
        ({"peft_type": "LOHA"}, "no plain LoRA .LOHA"),
        ({"rank_pattern": {"a": 4}}, "no plain LoRA .rank_pattern"),
        ({"r": None}, "holds more than LoRA weights"),
    ],
)
def test_other_kinds_of_adapters_are_refused(trained, tmp_path: Path, changes: dict, message: str) -> None:
    import shutil

    copy = Path(shutil.copytree(trained[0] / "lora", tmp_path / "lora"))
    _set(copy, **changes)
    with pytest.raises(ModelError, match=message):
        export(copy, tmp_path / "out", kind="diffusers")
    assert not (tmp_path / "out").exists()


def _spoil(folder: Path, change) -> None:
    save_file({k: v.contiguous() for k, v in change(load_file(folder / WEIGHTS)).items()}, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {k: v * ("lora_A" in k) for k, v in w.items()}, "every lora_B is zero"),
        (lambda w: {k: v + float("nan") for k, v in w.items()}, "holds NaN"),
        (lambda w: dict(sorted(w.items())[1:]), "incomplete"),
        (lambda w: {k: v[:1] if "lora_A" in k else v for k, v in w.items()}, "not of rank 2"),
        (lambda w: {k: 2 * v for k, v in w.items()}, "is not the file that was saved"),
    ],
)
def test_spoiled_weights_are_not_exported(trained, tmp_path: Path, change, message: str) -> None:
    import shutil

    copy = Path(shutil.copytree(trained[0] / "lora", tmp_path / "lora"))
    _spoil(copy, change)
    with pytest.raises(ModelError, match=message):
        export(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    shutil.copy(trained[0] / "lora" / WEIGHTS, copy / WEIGHTS)
    _set(copy, lora_alpha=7)
    with pytest.raises(ModelError, match="is not the file that was saved"):
        export(copy, tmp_path / "out")


def test_what_cannot_be_exported_is_said(trained, tmp_path: Path) -> None:
    import shutil

    alone = Path(shutil.copytree(trained[0] / "deblora", tmp_path / "alone" / "deblora"))
    with pytest.raises(ModelError, match="does not lie beside it"):
        chain_of(alone)
    (tmp_path / "residual").mkdir()
    (tmp_path / "residual" / RESIDUAL).write_bytes(b"")
    with pytest.raises(ModelError, match="map in feature space"):
        export(tmp_path / "residual", tmp_path / "out", kind="peft")
    with pytest.raises(ArtifactError, match="holds no adapter"):
        export(tmp_path / "nowhere", tmp_path / "out", kind="peft")
    with pytest.raises(ArtifactError, match="is not empty"):
        export(trained[0] / "lora", trained[0], kind="peft")


def test_without_a_format_the_backbone_decides(trained, tmp_path: Path) -> None:
    assert export(trained[0] / "lora", tmp_path / "sd").name == DIFFUSERS_WEIGHTS
    model = load_backbone("embedded", path=None, image_size=32)
    attach_lora(model, rank=1, alpha=1, seed=0)
    save_adapter(model, "stage0", tmp_path / "lora", {})
    assert export(tmp_path / "lora", tmp_path / "vit").name == WEIGHTS
    with pytest.raises(
        ModelError, match="belongs to embedded, which diffusers does not know; export it with --format"
    ):
        export(tmp_path / "lora", tmp_path / "other", kind="diffusers")
