"""`tamft eval … --dry_run`: texts, tokens, time and disk that an evaluation would take here, before it begins.

What is here is counted: mteb runs each task whose data is on this machine, with a stand-in for the model that returns
random numbers. That gives the texts that are really encoded, and the time that mteb itself takes. The rest is estimated
from mteb's own statistics of its data. The time of encoding is what the real model takes for a few texts of several
lengths. Nothing is downloaded and no result is written.
"""

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mteb
import numpy as np
from tqdm.auto import tqdm

from tamft.evaluation.batches import count_tokens
from tamft.evaluation.calibration import Speed, measure
from tamft.evaluation.data import load_data, missing, offline, on_disk, parts
from tamft.evaluation.encoder import Batch
from tamft.evaluation.load import load
from tamft.evaluation.options import CPU_TOKENS, GPU_TOKENS, existing
from tamft.evaluation.rows import Row, print_rows
from tamft.evaluation.sizes import Size, size

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

    from tamft.evaluation.jobs import Plan

COUNTED = 50_000  # texts up to which a task is counted; beyond that mteb's statistics have to do
SAMPLE = 2_000  # texts of a task whose tokens are counted
CHARACTERS = 4.2  # of a token, where no model can be asked
BYTES = 1.8  # on disk per character: what is downloaded, and the copy that is read


@dataclass
class Price:
    """What one task costs; `tokens` and `seconds` are one for each model, None where that cannot be known."""

    task: str
    how: str  # "counted", "estimated", "unknown" or "scored already"
    texts: int | None = None
    tokens: list[float | None] = field(default_factory=list)
    seconds: list[float | None] = field(default_factory=list)
    bytes: float | None = 0.0  # to be fetched
    here: bool | None = True
    problem: str | None = None  # why it could not be counted although its data is here


@dataclass
class Model:
    """A model that was loaded for the calibration, or why it was not."""

    wrapper: Any = None
    speed: Speed | None = None
    problem: str | None = None


class Counter:
    """Takes the place of the SentenceTransformer in mteb's wrapper: notes the texts, returns random embeddings."""

    def __init__(self, model: Any, seen: set[Any] | None) -> None:
        self._model = model
        self._seen = seen  # texts of all tasks so far; None: what occurs again is encoded again
        self._rng = np.random.default_rng(0)
        self._width = model.get_embedding_dimension() or 8
        self.texts: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, inputs: Any, **options: Any) -> Any:
        """As `SentenceTransformer.encode`."""
        prompt = options.get("prompt") or self._model.prompts.get(options.get("prompt_name") or "", "")
        for text in inputs:
            key = hash((prompt, text))
            if self._seen is None or key not in self._seen:
                self.texts.append(prompt + text)
            if self._seen is not None:
                self._seen.add(key)
        return self._rng.standard_normal((len(inputs), self._width), dtype=np.float32)

    encode_query = encode_document = encode


def prices(plan: "Plan", tasks: Sequence["AbsTask"]) -> tuple[list[Price], list[Model]]:
    """What each task costs, and the models that were used to find out."""
    options = plan.options
    models = [_load(identity, options) for identity in plan.identities]
    results = plan.results() if plan.folder.is_dir() else None  # mteb would make the folder
    seen: list[set[Any] | None] = [set() if options.cache_megabytes else None for _ in models]
    found = []
    for task in tqdm(tasks, desc="dry run", unit="task", disable=None, file=sys.stderr, leave=False):
        price = Price(task.metadata.name, "estimated", here=on_disk(task))
        estimate = size(task)
        lacking = [part for part in parts([task]) if missing(part)]
        sizes = [size(part) for part in lacking]
        price.bytes = None if None in sizes else sum(BYTES * s.loaded for s in sizes if s)
        countable = price.here is True and (estimate is None or estimate.rows <= COUNTED)
        stored = [results is not None and results.complete(one, task) is not None for one in plan.identities]
        for done, model, known in zip(stored, models, seen, strict=True):
            if done:
                tokens, seconds = 0.0, 0.0
            elif countable and model.wrapper is not None and (counted := _try(price, task, model, known)):
                price.how = "counted"
                price.texts, tokens, seconds = counted
            else:
                tokens, seconds = _estimated(estimate, model, again=known is None)
            price.tokens.append(tokens)
            price.seconds.append(seconds)
        if all(stored):
            price.texts, price.how = 0, "scored already"
        elif price.how != "counted":
            price.texts = (
                None if estimate is None else estimate.texts if plan.options.cache_megabytes else estimate.rows
            )
            price.how = "estimated" if estimate else "unknown"
        found.append(price)
    return found, models


def _load(identity: Any, options: Any) -> Model:
    try:
        with offline():  # a model that is not here is not fetched for this
            wrapper, _ = load(identity, options.devices[0], options.dtype)
    except Exception as error:  # noqa: BLE001 - whatever it is, its time cannot be told
        return Model(problem=_brief(error))
    tokens = options.batch_tokens or (CPU_TOKENS if wrapper.model.device.type == "cpu" else GPU_TOKENS)
    batch = Batch(options.batch_size, "texts") if options.batch_size else Batch(tokens, "tokens")
    return Model(wrapper, measure(wrapper.model, batch))


def _try(price: Price, task: "AbsTask", model: Model, seen: set[Any] | None) -> tuple[Any, ...] | None:
    try:
        return _counted(task, model, seen)
    except Exception as error:  # noqa: BLE001 - one broken data set must not cost the others' prices
        price.problem = _brief(error)
        return None


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _counted(task: "AbsTask", model: Model, seen: set[Any] | None) -> tuple[int, float | None, float | None]:
    """Texts that are encoded, tokens, seconds: of encoding by the calibration, of all else as it was just now."""
    real = model.wrapper.model
    counter = model.wrapper.model = Counter(real, seen)
    start = time.monotonic()
    try:
        for part in parts([task]):
            _run(part, model.wrapper)
    finally:
        model.wrapper.model = real
    around = time.monotonic() - start
    texts = counter.texts
    if not texts:
        return 0, 0.0, around
    sample = texts
    if len(texts) > SAMPLE:
        sample = [texts[i] for i in np.random.default_rng(0).choice(len(texts), SAMPLE, replace=False)]
    lengths = np.minimum(count_tokens(real, sample), real.max_seq_length or np.inf).astype(np.float64)
    seconds = float(model.speed.seconds(lengths).mean()) * len(texts) if model.speed else None
    return len(texts), float(lengths.mean()) * len(texts), None if seconds is None else seconds + around


def _run(task: "AbsTask", wrapper: Any) -> None:
    with offline(), _nothing_written():
        load_data(task)
        try:
            mteb.evaluate(
                wrapper,
                task,
                cache=None,
                encode_kwargs={"batch_size": 128, "show_progress_bar": False},
                show_progress_bar=False,
                co2_tracker=False,
            )
        finally:
            if task.data_loaded:
                task.unload_data()


@contextmanager
def _nothing_written() -> Iterator[None]:
    """`datasets` keeps what it computes from a data set beside it; now in a temporary folder."""
    import datasets

    was = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        yield
    finally:
        if was:
            datasets.enable_caching()


def _estimated(estimate: Size | None, model: Model, *, again: bool) -> tuple[float | None, float | None]:
    """Tokens and seconds from the number of texts and their mean length; `again`: also of texts that occur again."""
    if estimate is None:
        return None, None
    texts = estimate.rows if again else estimate.texts
    length = estimate.characters / max(1, estimate.texts) / CHARACTERS + 2
    if model.wrapper is None or model.speed is None:
        return texts * length, None
    length = min(length, model.wrapper.model.max_seq_length or np.inf)
    return texts * length, texts * float(model.speed.seconds(np.array([length]))[0])


# --- what people see --------------------------------------------------------------------------------------------------


def print_price(plan: "Plan", tasks: Sequence["AbsTask"]) -> None:
    """Print the table, the sums, and how sure they are."""
    from tamft.evaluation.summary import labels

    found, models = prices(plan, tasks)
    names = list(labels([identity.typed for identity in plan.identities]).values())
    rows: list[Row] = [("task", "texts", "tokens", *(f"time {name}" for name in names), "fetch", "how")]
    for price in found:
        fetch = "" if price.here else _size(price.bytes)
        known = next((t for t in price.tokens if t is not None), None)
        rows.append((price.task, _count(price.texts), _count(known), *map(_time, price.seconds), fetch, price.how))
    texts, tokens = _total([p.texts for p in found]), _total([next(iter(p.tokens), None) for p in found])
    seconds = [_total([p.seconds[i] for p in found]) for i in range(len(names))]
    fetch = _total([p.bytes for p in found])
    rows.append(("all", _count(texts), _count(tokens), *map(_time, seconds), _size(fetch), ""))
    print_rows(rows, right=range(1, 4 + len(names)))
    for line in _notes(plan, found, models, names, fetch):
        print(line)


def _notes(
    plan: "Plan", found: Sequence[Price], models: Sequence[Model], names: Sequence[str], fetch: float | None
) -> Iterator[str]:
    import datasets

    hows = {price.how for price in found}
    processes = len(plan.options.devices)
    device = next((m.wrapper.model.device for m in models if m.wrapper is not None), None)
    if device is not None:
        share = f", for one process; {processes} share it" if processes > 1 else ""
        yield f"time: on {device}, from a calibration just now{share}"
    if "counted" in hows:
        yield "counted: the data is here; the texts are exact, the time mostly within a third"
    if "estimated" in hows:
        yield "estimated: from mteb's statistics; time, tokens and download mostly within a factor of two"
    if "unknown" in hows:
        yield "unknown: the data is not here, and mteb has no statistics of it"
    for name, model in zip(names, models, strict=True):
        if model.problem:
            yield f"{name}: cannot be loaded here without a network, so its time is unknown ({model.problem})"
    for price in found:
        if price.problem:
            yield f"{price.task}: cannot be scored as it is ({price.problem})"
    if fetch:
        free = shutil.disk_usage(existing(Path(datasets.config.HF_DATASETS_CACHE))).free
        yield f"disk: about {_size(fetch)} to fetch, {_size(free)} free" + (" - NOT ENOUGH" if free < fetch else "")
    yield "nothing was downloaded, and no result was written"


def _total(values: Sequence[float | None]) -> float | None:
    return sum(value or 0 for value in values) if any(value is not None for value in values) else None


def _count(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:,.1f} M"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(number: float | None) -> str:
    if number is None:
        return "?"
    return f"{number / 1e6:,.1f} MB" if number < 1e9 else f"{number / 1e9:,.1f} GB"
