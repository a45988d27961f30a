"""One model, task after task: stored scores are read, others are computed by mteb, every outcome is a record."""

import math
import time
from typing import Any

import mteb
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError
from mteb._set_seed import _set_seed
from mteb.abstasks import AbsTask
from mteb.results import TaskResult

from tamft.evaluation import overlap
from tamft.evaluation.data import load_data
from tamft.evaluation.embeddings import EmbeddingCache
from tamft.evaluation.encoder import Batch, Encoder
from tamft.evaluation.identity import Identity
from tamft.evaluation.load import load
from tamft.evaluation.options import CPU_TOKENS, GPU_TOKENS, Options
from tamft.evaluation.progress import Monitor
from tamft.evaluation.results import PROVENANCE_KEYS, Results

Record = dict[str, Any]

# How many texts mteb collects from its own loader at once: no matter for the model, which gets batches of tokens.
LOADER_ROWS = 128
POLL = 0.5  # seconds, where a part of an aggregate is another process's at the moment


class Scorer:
    """One model: loaded when the first task needs it, and gone with this object."""

    def __init__(
        self, identity: Identity, cache: Results, options: Options, *, label: str, device: str | None, monitor: Monitor
    ) -> None:
        self.identity = identity
        self.cache = cache
        self.options = options
        self.label = label
        self.device = device
        self.monitor = monitor
        self.trained_on = overlap.fingerprint_of(identity)
        self.overlap: Any = None  # of the task that was loaded last
        self.wrapper: Any = None  # mteb's, which chooses prompts
        self.encoder: Encoder | None = None  # what it takes for the model
        self.warning: str | None = None
        self.unusable: str | None = None  # why the model cannot be loaded: the same for all its tasks
        self.earlier: str | None = None  # what was found about the part of the task that an interrupted run scored

    def stored(self, task: AbsTask) -> list[Record] | None:
        """Records of a task whose score is stored; None: it has to be scored."""
        result = self.cache.complete(self.identity, task)
        if result is None:
            return None
        provenance = self.cache.provenance(self.identity, task)
        other = self.cache.outdated(self.identity, task)  # only where that was asked for
        provenance["warning"] = "; ".join(line for line in (provenance["warning"], other) if line) or None
        return self._from_result(task, result, provenance)

    def records(self, task: AbsTask) -> list[Record] | None:
        """Records of one task, stored or scored now; None: another process is scoring it, so ask again later."""
        records = self.stored(task)
        if records is not None:
            return records
        with self.cache.claim(self.identity, task) as mine:
            if not mine:
                return None
            records = self.stored(task)  # another process may have finished it a moment ago
            if records is not None:
                return records
            start = time.monotonic()
            status, reason = self._score(task)
            seconds = round(time.monotonic() - start, 3)
        records = self.stored(task) if status == "ok" else None
        if records is None:
            return self.without_score(task, status, reason, seconds)
        score = f"{sum(r['main_score'] for r in records) / len(records):.4f}" if _all_ok(records) else "no score"
        self._say(task, f"{score} ({seconds:.0f} s)")
        return records

    def without_score(
        self, task: AbsTask, status: str, reason: str | None, seconds: float | None = None
    ) -> list[Record]:
        """Say why a task has no score, and the records that say so."""
        self._say(task, f"{status}: {reason}")
        # what is missing says nothing about the model, whether or not another task had it loaded already
        provenance = self._provenance(used=status != "missing") | {"seconds": seconds}
        return [
            self._record(task, split, subset, None, status, reason, provenance)
            for split in task.eval_splits
            for subset in task.hf_subsets
        ]

    def _score(self, task: AbsTask) -> tuple[str, str | None]:
        """Run a task through mteb, which stores the result. Returns (status, reason)."""
        if self.unusable:
            return "failed", self.unusable
        if task.is_aggregate:  # part by part, so that a part whose data is missing is told from one that fails
            for part in task.metadata.tasks:
                while (records := self.records(part)) is None:
                    time.sleep(POLL)
                if not _all_ok(records):
                    return records[0]["status"], f"{part.metadata.name}: {records[0]['reason']}"
        # mteb's random state lives as long as the task: without this the second model would be scored on other samples
        # than the first.
        task.rng_state, task.np_rng = _set_seed(task.seed)
        try:
            if not task.is_aggregate:
                load_data(task)
                self.overlap = overlap.count(task, self.trained_on)
        except Exception as error:  # noqa: BLE001 - data sets come with their own loading code; told apart here
            if _is_unavailable(error):
                return "missing", f"the data is not in the local cache and cannot be fetched ({_brief(error)})"
            return "failed", _brief(error)
        try:
            encoder = self._load()
            if encoder is None:
                return "failed", self.unusable
            encoder.begin()
            self._run(task)
        except Exception as error:  # noqa: BLE001 - one failing task must not cost the others
            return "failed", _brief(error)
        finally:
            if not task.is_aggregate:
                task.unload_data()
        return "ok", None

    def _run(self, task: AbsTask) -> None:
        outdated = self.cache.outdated(self.identity, task)
        if outdated:
            self._say(task, f"{outdated}; scoring again")
        self.earlier = None if outdated else self.cache.provenance(self.identity, task)["warning"]
        of = {"model": self.identity.typed, "type": str(task.metadata.type)}  # for `tamft report`: nobody else knows
        self.cache.describe = lambda: self._provenance() | of
        try:
            mteb.evaluate(
                self.wrapper,
                task,
                cache=self.cache,
                # "always" replaces the old file when the first new score is there, and never mixes the two
                overwrite_strategy="always" if outdated else "only-missing",
                encode_kwargs={"batch_size": self.options.batch_size or LOADER_ROWS, "show_progress_bar": False},
                show_progress_bar=False,
                co2_tracker=False,
            )
        finally:
            self.cache.describe = None

    def _load(self) -> Encoder | None:
        if self.encoder is not None or self.unusable:
            return self.encoder
        try:
            self.wrapper, self.warning = load(self.identity, self.device, self.options.dtype)
        except Exception as error:  # noqa: BLE001 - a model that cannot be loaded must not cost the other models
            self.unusable = f"the model cannot be loaded: {_brief(error)}"
            return None
        model = self.wrapper.model
        tokens = self.options.batch_tokens or (CPU_TOKENS if model.device.type == "cpu" else GPU_TOKENS)
        size = self.options.batch_size
        megabytes = self.options.cache_megabytes
        self.encoder = Encoder(
            model,
            batch=Batch(size, "texts") if size else Batch(tokens, "tokens"),
            cache=EmbeddingCache(megabytes) if megabytes else None,
            progress=self.monitor.texts,
            say=lambda line: self.monitor.say(f"{self.label}: {line}"),
        )
        self.wrapper.model = self.encoder
        if self.warning:
            self.monitor.say(f"WARNING {self.label}: {self.warning}")
        return self.encoder

    def _say(self, task: AbsTask, line: str) -> None:
        self.monitor.say(f"{task.metadata.name} · {self.label}: {line}")

    def _provenance(self, *, used: bool = True) -> dict[str, Any]:
        encoder = self.encoder if used else None
        if encoder is None:
            return dict.fromkeys(PROVENANCE_KEYS) | {"command": self.options.command}
        found = [self.warning, *(self.earlier or "").split("; "), *encoder.findings()]
        return {
            "device": str(encoder.device),
            "dtype": str(next(encoder.parameters()).dtype).removeprefix("torch."),
            "batch": encoder.batch.size,
            "batch_unit": encoder.batch.unit,
            "command": self.options.command,
            "warning": "; ".join(dict.fromkeys(line for line in found if line)) or None,
            "overlap": self.overlap,
        }

    def _from_result(self, task: AbsTask, result: TaskResult, provenance: dict[str, Any]) -> list[Record]:
        records = []
        seconds = result.evaluation_time  # None or NaN where mteb does not know it
        provenance["seconds"] = round(seconds, 3) if seconds is not None and math.isfinite(seconds) else None
        versions = {"mteb_version": result.mteb_version, "dataset_revision": result.dataset_revision}
        for split, scores in result.scores.items():
            for entry in scores:
                score = entry["main_score"]
                record = self._record(task, split, entry["hf_subset"], score, "ok", provenance["warning"], provenance)
                if score is None or not math.isfinite(score):
                    reason = _undefined(task.metadata.main_score, provenance["warning"])
                    record |= {"main_score": None, "status": "failed", "reason": reason}
                records.append(record | versions)
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
            "type": str(task.metadata.type),
            "split": split,
            "subset": subset,
            "metric": task.metadata.main_score,
            "main_score": score,
            "reason": reason,
            "status": status,
            "mteb_version": mteb.__version__,
            "dataset_revision": task.metadata.revision,
            **{key: provenance[key] for key in ("device", "dtype", "batch", "batch_unit", "seconds", "command")},
            "overlap": overlap.pick(provenance["overlap"], split, subset),
        }


def _all_ok(records: list[Record]) -> bool:
    return all(record["status"] == "ok" for record in records)


def _undefined(metric: str, warning: str | None) -> str:
    """Why a metric has no value. Embeddings are finite: others end the task before it has a score."""
    correlation = any(name in metric for name in ("spearman", "pearson", "kendall"))
    why = "all similarities, or all grades, are equal" if correlation else "mteb computes no number"
    return f"{metric} is undefined (NaN): {why}" + (f"; {warning}" if warning else "")


def _is_unavailable(error: BaseException) -> bool:
    """Whether loading failed because the data is not here and cannot be fetched, rather than because it is wrong."""
    unreachable = (ConnectionError, FileNotFoundError, DatasetNotFoundError, HfHubHTTPError)
    return isinstance(error, unreachable) or "Couldn't find cache for" in str(error)


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{'…' if len(text) > 300 else ''}"
