"""What the documents say is true: the Python of the README runs, its make targets exist, the map is complete."""

import re
import subprocess
import sys

from conftest import REPOSITORY_ROOT


def test_the_python_of_the_readme_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY_ROOT / "README.md").read_text(), re.S)
    assert blocks
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_example_runs() -> None:
    example = REPOSITORY_ROOT / "examples" / "quickstart.py"
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "class 0: moved by 0.00" in done.stdout


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
