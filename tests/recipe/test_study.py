"""Study files: grids and named variants, everything wrong with them found before anything runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import REPOSITORY_ROOT
from deblora.errors import RecipeError
from deblora.recipe.study import read_study, with_seed

BASE: dict[str, Any] = {"seed": 3, "data": {"source": "chips"}, "lora": {"rank": 4}}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(**values: Any) -> Path:
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump({"base": BASE, **values}, sort_keys=False))
        return path

    return write


def test_several_keys_make_a_grid(write: Any) -> None:
    study = read_study(write(vary={"cluster.n_clusters": [2, 4], "cluster.rho": [1.0, 5.0]}))
    assert [variant.name for variant in study.variants] == [
        "n_clusters-2_rho-1.0",
        "n_clusters-2_rho-5.0",
        "n_clusters-4_rho-1.0",
        "n_clusters-4_rho-5.0",
    ]
    last = study.variants[-1].recipe
    assert (last.cluster.n_clusters, last.cluster.rho, last.lora.rank, last.seed) == (4, 5.0, 4, 3)
    assert (study.name, study.n_seeds, study.methods) == ("toy", 3, ("lora", "deblora", "contract", "shift"))
    assert set(last.evaluate.classifiers) == {"balanced_softmax"}


def test_named_variants(write: Any) -> None:
    study = read_study(
        write(variants={"literal": {}, "a shift!": {"calibrate.mode": "shift"}}, seeds=2), n_seeds=7
    )
    assert [variant.name for variant in study.variants] == ["literal", "a-shift"]
    assert study.variants[1].recipe.calibrate.mode == "shift"
    assert study.n_seeds == 7


def test_a_base_file_is_found_beside_the_study(write: Any, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    assert read_study(write(base="base.yaml", vary={"lora.rank": [1]})).variants[0].recipe.lora.rank == 1


def test_simulated_chips_lie_by_setting_and_seed(write: Any, tmp_path: Path) -> None:
    study = read_study(
        write(simulate={}, vary={"simulate.tail_coverage": [0.5, 1.0], "cluster.n_clusters": [2, 4]})
    )
    sources = [with_seed(variant, k, tmp_path).data.source for variant in study.variants for k in (0, 1)]
    assert len(set(sources)) == 4  # by coverage and seed, whatever the clusters
    assert with_seed(study.variants[0], 1, tmp_path).seed == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give either vary or variants"),
        ({"vary": {"lora.rank": [1]}, "variants": {"a": {}}}, "give either vary or variants"),
        ({"vary": {}}, "vary must be a table"),
        ({"vary": {"lora.rank": 8}}, "vary.lora.rank must be a list"),
        ({"vary": {"lora.rank": [8, 8]}}, "same variant twice"),
        ({"vary": {"rank": [8]}}, "no table.key"),
        ({"vary": {"lora.ranks": [8]}}, "did you mean lora.rank"),
        ({"vary": {"lora.rank": [0]}}, "allowed are 1 to 4096"),
        ({"vary": {"simulate.tail_coverage": [1]}}, "needs a table simulate"),
        ({"simulate": {"coverage": 1}, "vary": {"lora.rank": [1]}}, "simulate.coverage is not a setting"),
        ({"simulate": {"n_test": 0.5}, "vary": {"lora.rank": [1]}}, "simulate.n_test is 0.5, expected int"),
        ({"simulate": {"tail_coverage": 2}, "vary": {"lora.rank": [1]}}, "allowed are 0.01 to 1"),
        ({"simulate": {"sensor": "x-ray"}, "vary": {"lora.rank": [1]}}, "expected sar or optical"),
        ({"variants": {"a": 3}}, "variants.a must be a table"),
        ({"variants": {"a b": {}, "a-b": {}}}, "same name"),
        ({"vary": {"lora.rank": [1]}, "seeds": 0}, "seeds is 0"),
        ({"vary": {"lora.rank": [1]}, "seeds": True}, "seeds is True"),
        ({"vary": {"lora.rank": [1]}, "judge": "heads"}, "judge is not a key"),
        ({"vary": {"lora.rank": [1]}, "rows": ["lora"]}, "no known classifier; lora has cross_entropy"),
        ({"vary": {"lora.rank": [1]}, "rows": ["shift-kernel sade"]}, "no known method; known are zero-shot"),
        ({"vary": {"lora.rank": [1]}, "rows": "lora sade"}, "rows must be a list"),
        ({"vary": {"lora.rank": [1]}, "seed": 1}, "seed is not a key"),
        ({"vary": {"lora.rank": [1]}, "base": 3}, "base must be a recipe file"),
        ({"vary": {"lora.rank": [1]}, "base": "absent.yaml"}, "cannot be read"),
    ],
)
def test_problems_are_named(values: dict[str, Any], message: str, write: Any) -> None:
    with pytest.raises(RecipeError, match=message):
        read_study(write(**values))


def test_a_choice_needs_all_classifiers(write: Any) -> None:
    study = read_study(write(vary={"lora.rank": [1]}, rows=["guarded chosen", "lora lift"]))
    assert study.methods == ("lora", "semi-supervised")
    assert study.variants[0].recipe.evaluate.classifiers == []


def test_settings_on_the_command_line_change_the_base(write: Any) -> None:
    study = read_study(write(vary={"lora.rank": [1, 2]}), settings={"seed": 5, "cluster.n_clusters": 7})
    found = [(v.recipe.seed, v.recipe.cluster.n_clusters, v.recipe.lora.rank) for v in study.variants]
    assert found == [(5, 7, 1), (5, 7, 2)]
    assert [variant.settings for variant in study.variants] == [{"lora.rank": 1}, {"lora.rank": 2}]


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ({"vary": {"lora.rank": [1]}}, {"lora.rank": 8}, "varies lora.rank; drop --lora.rank"),
        ({"variants": {"a": {}, "b": {"lora.rank": 2}}}, {"lora.rank": 8}, "varies lora.rank; drop"),
        ({"simulate": {}, "vary": {"lora.rank": [1]}}, {"data.source": "x"}, "draws its own chips"),
        ({"vary": {"lora.rank": [1]}}, {"lora.rnk": 8}, "did you mean lora.rank"),
    ],
)
def test_settings_that_a_study_cannot_take(
    values: dict[str, Any], settings: dict[str, Any], message: str, write: Any
) -> None:
    with pytest.raises(RecipeError, match=message):
        read_study(write(**values), settings=settings)


@pytest.mark.parametrize("path", sorted((REPOSITORY_ROOT / "recipes" / "studies").glob("*.yaml")))
def test_the_studies_of_the_project_are_valid(path: Path) -> None:
    study = read_study(path)
    assert len(study.variants) > 1
