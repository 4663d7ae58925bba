"""Every study of the project runs, at toy size: simulated chips, one seed, two steps, its first and last variant."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import deblora.pipeline.classify.evaluate.fit as fit
import deblora.pipeline.compare.study
from conftest import REPOSITORY_ROOT
from deblora.cli.main import main
from deblora.evaluate.classifiers.linear import fit_linear
from deblora.evaluate.classifiers.search import Chosen, Samples
from deblora.run.run_dir import RunDir
from deblora.run.stage import run_stage

STUDIES = sorted((REPOSITORY_ROOT / "recipes" / "studies").glob("*.yaml"))
TOY = {
    "backbone": {"name": "embedded", "image_size": 32},
    "lora": {"rank": 2, "max_train_steps": 2, "train_batch_size": 4},
    "cluster": {"n_clusters": 4, "n_init": 1},
    "deblora": {"max_train_steps": 2, "train_batch_size": 4},
    "shift": {"n_rounds": 1},
    "evaluate": {"n_bootstrap": 100},
    "rows": {"max_train_steps": 2, "clora_max_train_steps": 1},
}
CHIPS = {"largest": 12, "imbalance_factor": 4, "n_val": 2, "n_test": 3, "chip_size": 32}


def toy_fits(samples: Samples, names: Sequence[str]) -> Iterator[tuple[str, Chosen]]:
    """Yield one quick fit under every name."""
    fitted = fit_linear(samples.x, samples.y, samples.n_classes, l2=1.0)
    for name in names:
        yield name, Chosen(fitted, {"l2": 1.0, "tau": 1.0, "macro_f1": 0.5, "n_trials": 1})


def ends(values: list[Any]) -> list[Any]:
    return [values[0], values[-1]]


def toy(path: Path) -> dict[str, Any]:
    """Return a study with its own settings varied on toy data; settings that name files are left out."""
    study = yaml.safe_load(path.read_text())
    study = {**study, "base": TOY, "seeds": 1, "simulate": {**study.get("simulate", {}), **CHIPS}}
    if "vary" in study:
        # Toy data have fewer chips than the larger numbers of clusters.
        few = {"cluster.n_clusters": [2, 5], "lora.rank": [1, 2]}
        study["vary"] = {key: few.get(key, ends(values)) for key, values in study["vary"].items()}
    else:
        names = dict.fromkeys(ends(list(study["variants"])))
        study["variants"] = {
            name: {
                key: value
                for key, value in study["variants"][name].items()
                if not key.startswith(("data.", "backbone."))
            }
            for name in names
        }
    return study


@pytest.fixture(scope="module")
def shared_stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let every study take over what an earlier one has computed, on the same chips, and fit quick probes only."""
    finished: list[RunDir] = []

    def run(stage: Any, own: RunDir, recipe: Any, *, donors: Any = ()) -> bool:
        if own not in finished:
            finished.append(own)
        return run_stage(stage, own, recipe, donors=[*donors, *(run for run in finished if run != own)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "fit_classifiers", toy_fits)
        patch.setattr(deblora.pipeline.compare.study, "run_stage", run)
        patch.setattr(deblora.pipeline.compare.study, "CHIPS", str(tmp_path_factory.mktemp("chips")))
        yield


@pytest.mark.parametrize("path", STUDIES, ids=[path.stem for path in STUDIES])
def test_a_study_runs(path: Path, shared_stages: None, tmp_path: Path) -> None:
    study = toy(path)
    file = tmp_path / path.name
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    out = tmp_path / "out"
    assert main(["study", str(file), "--out", str(out)]) == 0
    report = (out / "report.md").read_text()
    for row in study["rows"]:
        method, head = row.split()
        assert method in report and head.replace("_", r"\_") in report
