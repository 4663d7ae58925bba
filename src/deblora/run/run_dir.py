"""Where each artifact lives, what made it, and whether it is still valid.

``run.json`` keeps one record per finished stage: a fingerprint of everything it depended on and the hash of every
file it wrote. A stage is skipped when both still hold. Time stamps decide nothing.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deblora.errors import ArtifactError
from deblora.files import file_sha256, is_leftover, remove_leftovers, write_atomic
from deblora.run.artifacts import DAMAGE

FEATURES, LOGITS, HEAD = "features.safetensors", "logits.safetensors", "head.safetensors"
SOFT_LABELS = "soft_labels.safetensors"
WEIGHTS, HISTORY, FACTS = "model.safetensors", "history.csv", "training.json"
ADAPTER, ADAPTERS = "adapter", "adapters"
MANIFEST, RECORDS_LOCK, BUSY_LOCK = "run.json", "records.lock", "run.lock"


class RunDir:
    """A run folder. Its attributes and the methods that name files are the only place where file names are decided.

    Attributes:
        root: The folder.
        recipe: The resolved recipe.
        log: The log file.
        samples: Id, label and split of every chip the run uses; fixed by the audit.
        groups: Class names, counts and groups; fixed by the audit.
        class_counts: Counts per class and split, for people.
        clusters: Clusters of the training features.
        weights_note: Where the weights of the backbone lay when the run was made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe, self.log, self._manifest = root / "recipe.yaml", root / "run.log", root / MANIFEST
        self.samples, self.groups = root / "audit" / "samples.csv", root / "audit" / "groups.json"
        self.class_counts = root / "audit" / "class_counts.csv"
        self.clusters = root / "clusters" / "clusters.safetensors"
        self.weights_note = root / "adapters" / "weights.json"

    def adapter(self, name: str) -> Path:
        """PEFT folder of an adapter."""
        return self.root / "adapters" / name

    def history(self, name: str) -> Path:
        """Training loss by step."""
        return self.root / "adapters" / f"{name}.history.csv"

    def checkpoints(self, name: str) -> Path:
        """Checkpoints of a training that is not finished."""
        return self.root / "checkpoints" / name

    def features(self, adapter: str) -> Path:
        """Features of all chips through an adapter (``base`` for none): one file, or the index of several."""
        index = self.feature_index(adapter)
        return index if index.is_file() else self.feature_file(adapter)

    def feature_file(self, adapter: str) -> Path:
        """Features in one file."""
        return self.root / "features" / f"{adapter}.safetensors"

    def feature_index(self, adapter: str) -> Path:
        """List of the shards that hold the features."""
        return self.root / "features" / f"{adapter}.index.json"

    def feature_shard(self, adapter: str, number: int, n_shards: int) -> Path:
        """One of several files that hold the features; numbers start at 1."""
        return self.root / "features" / f"{adapter}-{number:05d}-of-{n_shards:05d}.safetensors"

    def feature_files(self, adapter: str) -> list[Path]:
        """Every file that the features of an adapter consist of."""
        index = self.feature_index(adapter)
        if not index.is_file():
            return [self.feature_file(adapter)]
        return [index, *sorted(index.parent.glob(f"{adapter}-?????-of-?????.safetensors"))]

    def row(self, name: str) -> Path:
        """Folder of a comparison row with its own training: what was trained, and its features."""
        return self.root / "rows" / name

    def centers(self, method: str) -> Path:
        """Centers toward which a method moves classes."""
        return self.root / "centers" / f"{method}.safetensors"

    def targets(self, method: str) -> Path:
        """Calibrated training features of a method."""
        return self.root / "calibration" / f"{method}.safetensors"

    def classifiers(self, method: str) -> Path:
        """Folder with the fitted classifiers of a method."""
        return self.root / "classifiers" / method

    def classifier(self, method: str, name: str) -> Path:
        """Arrays of a fitted classifier; a JSON file of the same name lies beside them."""
        return self.classifiers(method) / f"{name}.safetensors"

    def fitted(self, method: str) -> Path:
        """What the fitted classifiers of a method chose and predict."""
        return self.root / "eval" / "fitted" / f"{method}.json"

    def look(self, name: str) -> Path:
        """A file of the first look: what was tried, and what was chosen."""
        return self.root / "look" / name

    def evaluation(self, name: str) -> Path:
        """A table of the evaluation."""
        return self.root / "eval" / name

    def report(self, name: str) -> Path:
        """A file of the report."""
        return self.root / "report" / name

    @classmethod
    def create(cls, root: Path, *, resume: bool, overwrite: bool) -> "RunDir":
        """Open a folder for a run.

        Raises:
            ArtifactError: If the folder is in use and neither flag was given, or belongs to something else.
        """
        blocked = next((path for path in (root, *root.parents) if path.exists() and not path.is_dir()), None)
        if blocked is not None and blocked != root:
            raise ArtifactError(f"{root} cannot be made, because {blocked} is a file; name another folder")
        if blocked is not None:
            raise ArtifactError(f"{root} is a file; name a folder for the run")
        in_use = root.is_dir() and any(not is_leftover(path) for path in root.iterdir())
        if in_use and not (root / MANIFEST).is_file():
            raise ArtifactError(f"{root} holds files that are not a deblora run; choose another folder")
        if resume and overwrite:
            raise ArtifactError("--resume keeps a run and --overwrite deletes it; give one of them")
        if in_use and not (overwrite or resume):
            raise ArtifactError(
                f"{root} already holds a run; add --resume to go on or --overwrite to start anew"
            )
        if in_use and overwrite:
            with cls(root).hold():
                pass  # what another process works on is not deleted
            shutil.rmtree(root)
        root.mkdir(parents=True, exist_ok=True)
        run = cls(root)
        if not run._manifest.is_file():
            run._write({"stages": {}})
        run.manifest()  # a damaged one is better known now than after the first stage
        return run

    @classmethod
    def open(cls, root: Path) -> "RunDir":
        """Open an existing run; raises an ArtifactError if the folder is none."""
        if not (root / MANIFEST).is_file():
            raise ArtifactError(
                f"{root} is not a run folder ({MANIFEST} is missing); start one with deblora run, or, to find objects, "
                "with deblora detect train"
            )
        return cls(root)

    def forget_start(self) -> None:
        """Take back a run in which no stage has finished: its recipe, log and manifest, and the folder if empty.

        What another process has begun there stays.
        """
        try:
            with self.hold():
                if self.manifest()["stages"]:
                    return
        except ArtifactError:
            return
        locks = (self.root / RECORDS_LOCK, self.root / BUSY_LOCK)
        for path in (self.recipe, self.log, *locks, self._manifest):
            path.unlink(missing_ok=True)
        if not any(self.root.iterdir()):
            self.root.rmdir()

    def record(self, stage: str) -> dict[str, Any]:
        """Return what is known of a finished stage; empty if it never finished."""
        return dict(self.manifest()["stages"].get(stage, {}))

    def manifest(self) -> dict[str, Any]:
        """Return all records; raises an ArtifactError if they are damaged."""
        try:
            manifest = json.loads(self._manifest.read_text())
            for record in manifest["stages"].values():
                record["fingerprint"], record["seconds"] + 0, record["outputs"].items()
        except DAMAGE as error:
            raise ArtifactError(
                f"{self._manifest} is damaged ({error}); start anew with --overwrite"
            ) from error
        return dict(manifest)

    def is_done(self, stage: str, key: str) -> bool:
        """Tell whether a stage finished with this fingerprint and its files are unchanged."""
        return bool(self.record(stage).get("fingerprint") == key and self.is_intact(stage))

    def is_intact(self, stage: str) -> bool:
        """Tell whether the files of a stage are those it wrote; so they are if it never finished."""
        return all(self._is_file(*item) for item in self.record(stage).get("outputs", {}).items())

    def _is_file(self, name: str, digest: str) -> bool:
        return (self.root / name).is_file() and file_sha256(self.root / name) == digest

    def check_fresh(self, path: Path, *, again: str = "") -> None:
        """Check that a file or folder is what its stage wrote, and that nothing behind it was made anew since.

        Args:
            path: What is about to be read; what no stage has recorded passes.
            again: Command that makes it again, for the message.

        Raises:
            ArtifactError: Begins with ``stale:`` and names the file and the stage.
        """
        stages = self.manifest()["stages"]
        advice = f"run {again or f'deblora run --out {self.root} --resume'} first"
        name = path.relative_to(self.root).as_posix()
        for stage, record in stages.items():
            own = [file for file in record["outputs"] if file == name or file.startswith(f"{name}/")]
            for file in own:
                if not self._is_file(file, record["outputs"][file]):
                    raise ArtifactError(f"stale: {self.root / file} is not what {stage} wrote; {advice}")
            if own:
                _check_inputs(stage, stages, advice)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes out of the run folder while the context lasts; a killed process lets go too.

        Raises:
            ArtifactError: If another process holds it.
        """
        lock = FileLock(self.root / BUSY_LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ArtifactError(
                f"another process works in {self.root}; wait until it has ended, or name another folder"
            ) from error
        try:
            remove_leftovers(self.root)  # of a process that was killed: nobody else is here now
            yield
        finally:
            lock.release()

    def finish(
        self,
        stage: str,
        key: str,
        outputs: Sequence[Path],
        seconds: float,
        *,
        inputs: Mapping[str, str] | None = None,
        **used: float,
    ) -> None:
        """Record a finished stage: hashes of what it read and wrote, its wall time and what else it used."""
        record = {"fingerprint": key, "inputs": dict(inputs or {}), "outputs": self.digests(outputs)}
        self._record(stage, {**record, "seconds": round(seconds, 2), **used})

    def digests(self, paths: Sequence[Path]) -> dict[str, str]:
        """Return the hash of every file of these files and folders, by its path inside the run."""
        return {file.relative_to(self.root).as_posix(): file_sha256(file) for file in _files(paths)}

    def adopt(self, other: "RunDir", stage: str, key: str, outputs: Sequence[Path]) -> bool:
        """Take over a stage that another run finished with the same fingerprint, instead of computing it again.

        Files are linked where the disk allows it, else copied; see :meth:`part_with_links`.

        Args:
            other: A run that may have finished the stage.
            stage: Its name.
            key: Its fingerprint in this run.
            outputs: Its files and folders in this run; what lies there is replaced.

        Returns:
            Whether the other run had it, unchanged.
        """
        if other.root == self.root or not other.is_done(stage, key):
            return False
        record = other.record(stage)
        for path in outputs:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for name in record["outputs"]:
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                target.hardlink_to(other.root / name)
            except OSError:
                shutil.copy2(other.root / name, target)
        self._record(stage, record)
        return True

    def part_with_links(self, outputs: Sequence[Path]) -> None:
        """Remove files that share their bytes with another run, so that writing here never writes there."""
        for file in _files(outputs):
            if file.stat().st_nlink > 1:
                file.unlink()

    def _record(self, stage: str, record: Mapping[str, Any]) -> None:
        """Write the record of a stage; rows of a comparison may end at the same time in several processes."""
        with FileLock(self.root / RECORDS_LOCK):
            manifest = self.manifest()
            manifest["stages"][stage] = record
            self._write(manifest)

    def _write(self, manifest: Mapping[str, Any]) -> None:
        write_atomic(self._manifest, json.dumps(manifest, indent=1))


@contextmanager
def hold_all(roots: Iterable[Path]) -> Iterator[None]:
    """Keep other processes out of several run folders, which are made where they are missing; see ``RunDir.hold``.

    For a process that lets others, which do not hold anything, work in them.

    Raises:
        ArtifactError: If another process holds one of them, or one holds something else.
    """
    runs = []
    try:
        with ExitStack() as held:
            for root in roots:
                runs.append(RunDir.create(root, resume=True, overwrite=False))
                held.enter_context(runs[-1].hold())
            yield
    finally:
        for run in runs:
            run.forget_start()  # nothing is left behind where not even the first stage finished


def _files(paths: Sequence[Path]) -> list[Path]:
    """Return these files, and those in these folders at any depth."""
    found = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return [file for file in found if file.is_file()]


def _check_inputs(stage: str, stages: Mapping[str, Any], advice: str) -> None:
    """Compare what a stage has read with what the stages before it have written since, back to the first one."""
    written = {file: (own, digest) for own, r in stages.items() for file, digest in r["outputs"].items()}
    left, seen = [stage], set()
    while left:
        current = left.pop()
        seen.add(current)
        for file, digest in stages[current].get("inputs", {}).items():
            maker, newest = written.get(file, ("", digest))
            if newest != digest:
                raise ArtifactError(
                    f"stale: {maker} has written {file} anew since {current} read it; {advice}"
                )
            if maker and maker not in seen:
                left.append(maker)


def fingerprint(settings: Any, inputs: Mapping[str, Any]) -> str:
    """Return one hash of settings and of the hashes of all inputs."""
    return hashlib.sha256(json.dumps([settings, inputs], sort_keys=True, default=str).encode()).hexdigest()
