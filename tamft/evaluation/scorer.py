"""One model, task after task: stored scores are read, others are computed by mteb, every outcome is a record."""

import math
import sys
import time
from typing import Any

import mteb
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError
from mteb._set_seed import _set_seed
from mteb.abstasks import AbsTask
from mteb.results import TaskResult
from tqdm.auto import tqdm

from tamft.evaluation.data import load_data
from tamft.evaluation.identity import Identity
from tamft.evaluation.load import load
from tamft.evaluation.results import Results

Record = dict[str, Any]


class Scorer:
    """One model: loaded when the first task needs it, and gone with this object."""

    def __init__(
        self,
        identity: Identity,
        cache: Results,
        *,
        label: str,
        batch_size: int,
        device: str | None,
        command: str | None,
    ) -> None:
        self.identity = identity
        self.cache = cache
        self.label = label
        self.batch = batch_size
        self.device = device
        self.command = command
        self.encoder: Any = None
        self.warning: str | None = None
        self.unusable: str | None = None  # why the model cannot be loaded: the same for all its tasks

    def records(self, task: AbsTask) -> list[Record]:
        """Records of one task: stored or scored now."""
        outdated = self.cache.outdated(self.identity, task)
        if outdated:
            _say(f"{task.metadata.name} · {self.label}: {outdated}; scoring again")
        stored = self.cache.complete(self.identity, task)
        if stored is None:
            start = time.monotonic()
            status, reason = self._score(task)
            seconds = round(time.monotonic() - start, 3)
            stored = self.cache.complete(self.identity, task) if status == "ok" else None
            if stored is None:
                _say(f"{task.metadata.name} · {self.label}: {status}: {reason}")
                provenance = self._provenance() | {"seconds": seconds}
                return [
                    self._record(task, split, subset, None, status, reason, provenance)
                    for split in task.eval_splits
                    for subset in task.hf_subsets
                ]
            _say(f"{task.metadata.name} · {self.label}: {stored.get_score():.4f} ({seconds:.0f} s)")
        return self._from_result(task, stored, self.cache.provenance(self.identity, task))

    def _score(self, task: AbsTask) -> tuple[str, str | None]:
        """Run a task through mteb, which stores the result. Returns (status, reason)."""
        if self.unusable:
            return "failed", self.unusable
        if task.is_aggregate:  # part by part, so that a part whose data is missing is told from one that fails
            for part in task.metadata.tasks:
                if self.cache.complete(self.identity, part) is None:
                    status, reason = self._score(part)
                    if status != "ok":
                        return status, f"{part.metadata.name}: {reason}"
        while True:
            # mteb's random state lives as long as the task: without this the second model would be scored on other
            # samples than the first, and a second try on other samples than the first try.
            task.rng_state, task.np_rng = _set_seed(task.seed)
            try:
                if not task.is_aggregate:
                    load_data(task)
            except Exception as error:  # noqa: BLE001 - data sets come with their own loading code; told apart here
                if _is_unavailable(error):
                    return "missing", f"the data is not in the local cache and cannot be fetched ({_brief(error)})"
                return "failed", _brief(error)
            try:
                self._load()
                if self.unusable:
                    return "failed", self.unusable
                if self.cache.outdated(self.identity, task):
                    self.cache.drop(self.identity, task)
                self._run(task)
                self.cache.remember(self.identity, task, self._provenance())
                return "ok", None
            except Exception as error:  # noqa: BLE001 - one failing task must not cost the others
                if self.batch == 1 or not should_reduce_batch_size(error):
                    return "failed", _brief(error)
            finally:
                if not task.is_aggregate:
                    task.unload_data()
            self.batch //= 2
            clear_device_cache(garbage_collection=True)
            _say(f"{task.metadata.name}: out of memory; going on with batch size {self.batch}")

    def _run(self, task: AbsTask) -> None:
        mteb.evaluate(
            self.encoder,
            task,
            cache=self.cache,
            overwrite_strategy="only-missing",
            encode_kwargs={"batch_size": self.batch, "show_progress_bar": sys.stderr.isatty()},
            show_progress_bar=False,
            co2_tracker=False,
        )

    def _load(self) -> None:
        if self.encoder is not None or self.unusable:
            return
        try:
            self.encoder, self.warning = load(self.identity, self.device)
        except Exception as error:  # noqa: BLE001 - a model that cannot be loaded must not cost the other models
            self.unusable = f"the model cannot be loaded: {_brief(error)}"
        if self.warning:
            _say(f"WARNING {self.label}: {self.warning}")

    def _provenance(self) -> dict[str, Any]:
        model = getattr(self.encoder, "model", None)
        return {
            "device": str(model.device) if model is not None else None,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch.") if model is not None else None,
            "batch": self.batch,
            "command": self.command,
            "warning": self.warning,
        }

    def _from_result(self, task: AbsTask, result: TaskResult, provenance: dict[str, Any]) -> list[Record]:
        records = []
        seconds = result.evaluation_time  # None or NaN where mteb does not know it
        provenance["seconds"] = round(seconds, 3) if seconds is not None and math.isfinite(seconds) else None
        for split, scores in result.scores.items():
            for entry in scores:
                score = float(entry["main_score"])
                record = self._record(task, split, entry["hf_subset"], score, "ok", provenance["warning"], provenance)
                if math.isnan(score):  # NaN: some embedding was not a number
                    record |= {"main_score": None, "status": "failed", "reason": "the score is not a number (NaN)"}
                records.append(record)
        return records

    def _record(
        self,
        task: AbsTask,
        split: str,
        subset: str,
        score: float | None,
        status: str,
        reason: str | None,
        provenance: dict[str, Any],
    ) -> Record:
        return {
            "model": self.identity.typed,
            "name": self.identity.name,
            "revision": self.identity.revision,
            "task": task.metadata.name,
            "split": split,
            "subset": subset,
            "metric": task.metadata.main_score,
            "main_score": score,
            "reason": reason,
            "status": status,
            "mteb_version": mteb.__version__,
            "dataset_revision": task.metadata.revision,
            **{key: provenance[key] for key in ("device", "dtype", "batch", "seconds", "command")},
        }


def _is_unavailable(error: BaseException) -> bool:
    """Whether loading failed because the data is not here and cannot be fetched, rather than because it is wrong."""
    unreachable = (ConnectionError, FileNotFoundError, DatasetNotFoundError, HfHubHTTPError)
    return isinstance(error, unreachable) or "Couldn't find cache for" in str(error)


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{'…' if len(text) > 300 else ''}"


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
