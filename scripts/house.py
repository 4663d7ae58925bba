"""Print the map of the package from its docstrings, and the counts that the layout is held to.

``python scripts/house.py`` prints one line per module, folder by folder, and then the counts; ``--counts`` the counts
alone, as JSON with ``--json``. ``tests/test_house.py`` holds them to their limits.
"""

import argparse
import ast
import json
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "deblora"
TESTS = ROOT / "tests"
SMALL = 60
"""Lines below which a module is counted as small: one function rather than one idea."""


def modules(package: Path = PACKAGE) -> list[Path]:
    """Return all modules of the package, folder by folder, ``__init__`` first."""
    return sorted(
        package.rglob("*.py"), key=lambda path: (path.parent, path.name != "__init__.py", path.name)
    )


def summary_line(path: Path) -> str:
    """Return the first line of a module's docstring; empty if it has none."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.strip().splitlines()[0] if text.strip() else ""


def n_lines(path: Path) -> int:
    """Return the lines of a file as ``wc -l`` counts them."""
    return path.read_bytes().count(b"\n")


def test_of(path: Path, package: Path = PACKAGE, tests: Path = TESTS) -> Path:
    """Return where the test of a module stands: the same path under ``tests``."""
    inside = path.relative_to(package)
    return tests / inside.parent / f"test_{inside.name}"


def counts(package: Path = PACKAGE, tests: Path = TESTS) -> dict[str, int | float | list[str]]:
    """Return the counts of the layout.

    Returns:
        Modules (with ``__init__``), lines, folders and modules at the root, small modules, file names that occur more
        than once, and the share of modules (without ``__init__``) that have a test file of their path.
    """
    every = modules(package)
    own = [path for path in every if path.name not in ("__init__.py", "__main__.py")]
    names = Counter(path.name for path in own)
    tested = [path for path in own if test_of(path, package, tests).is_file()]
    return {
        "modules": len(every),
        "lines": sum(n_lines(path) for path in every),
        "root_folders": sum(path.is_dir() and any(path.rglob("*.py")) for path in package.iterdir()),
        "root_modules": sum(path.suffix == ".py" for path in package.iterdir()),
        "small_modules": sum(n_lines(path) < SMALL for path in own),
        "repeated_names": sorted(name for name, count in names.items() if count > 1),
        "tested_share": round(len(tested) / len(own), 3),
    }


def package_map(package: Path = PACKAGE) -> str:
    """Return one line per module: its path, its lines, and the first line of its docstring."""
    lines: list[str] = []
    folder = None
    for path in modules(package):
        inside = path.relative_to(package)
        if path.parent != folder:
            folder = path.parent
            lines += ["", f"{inside.parent}/" if inside.parent != Path() else "deblora/"]
        if path.name == "__init__.py":
            lines[-1] += f"  {summary_line(path)}"
        else:
            lines.append(f"  {path.name:24} {n_lines(path):4}  {summary_line(path)}")
    return "\n".join(lines).strip()


def main() -> None:
    """Print the map and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", action="store_true", help="the counts alone")
    parser.add_argument("--json", action="store_true", help="the counts as JSON")
    options = parser.parse_args()
    if not (options.counts or options.json):
        print(package_map(), end="\n\n")
    found = counts()
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print("\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
