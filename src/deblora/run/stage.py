"""What a stage is, and the one rule by which it runs or is skipped."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol

from typing_extensions import TypeVar

from deblora import __version__
from deblora.errors import ArtifactError
from deblora.files import write_atomic
from deblora.recipe.classify import Recipe, tables
from deblora.run.parallel import measured
from deblora.run.processes import is_first, on_first
from deblora.run.run_dir import RunDir, fingerprint

log = logging.getLogger("deblora")
TRAINS = "train-"  # how the names of stages begin that keep checkpoints


class Seeded(Protocol):
    """Settings of a run, of whatever task."""

    @property
    def seed(self) -> int:
        """Seed of everything that is drawn."""
        ...


R = TypeVar("R", bound=Seeded, default=Recipe)


@dataclass(frozen=True)
class Stage(Generic[R]):
    """A step of the road.

    Args:
        name: Name of the command.
        settings: The part of the recipe it depends on.
        inputs: Files it reads.
        outputs: Files or folders it writes.
        work: Reads the inputs, calls the core, writes the outputs.
        always_runs: True where what it depends on lies outside the run folder, so that only running it can tell.
        shared: True where all processes of a run work on it; the work then writes in the first one only. The first
            one runs all other stages, while the others wait.
        command: Command that runs it, where that is not its name.
        method: Method that it trains, extracts or evaluates, where it serves no other.
    """

    name: str
    settings: Callable[[R], Any]
    inputs: Callable[[RunDir], Sequence[Path]]
    outputs: Callable[[RunDir], Sequence[Path]]
    work: Callable[[RunDir, R], None]
    always_runs: bool = False
    shared: bool = False
    command: str = ""
    method: str = ""

    @property
    def run_by(self) -> str:
        """Name of the command that runs it."""
        return self.command or self.name


def stage_key(stage: Stage[R], run: RunDir, recipe: R, *, inputs: Mapping[str, str] | None = None) -> str:
    """Return the fingerprint of a stage: its settings, the seed, the package version and its input files.

    ``inputs`` is what :func:`stage_inputs` returned, where it is known; an ArtifactError is raised as there.
    """
    known = stage_inputs(stage, run) if inputs is None else inputs
    return fingerprint([tables(stage.settings(recipe)), recipe.seed, __version__], known)


def stage_inputs(stage: Stage[Any], run: RunDir) -> dict[str, str]:
    """Return the hash of every file that a stage reads; raises an ArtifactError if one is missing."""
    missing = [path for path in stage.inputs(run) if not path.exists()]
    if missing:
        raise ArtifactError(
            f"{stage.name} needs {missing[0]}, which is missing; run the stages before it first"
        )
    return run.digests(stage.inputs(run))


def check_current(stage: Stage[R], run: RunDir, recipe: R) -> None:
    """Refuse to go on from a stage whose settings or inputs have changed since it ran: what follows would be stale.

    Raises:
        ArtifactError: If it is finished, but not with the present recipe and files.
    """
    record = run.record(stage.name)
    if stage.always_runs or not record:
        return
    if record["fingerprint"] != stage_key(stage, run, recipe):
        raise ArtifactError(
            f"stale: {stage.name} is out of date, its settings or inputs have changed: run deblora {stage.run_by} "
            f"{run.root} first, or all that is out of date with deblora run and --resume"
        )


def run_stage(stage: Stage[R], run: RunDir, recipe: R, *, donors: Sequence[RunDir] = ()) -> bool:
    """Run a stage unless it is finished and nothing it depends on has changed.

    Args:
        stage: What to run.
        run: Where.
        recipe: Its settings.
        donors: Other runs; one that finished the stage with the same fingerprint gives its files.

    Returns:
        Whether it ran.

    Raises:
        ArtifactError: If an input is missing.
    """
    inputs = on_first(lambda: stage_inputs(stage, run))
    key = on_first(lambda: _begin(stage, run, recipe, donors, inputs))
    if not key:
        return False
    if not (stage.shared or is_first()):
        return True
    used = measured(lambda: stage.work(run, recipe))
    if is_first():
        run.finish(stage.name, key, stage.outputs(run), inputs=inputs, **used)
        if stage.name.startswith(
            TRAINS
        ):  # not before the record: what was trained could not be told from leftovers
            shutil.rmtree(run.checkpoints(stage.name.removeprefix(TRAINS)), ignore_errors=True)
        log.info("%s: done in %.1f s", stage.name, used["seconds"])
    return True


def _begin(
    stage: Stage[R], run: RunDir, recipe: R, donors: Sequence[RunDir], inputs: Mapping[str, str]
) -> str:
    """Make room for a stage that is to run and return its fingerprint; nothing if it need not run."""
    key = stage_key(stage, run, recipe, inputs=inputs)
    if not stage.always_runs and run.is_done(stage.name, key):
        log.info("%s: unchanged, skipped", stage.name)
        return ""
    if not stage.always_runs:
        for donor in donors:
            if run.adopt(donor, stage.name, key, stage.outputs(run)):
                log.info("%s: taken over from %s", stage.name, donor.root)
                return ""
    _drop_foreign_checkpoints(run, stage.name, key)
    log.info("%s ...", stage.name)
    run.part_with_links(stage.outputs(run))
    return key


def _drop_foreign_checkpoints(run: RunDir, name: str, key: str) -> None:
    """Keep checkpoints of a killed training only if it had exactly these settings and inputs."""
    if not name.startswith(TRAINS):
        return
    folder = run.checkpoints(name.removeprefix(TRAINS))
    note = folder / "fingerprint"
    if folder.exists() and not (note.is_file() and note.read_text() == key):
        shutil.rmtree(folder)
    write_atomic(note, key)
