"""mteb's result files, safe among crashes and several processes, and beside them what mteb does not write.

mteb writes in place, and reads, changes and writes `run_settings.jsonl`: a process that is killed leaves half a file,
and two that save at once lose each other's lines. So mteb writes into a folder of its own here, and its files come into
place whole, one process at a time.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mteb
from filelock import FileLock, Timeout
from mteb.cache import ResultCache
from mteb.results import TaskResult

from tamft.atomic import write_atomically
from tamft.evaluation.identity import Identity

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

LOCKS = ".locks"
PROVENANCE = "tamft_provenance.jsonl"
PROVENANCE_KEYS = ("device", "dtype", "batch", "batch_unit", "command", "warning", "overlap")


class Results(ResultCache):
    """A results folder: `<folder>/results/<model>/<revision>/<task>.json`, in mteb's form.

    Args:
        folder: made if it is not there.
        dtype: the precision that was asked for. Such results lie apart, in `<revision>/experiments/dtype_<dtype>/`,
            where mteb keeps what is the same model in other circumstances: two precisions never share a file.
        mix_versions: results of another version of mteb or of the data count as sound.
    """

    def __init__(self, folder: Path | str, *, dtype: str | None = None, mix_versions: bool = False) -> None:
        super().__init__(folder)
        self.experiment = {"dtype": dtype} if dtype else None
        self.mix_versions = mix_versions
        self.describe: Callable[[], dict[str, Any]] | None = None  # provenance of what is being saved

    @property
    def has_remote(self) -> bool:
        """Never: scores that others published do not stand in for this model's."""
        return False

    def path(self, identity: Identity, task: "AbsTask") -> Path:
        """Where the result of a task is, or will be."""
        name = f"dtype_{self.experiment['dtype']}" if self.experiment else None
        return self.get_task_result_path(task.metadata.name, identity.name, identity.revision, experiment_name=name)

    # --- reading ---

    def outdated(self, identity: Identity, task: "AbsTask") -> str | None:
        """Why a stored result must not be mixed with what is scored now; None if there is none or it is sound."""
        path = self.path(identity, task)
        if not path.exists():
            return None
        try:
            stored = TaskResult.from_disk(path)
        except (OSError, ValueError, KeyError):  # cut off while it was written, by another program
            return "the stored result cannot be read"
        return _difference(stored, task)

    def complete(self, identity: Identity, task: "AbsTask") -> TaskResult | None:
        """The stored result, cut to the splits and subsets of `task`; None unless it is sound and has all of them."""
        path = self.path(identity, task)
        if not path.exists():
            return None
        try:
            stored = TaskResult.from_disk(path)
        except (OSError, ValueError, KeyError):
            return None
        if _difference(stored, task) and not self.mix_versions:
            return None
        return None if stored.get_missing_evaluations(task) else stored.validate_and_filter_scores(task)

    def provenance(self, identity: Identity, task: "AbsTask") -> dict[str, Any]:
        """PROVENANCE_KEYS of a stored result (None each where mteb made it)."""
        found: dict[str, Any] = {}
        path = self.path(identity, task)
        for entry in provenance_lines(path.parent / PROVENANCE):
            if entry.get("task") == task.metadata.name:
                found = entry
        return {key: found.get(key) for key in PROVENANCE_KEYS}

    # --- writing ---

    def save_to_cache(self, task_result: TaskResult, model_name: Any, *args: Any, **kwargs: Any) -> None:
        """As mteb's, but whole or not at all, valid JSON (no NaN), and with its provenance."""
        target = self.get_task_result_path(task_result.task_name, model_name, *args)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder, self._lock(target.parent / "folder"):
            staged = ResultCache(folder)
            path = staged.get_task_result_path(task_result.task_name, model_name, *args)
            settings = target.parent / "run_settings.jsonl"  # mteb adds to the one it finds
            if settings.exists():
                path.parent.mkdir(parents=True)
                shutil.copyfile(settings, path.parent / settings.name)
            staged.save_to_cache(task_result, model_name, *args, **kwargs)
            if self.describe is not None:  # first: a score without its provenance could not be told from another's
                self._remember(target, task_result.task_name, self.describe())
            for file in sorted(path.parent.iterdir(), key=lambda file: file == path):  # the result itself comes last
                content = file.read_text(encoding="utf-8")
                if file.suffix == ".json":
                    content = json.dumps(_without_nan(json.loads(content)), indent=2, allow_nan=False)
                write_atomically(target.parent / file.name, content)

    def _remember(self, target: Path, task: str, provenance: dict[str, Any]) -> None:
        file = target.parent / PROVENANCE
        lines = [entry for entry in provenance_lines(file) if entry.get("task") != task]
        lines.append({"task": task, **provenance})
        write_atomically(file, "".join(json.dumps(line) + "\n" for line in lines))

    # --- several processes ---

    @contextmanager
    def claim(self, identity: Identity, task: "AbsTask") -> Iterator[bool]:
        """Whether the task is this process's to score now; False: another process is at it.

        The operating system holds the lock and lets go of it when the process ends, however it ends: there are no
        stale locks.
        """
        lock = self._lock(self.path(identity, task))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _lock(self, path: Path) -> FileLock:
        file = self.cache_path / LOCKS / path.relative_to(self.cache_path).with_suffix(".lock")
        file.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(file)


def _difference(stored: TaskResult, task: "AbsTask") -> str | None:
    if stored.mteb_version != mteb.__version__:
        return f"the stored result is from mteb {stored.mteb_version}, this is {mteb.__version__}"
    if stored.dataset_revision != task.metadata.revision:
        return f"the stored result is from data revision {stored.dataset_revision}, now {task.metadata.revision}"
    return None


def provenance_lines(file: Path) -> list[dict[str, Any]]:
    """The entries of a PROVENANCE file; none if it is not there."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:  # cut off while it was written, by an earlier version
            continue
        if isinstance(entry, dict):
            lines.append(entry)
    return lines


def _without_nan(content: Any) -> Any:
    """NaN and infinity become null: they are no JSON, and no scores."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that `path` holds either the old or the complete new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
