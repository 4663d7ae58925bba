"""Models of the hub without a network: the cache as the hub client writes it, and the command where there is none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny_models as tiny
from deblora.errors import ModelError
from deblora.models.backbone import load_backbone
from deblora.models.hub import _snapshot, find_weights
from deblora.models.presets import CARDS, Card
from deblora.pipeline.open_model import weights_path
from deblora.recipe.classify import BackboneRecipe

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    _snapshot.cache_clear()
    yield tmp_path / "hub"
    _snapshot.cache_clear()


def fill(cache: Path, hub_id: str, *, revision: str = "main") -> Path:
    home = cache / ("models--" + hub_id.replace("/", "--"))
    snapshot = home / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    tiny.write_model("dinov2", snapshot)
    (home / "refs").mkdir()
    (home / "refs" / revision).write_text(COMMIT)
    return snapshot


def test_a_cached_model_is_opened_by_its_id(cache: Path) -> None:
    snapshot = fill(cache, "facebook/dinov2-small")
    found = find_weights("hub:facebook/dinov2-small")
    assert found.resolve() == snapshot.resolve()
    assert load_backbone("dinov2", path=found).feature_size == tiny.WIDTH


@pytest.mark.parametrize("card", [card for card in CARDS if card.path], ids=lambda card: card.weights)
def test_a_missing_folder_of_a_recipe_says_how_to_get_it(card: Card, cache: Path) -> None:
    assert card.path is not None
    with pytest.raises(ModelError) as caught:
        weights_path(BackboneRecipe(name=card.preset, path=card.path))
    assert str(caught.value).startswith(f"{card.path} does not exist; ") and card.get in str(caught.value)


def test_a_revision_is_honored(cache: Path) -> None:
    snapshot = fill(cache, "facebook/dinov2-small", revision="v2")
    assert find_weights("hub:facebook/dinov2-small", revision="v2").resolve() == snapshot.resolve()
    assert find_weights("hub:facebook/dinov2-small", revision=COMMIT).resolve() == snapshot.resolve()
    with pytest.raises(ModelError, match="--revision v3 --local-dir weights/dinov2-small"):
        find_weights("hub:facebook/dinov2-small", revision="v3")


def test_without_cache_and_network_the_command_is_given(cache: Path) -> None:
    with pytest.raises(ModelError) as caught:
        find_weights("hub:facebook/dinov2-small")
    message = str(caught.value)
    command = "hf download facebook/dinov2-small config.json preprocessor_config.json model.safetensors"
    assert f"  {command} --local-dir weights/dinov2-small\n" in message
    assert "set backbone.path to it; it must hold config.json and model.safetensors" in message


def test_a_half_fetched_model_is_not_taken(cache: Path) -> None:
    snapshot = fill(cache, "facebook/dinov2-small")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="hf download"):
        find_weights("hub:facebook/dinov2-small")


@pytest.fixture
def asked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    import huggingface_hub

    names: list[str] = []

    def download(name: str, **_: object) -> str:
        names.append(name)
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return names


@pytest.mark.parametrize("text", ["weights/mine", "facebook/dinov2-small", "some/model@abc"])
def test_a_plain_path_never_asks_the_hub(text: str, asked: list[str]) -> None:
    with pytest.raises(ModelError, match=f"no weights at {text}: .*set backbone.path to hub:{text} for"):
        find_weights(text)
    for name in ("dinov2", "stable-diffusion"):
        with pytest.raises(ModelError, match="the hub is not asked for a plain path"):
            weights_path(BackboneRecipe(name=name, path=text))
    assert asked == []


def test_the_prefix_asks_the_hub_even_where_such_a_folder_is(asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "facebook" / "dinov2-small").mkdir(parents=True)
    assert find_weights("facebook/dinov2-small") == Path("facebook/dinov2-small")
    assert asked == []
    with pytest.raises(
        ModelError, match=r"(?s)^hub:facebook/dinov2-small is not in .*\(offline\).*hf download"
    ):
        find_weights("hub:facebook/dinov2-small")
    assert asked == ["facebook/dinov2-small"] * 2  # the cache, then the network


def test_other_paths_stay_as_they_are(asked: list[str]) -> None:
    for text in ("/abs/olute", "./a/b", "a", "a/b/c", "~/weights"):
        assert find_weights(text) == Path(text)
    assert find_weights("no/where", from_hub=False) == Path("no/where")
    with pytest.raises(ModelError, match="hub:some/thing: this backbone has no layout"):
        weights_path(BackboneRecipe(name="galileo-nano", path="hub:some/thing"))
    for text in ("hub:", "hub:name", "hub:a/b/c"):
        with pytest.raises(ModelError, match="write hub:owner/name or hub:owner/name@revision"):
            find_weights(text)
    assert asked == []
