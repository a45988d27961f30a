"""mteb's result files, and beside them what mteb does not write: device, dtype, batch, command."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mteb
from mteb.cache import ResultCache
from mteb.results import TaskResult

from tamft.atomic import write_atomically
from tamft.evaluation.identity import Identity

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

PROVENANCE = "tamft_provenance.jsonl"
PROVENANCE_KEYS = ("device", "dtype", "batch", "command", "warning", "overlap")


class Results(ResultCache):
    """A results folder: `<folder>/results/<model>/<revision>/<task>.json`, read and written by mteb."""

    @property
    def has_remote(self) -> bool:
        """Never: scores that others published do not stand in for this model's."""
        return False

    def _path(self, identity: Identity, task: "AbsTask") -> Path:
        return self.get_task_result_path(task.metadata.name, identity.name, identity.revision)

    def outdated(self, identity: Identity, task: "AbsTask") -> str | None:
        """Why a stored result must not be used any more; None if there is none or it is sound."""
        path = self._path(identity, task)
        if not path.exists():
            return None
        try:
            stored = TaskResult.from_disk(path)
        except (OSError, ValueError, KeyError):  # cut off while it was written
            return "the stored result cannot be read"
        if stored.mteb_version != mteb.__version__:
            return f"the stored result is from mteb {stored.mteb_version}, this is {mteb.__version__}"
        if stored.dataset_revision != task.metadata.revision:
            return f"the stored result is from data revision {stored.dataset_revision}, now {task.metadata.revision}"
        return None

    def drop(self, identity: Identity, task: "AbsTask") -> None:
        """Delete the stored result of a task."""
        self._path(identity, task).unlink(missing_ok=True)

    def complete(self, identity: Identity, task: "AbsTask") -> TaskResult | None:
        """The stored result, cut to the splits and subsets of `task`; None unless it is sound and has all of them."""
        path = self._path(identity, task)
        if not path.exists() or self.outdated(identity, task):
            return None
        stored = TaskResult.from_disk(path)
        return None if stored.get_missing_evaluations(task) else stored.validate_and_filter_scores(task)

    def provenance(self, identity: Identity, task: "AbsTask") -> dict[str, Any]:
        """Device, dtype, batch, command and warning of a stored result (None each where mteb made it)."""
        found: dict[str, Any] = {}
        path = self._path(identity, task).parent / PROVENANCE
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:  # cut off while it was written
                continue
            if entry.get("task") == task.metadata.name:
                found = entry
        return {key: found.get(key) for key in PROVENANCE_KEYS}

    def remember(self, identity: Identity, task: "AbsTask", provenance: dict[str, Any]) -> None:
        """Append the provenance of a result that was just stored."""
        path = self._path(identity, task).parent / PROVENANCE
        with path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"task": task.metadata.name, **provenance}) + "\n")


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that `path` holds either the old or the complete new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
