"""Kill commands at their file operations, let them go on, and compare with a run that was never killed.

``python scripts/kill.py`` kills at every operation and prints the counts (``make kill``); ``--trials N`` takes N
operations of each command, evenly spaced. Every trial is two forked processes: one that dies by ``os._exit`` at the
k-th operation below its output folder, and one that gives the command again. At the moment of death a file that has
just been opened for writing is empty, and one that is being synced is cut in half, as after a crash of the machine.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KILLED = 137
WRITES = os.O_WRONLY | os.O_RDWR
VOLATILE = (
    "run.log",
    "run.json",
    "costs.csv",
    "run.lock",
    "records.lock",
    "index.html",
    "report.md",
    "results.json",
)
"""Files with times in them; they must be there, and run.json must name the same files with the same hashes."""


@dataclass(frozen=True)
class Case:
    """A command that is killed.

    Attributes:
        name: For the table.
        start: Its arguments; ``{out}`` is its folder.
        again: The arguments that let it go on.
    """

    name: str
    start: tuple[str, ...]
    again: tuple[str, ...]


class Killer:
    """Counts file operations below a folder, but those on logs, and ends the process at one of them."""

    def __init__(self, folder: Path, at: int) -> None:
        self.folder, self.at, self.count, self.active = str(folder), at, 0, True
        sys.addaudithook(self._audit)
        real, save = os.fsync, None

        def fsync(file: Any) -> None:
            handle = file if isinstance(file, int) else file.fileno()
            path = str(Path(f"/proc/self/fd/{handle}").readlink())
            self._step(path, lambda: os.truncate(path, os.fstat(handle).st_size // 2))
            real(file)

        os.fsync = fsync
        import torch

        save = torch.save

        def torn(content: Any, file: Any, *given: Any, **named: Any) -> None:
            save(content, file, *given, **named)  # by torch's own code, which no hook sees
            self._step(str(file), lambda: os.truncate(file, Path(file).stat().st_size // 2))

        torch.save = torn

    def _step(self, path: str, spoil: Callable[[], object] = lambda: None) -> None:
        if not self.active or self.folder not in path or path.endswith(".log"):
            return
        self.count += 1
        if self.count == self.at:
            self.active = False
            spoil()
            os._exit(KILLED)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, os.PathLike)) and isinstance(flags, int) and flags & WRITES:
                self._step(str(path))
                self._step(str(path), lambda: os.close(os.open(path, flags, 0o666)))
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link"):
            self._step(" ".join(str(part) for part in arguments[:2]))


def in_fork(work: Callable[[], int]) -> int:
    """Do something in a forked process and return its exit code."""
    process = os.fork()
    if process == 0:
        code = 99
        try:
            code = work()
        except BaseException as error:  # a process that was forked must never go on in the code of its parent
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def command(arguments: tuple[str, ...], out: Path, *, at: int = 0, note: Path | None = None) -> int:
    """Run a command in a forked process, killed at an operation (0: never); the count goes into ``note``."""

    def work() -> int:
        from deblora.cli.main import main

        output = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        killer = Killer(out.parent, at)
        code = main([part.format(out=out) for part in arguments])
        killer.active = False
        if note is not None:
            note.write_text(str(killer.count))
        return int(code)

    return in_fork(work)


def contents(folder: Path) -> dict[str, str]:
    """Return a hash of every file, of run.json only what does not depend on time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name.endswith(".lock") or not path.is_file():
            continue
        if path.name == "run.json":
            stages = json.loads(path.read_text())["stages"]
            kept = {stage: sorted(record["outputs"]) for stage, record in stages.items()}
            found[name] = json.dumps(kept, sort_keys=True)
        elif path.name in VOLATILE:
            found[name] = ""
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def trial(case: Case, at: int, home: Path, expected: dict[str, str]) -> str:
    """Kill a command at an operation, let it go on, and return what is wrong with the result, or nothing."""
    # The name of the folder is part of some results, so it must be that of the whole run.
    out = home / str(at) / "out"
    out.parent.mkdir()
    code = command(case.start, out, at=at)
    if code not in (KILLED, 0):
        return f"ended with {code} instead of being killed: {Path(f'{out}.log').read_text()[-300:]}"
    again = case.again if (out.exists() and any(out.iterdir())) or "--resume" in case.again else case.start
    if case.name == "export" and out.is_dir() and contents(out) == expected:
        return ""
    code = command(again, out)
    if code:
        return f"does not go on, exit code {code}: {Path(f'{out}.log').read_text()[-400:]}"
    found = contents(out)
    left = [path.name for path in out.parent.iterdir() if path.name not in ("out", "out.log")]
    different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    shutil.rmtree(out.parent)
    return f"differs: {different[:4]}; beside it: {left}" if different or left else ""


def inputs(home: Path) -> Iterator[Case]:
    """Write toy chips, scenes, models and finished runs, and yield the commands on them."""
    import yaml

    from builders import recipe_values, write_chips, write_recipe, write_vit
    from toy_scenes import recipe as scene_recipe
    from toy_scenes import write_split

    values = recipe_values(write_chips(home / "toy"), write_vit(home / "vit"))
    values["lora"] |= {"max_train_steps": 4, "checkpointing_steps": 2}
    values["deblora"] |= {"max_train_steps": 2}
    values["evaluate"] |= {"n_bootstrap": 100, "classifiers": ["cross_entropy", "balanced_softmax"]}
    recipe = str(write_recipe(home / "recipe.yaml", values))
    yield Case("run", ("run", recipe, "--out", "{out}"), ("run", recipe, "--out", "{out}", "--resume"))
    run = str(home / "whole-run" / "out")
    predict = ("predict", run, str(home / "toy" / "checks"), "--out", "{out}")
    yield Case("predict", predict, (*predict, "--overwrite"))
    export = ("export", run, "--out", "{out}")
    yield Case("export", export, export)
    merge = ("merge", run, "--out", "{out}")
    yield Case("merge", merge, merge)
    short = ("--seeds", "2", "--methods", "zero-shot", "lora")
    compare = ("compare", recipe, *short, "--out", "{out}")
    yield Case("compare", compare, compare)
    study = home / "study.yaml"
    study.write_text(
        yaml.safe_dump(
            {
                "base": "recipe.yaml",
                "vary": {"cluster.n_clusters": [2, 4]},
                "seeds": 1,
                "rows": ["deblora cross_entropy"],
            }
        )
    )
    varied = ("study", str(study), "--out", "{out}")
    yield Case("study", varied, varied)
    for seed, split in enumerate(("train", "val", "test")):
        write_split(home / "scenes" / split, split, seed=seed)
    scenes = str(write_recipe(home / "scenes.yaml", scene_recipe(home / "scenes")))
    train = ("detect", "train", scenes, "--out", "{out}")
    yield Case("detect train", train, (*train, "--resume"))
    detector = str(home / "whole-detect train" / "out")
    found = ("detect", "predict", detector, str(home / "scenes/test"), "--out", "{out}", "--format")
    found = (*found, "task1", "coco", "csv", "overlay")
    yield Case("detect predict", found, (*found, "--resume"))


def attack(case: Case, home: Path, *, n_trials: int | None, n_jobs: int) -> tuple[int, int, list[str]]:
    """Return the operations of a command, at how many it was killed, and every fault that was found."""
    whole, note = home / f"whole-{case.name}" / "out", home / f"{case.name}.count"
    whole.parent.mkdir()
    code = command(case.start, whole, note=note)
    if code:
        return 0, 0, [f"ends with {code} without a kill: {Path(f'{whole}.log').read_text()[-500:]}"]
    count, expected = int(note.read_text()), contents(whole)
    n = min(count, n_trials or count)
    places = sorted({1 + round(i * (count - 1) / max(1, n - 1)) for i in range(n)})
    trials = home / f"trials-{case.name}"
    trials.mkdir()
    with ThreadPoolExecutor(n_jobs) as pool:
        faults = list(pool.map(lambda at: trial(case, at, trials, expected), places))
    return count, len(places), [f"operation {at}: {f}" for at, f in zip(places, faults, strict=True) if f]


def main() -> int:
    """Attack all commands, or those that are named, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="commands; all if none is named")
    parser.add_argument("--trials", type=int, help="operations at which each command is killed; default: all")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    os.environ.update(TQDM_DISABLE="1", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    import peft  # noqa: F401 - once, for all forks
    import torch
    import transformers

    import deblora.pipeline.classify.road
    import deblora.pipeline.compare.study
    import deblora.pipeline.detect.road  # noqa: F401

    transformers.Trainer, transformers.ViTModel  # noqa: B018 - loads them
    torch.set_num_threads(1)
    n_faults = 0
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'command':<16}{'operations':>11}{'killed':>8}{'unequal':>9}{'seconds':>9}", flush=True)
        needed = {"predict": "run", "export": "run", "merge": "run", "detect predict": "detect train"}
        wanted = set(options.names) | {needed[name] for name in options.names if name in needed}
        for case in inputs(Path(folder)):
            if wanted and case.name not in wanted:
                continue
            start = time.monotonic()
            count, killed, faults = attack(case, Path(folder), n_trials=options.trials, n_jobs=options.jobs)
            took = time.monotonic() - start
            print(f"{case.name:<16}{count:>11}{killed:>8}{len(faults):>9}{took:>9.0f}", flush=True)
            print("".join(f"  {fault}\n" for fault in faults[:10]), end="", flush=True)
            n_faults += len(faults)
    return int(n_faults > 0)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    sys.exit(main())
