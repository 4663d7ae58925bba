"""What the documents say is true: the Python of README and docstrings runs, the make targets exist, the map is complete."""

import ast
import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY_ROOT

SOURCE = REPOSITORY_ROOT / "src"
WITH_EXAMPLES = [path for path in sorted(SOURCE.rglob("*.py")) if ">>> " in path.read_text()]


def test_the_python_of_the_readme_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY_ROOT / "README.md").read_text(), re.S)
    assert blocks
    for block in blocks:
        if "deblora.fit(" in block:  # needs chips and minutes; tests/e2e/test_model.py runs the same
            continue
        done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_example_runs() -> None:
    example = REPOSITORY_ROOT / "examples" / "quickstart.py"
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "class 0: moved by 0.00" in done.stdout


def test_the_public_rooms_have_examples() -> None:
    rooms = {path.relative_to(SOURCE).parts[1] for path in WITH_EXAMPLES}
    assert rooms >= {"data", "debias", "detect", "evaluate", "recipe"}


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_examples_of_docstrings_run(path: Path) -> None:
    """Docstrings are taken from the text: ``doctest`` does not look into functions whose shapes are checked."""
    module = importlib.import_module(".".join(path.relative_to(SOURCE).with_suffix("").parts))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, documented)]
    runner = doctest.DocTestRunner()
    said: list[str] = []
    for node in nodes:
        text = ast.get_docstring(node) or ""
        name = getattr(node, "name", "module")
        runner.run(
            doctest.DocTestParser().get_doctest(text, vars(module), name, str(path), 0), out=said.append
        )
    assert runner.summarize(verbose=False).attempted == path.read_text().count(">>> ")
    assert not said, "".join(said)


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (REPOSITORY_ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", (REPOSITORY_ROOT / "README.md").read_text(), re.M)
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_the_commands_of_the_readme_exist() -> None:
    from deblora.cli.main import COMMANDS

    commands = re.findall(r"^deblora ([\w-]+)", (REPOSITORY_ROOT / "README.md").read_text(), re.M)
    assert set(commands) <= {*COMMANDS, "detect"}
    assert "run" in commands


def test_every_recipe_is_valid() -> None:
    from deblora.recipe.classify import read_recipe, recipe_from

    recipes = sorted((REPOSITORY_ROOT / "recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        recipe_from(read_recipe(path))


def test_the_document_of_settings_is_what_the_recipes_say() -> None:
    """``deblora settings --markdown > docs/settings.md`` makes it again."""
    from deblora.cli.data_commands import settings_document

    assert (REPOSITORY_ROOT / "docs" / "settings.md").read_text() == settings_document()


def test_the_document_of_results_is_what_the_files_say() -> None:
    script = REPOSITORY_ROOT / "scripts" / "render_results.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_site_has_every_document_and_every_module_it_names() -> None:
    site = (REPOSITORY_ROOT / "mkdocs.yml").read_text()
    docs = REPOSITORY_ROOT / "docs"
    named = set(re.findall(r"[\w/.-]+\.md", site))
    assert named == {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    modules = re.findall(r"^::: ([\w.]+)", (docs / "api.md").read_text(), re.M)
    assert modules
    assert all((SOURCE / f"{module.replace('.', '/')}.py").is_file() for module in modules)


def test_the_commands_of_the_site_exist() -> None:
    from deblora.cli.main import COMMANDS

    for name in ("index", "labeling"):
        commands = re.findall(r"^deblora ([\w-]+)", (REPOSITORY_ROOT / f"docs/{name}.md").read_text(), re.M)
        assert commands
        assert set(commands) <= {*COMMANDS, "detect"}
