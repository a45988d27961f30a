"""Which data sets are on this machine, and how tasks load without a network.

Offline, `datasets` looks into its cache, and does two things that would make scores wrong without a word: it takes the
newest revision that is there instead of the one that was asked for (several of mteb's tasks share a data set at
different revisions), and it says that every data set has one configuration, "default", so that mteb does not find the
candidates of a reranking task and ranks the whole corpus instead. `load_data` corrects both.
"""

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

PATIENCE = 5.0  # seconds in which the Hub has to answer anything at all


class Source(NamedTuple):
    """A data set of a task: the folder of the cache that it would be in, and the configurations that the task loads.

    `configs` are alternatives, one of which must be there for each entry; an empty entry: any will do. Not `sure`: the
    task loads its data with code of its own, and this is only what its metadata says.
    """

    path: str
    revision: str
    configs: list[tuple[str, ...]]
    sure: bool = True

    @property
    def folder(self) -> Path:
        """Where `datasets` keeps it, whatever the revision."""
        import datasets
        from datasets.naming import camelcase_to_snakecase

        *namespace, name = self.path.split("/")
        return Path(datasets.config.HF_DATASETS_CACHE) / "___".join([*namespace, camelcase_to_snakecase(name)])

    def cached(self, configs: tuple[str, ...] = ()) -> list[Path]:
        """Folders of this revision, complete ones only, of these configurations (or of any)."""
        found = [info.parent for info in self.folder.glob(f"*/*/{self.revision}/dataset_info.json")]
        return [folder for folder in found if not configs or folder.parts[-3] in configs]

    def missing(self) -> str | None:
        """What is not in the cache, in words; None if nothing is missing."""
        if all(self.cached(configs) for configs in self.configs):
            return None
        others = {folder.name for folder in self.folder.glob("*/*/*") if folder.is_dir()} - {self.revision}
        has = f"; it has revision {', '.join(sorted(others)[:2])}" if others else ""
        part = "" if not self.cached() else " complete"
        own = "" if self.sure else " (by its metadata; it is loaded with code of its own)"
        return f"{self.path} at revision {self.revision} is not{part} in {self.folder.parent}{has}{own}"


def parts(tasks: Iterable["AbsTask"]) -> list["AbsTask"]:
    """The tasks that hold data: for one that is the mean of others, those; each once."""
    found: dict[str, AbsTask] = {}
    for task in tasks:
        for part in task.metadata.tasks if task.is_aggregate else [task]:  # type: ignore[attr-defined]
            found.setdefault(part.metadata.name, part)
    return list(found.values())


def source(task: "AbsTask") -> Source | None:
    """What a task of mteb loads from the Hub; None for tasks from elsewhere, with code of their own to load data."""
    from mteb.abstasks.abstask import AbsTask
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    about, load = task.metadata, type(task).load_data
    if load is AbsTaskRetrieval.load_data:
        configs: list[tuple[str, ...]] = []
        for subset in task.hf_subsets if about.is_multilingual else ["default"]:
            head = "" if subset == "default" else f"{subset}-"
            configs += [
                (f"{head}corpus",),
                (f"{head}queries", "query"),
                (f"{head}qrels", *(() if head else ("default",))),
            ]
            if any(split.get("top_ranked_statistics") for split in (about.descriptive_stats or {}).values()):
                configs.append((f"{head}top_ranked",))
    elif load is not AbsTask.load_data:
        if not type(task).__module__.startswith("mteb.tasks."):
            return None
        return Source(about.dataset["path"], about.revision, [()], sure=False)
    elif "name" in about.dataset:
        configs = [(about.dataset["name"],)]
    else:
        configs = [(s,) for s in task.hf_subsets] if about.is_multilingual and not task.fast_loading else [()]
    return Source(about.dataset["path"], about.revision, configs)


def needs_no_data(task: "AbsTask") -> bool:
    """Whether a task makes or reads its data here: the embedded ones and those of one's own."""
    return str(task.metadata.dataset["path"]).startswith(("tamft/", "local/")) and source(task) is None


def missing(task: "AbsTask") -> str | None:
    """What of a task's data is not on this machine; None if it is all here, or if only loading it can tell."""
    found = [s for part in parts([task]) if (s := source(part)) is not None]
    return "; ".join(text for s in found if (text := s.missing())) or None


def on_disk(task: "AbsTask") -> bool | None:
    """Whether all data of a task is on this machine; None if only loading it can tell."""
    every = parts([task])
    found = [source(part) for part in every]
    if any(s is not None and s.sure and s.missing() for s in found):
        return False
    known = all(s.sure if s is not None else needs_no_data(part) for s, part in zip(found, every, strict=True))
    return True if known else None


# --- with and without a network ---------------------------------------------------------------------------------------


def is_offline() -> bool:
    """Whether the Hub must not, or cannot, be asked."""
    import datasets
    import huggingface_hub

    return bool(huggingface_hub.constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE)


@contextmanager
def offline(on: bool = True) -> Iterator[None]:
    """The Hub's libraries in (or out of) offline mode for the duration."""
    import datasets
    import huggingface_hub

    before = (huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
    huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = on
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def hub_answers(patience: float = PATIENCE) -> bool:
    """Whether the Hub answers anything within `patience` seconds: one request, no retries."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    answered: list[bool] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=patience)
            answered.append(True)
        except Exception:  # noqa: BLE001 - whatever it is, nothing can be fetched
            return

    # a name server that does not answer keeps to no timeout
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience)
    return bool(answered)


def notice_no_network(tasks: Iterable["AbsTask"], models: Iterable[str] = ()) -> None:
    """Go on offline, and say so, where something has to be fetched and the Hub does not answer.

    Otherwise every request for every data set would wait for its own timeout. Holds for this process and its children.
    """
    import datasets
    import huggingface_hub

    fetched = any(not Path(model).exists() for model in models) or any(map(missing, tasks))
    if is_offline() or not fetched or hub_answers():
        return
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    print(f"{huggingface_hub.constants.ENDPOINT} does not answer: going on offline", file=sys.stderr)


def report_missing(tasks: Iterable["AbsTask"]) -> list["AbsTask"]:
    """Say on stderr, before any model is loaded, whose data is not here and cannot be fetched. Returns those tasks."""
    lacking = [(task, reason) for task in tasks if (reason := missing(task))] if is_offline() else []
    if lacking:
        print(f"missing, and offline nothing is fetched: the data of {len(lacking)} tasks", file=sys.stderr)
    for task, reason in lacking:
        print(f"  {task.metadata.name}: {reason}", file=sys.stderr)
    if lacking:
        print("`tamft suites prefetch` fetches it where there is a network; all else is scored", file=sys.stderr)
    return [task for task, _ in lacking]


def load_data(task: "AbsTask") -> None:
    """`task.load_data()`; offline the same data as online, or an error.

    Raises:
        FileNotFoundError: offline, and the data is not in the cache.
        Exception: whatever the task's own code raises.
    """
    found = source(task)
    if found is None or not is_offline():
        task.load_data()
        return
    lacking = found.missing()
    if lacking and found.sure:
        raise FileNotFoundError(lacking)
    with _as_online(found):
        task.load_data()


@contextmanager
def _as_online(found: Source) -> Iterator[None]:
    import mteb.abstasks.retrieval_dataset_loaders as loaders
    from datasets.packaged_modules.cache import cache

    def configs(path: str, *args: object, **kwargs: object) -> list[str]:
        if path != found.path:
            return list(originals[0](path, *args, **kwargs))
        return sorted({folder.parts[-3] for folder in found.cached()})

    def age(folder: str) -> float:  # `datasets` takes the youngest
        return float(Path(folder).name == found.revision)

    originals = loaders.get_dataset_config_names, cache._get_modification_time
    loaders.get_dataset_config_names, cache._get_modification_time = configs, age
    try:
        yield
    finally:
        loaders.get_dataset_config_names, cache._get_modification_time = originals
