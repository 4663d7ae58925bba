"""What is installed: one version, and every file that is no Python beside the modules that read it."""

import tomllib

import yaml

from conftest import REPOSITORY_ROOT
from deblora import __version__

PROJECT = tomllib.loads((REPOSITORY_ROOT / "pyproject.toml").read_text())


def test_the_version_stands_in_one_place_and_the_citation_agrees():
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "src/deblora/__init__.py"
    assert yaml.safe_load((REPOSITORY_ROOT / "CITATION.cff").read_text())["version"] == __version__


def test_data_of_the_package_lie_in_it_and_are_not_ignored():
    package = REPOSITORY_ROOT / "src" / "deblora"
    (packed,) = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert REPOSITORY_ROOT / packed == package
    ignored = {line.strip("/*\n") for line in (REPOSITORY_ROOT / ".gitignore").read_text().splitlines()}
    needed = (
        "demo.yaml",
        "data/catalog.csv",
        "report/page.html.j2",
        "models/backbones/embedded/model.safetensors",
    )
    for name in needed:
        assert (package / name).is_file()
        assert not ignored & {*(package / name).relative_to(REPOSITORY_ROOT).parts, (package / name).suffix}


def test_workflows_and_hooks_run_commands_that_exist():
    targets = {
        line.split(":")[0]
        for line in (REPOSITORY_ROOT / "Makefile").read_text().splitlines()
        if line[:1].isalpha() and ":" in line
    }
    flow = yaml.safe_load((REPOSITORY_ROOT / ".github/workflows/checks.yml").read_text())
    said = [step["run"] for job in flow["jobs"].values() for step in job["steps"] if "run" in step]
    assert said and all(words[0] == "make" and set(words[1:]) <= targets for words in map(str.split, said))
    hooks = yaml.safe_load((REPOSITORY_ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    assert tools == {"ruff", "mypy", "lint-imports"}
