"""Tasks of one's own: a few lines of YAML over local files, run by mteb's own tasks and evaluators.

    - name: ShopIntents
      type: Classification
      train: intents/train.csv
      test: intents/test.csv
      columns: {text: question, label: intent}

Only the reading is ours: each task is mteb's abstract task of its type with another `load_data`. Its data revision is a
hash of the files and of the lines above, so scores of changed data are never taken for each other.
"""

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mteb.abstasks.abstask import AbsTask
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.clustering import AbsTaskClustering
from mteb.abstasks.pair_classification import AbsTaskPairClassification
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

from tamft.errors import InputError
from tamft.evaluation import own_data
from tamft.evaluation.own_data import Built, Column, Paths, Table, Tables, read_table
from tamft.registry import nearest
from tamft.yaml_file import expand

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")  # a file name on every system, and nothing above it
GENERAL = {"name", "type", "description", "language", "metric", "columns", "options"}


class Kind(NamedTuple):
    """A type of task: mteb's class, the files it reads, its metrics (the first is the default), its options."""

    base: type[AbsTask]
    files: dict[str, dict[str, Column]]
    build: Callable[[Tables, Paths], Built]
    metrics: tuple[str, ...]
    category: str = "t2t"
    options: tuple[str, ...] = ()  # attributes of mteb's class; whole numbers of at least 1


class _OwnTask:
    """Reads the files again when mteb asks for the data: between two tasks no corpus stays in memory."""

    kind: Kind
    paths: Paths
    columns: Mapping[str, Mapping[str, Column]]
    definition: str

    def load_data(self: Any, num_proc: int | None = None, **kwargs: Any) -> None:
        """Read the files. Raises InputError if they are no longer those that were checked."""
        if self.data_loaded:
            return
        if _revision(self.definition, self.paths) != self.metadata.revision:
            raise InputError(f"task {self.metadata.name!r}: its files changed while it waited; run the command again")
        self.dataset, _ = self.kind.build(_read(self.paths, self.columns), self.paths)
        # mteb draws from a generator that lives as long as the task: every model must meet the same samples
        self.rng_state = random.Random(self.seed)
        self.data_loaded = True


def own_task(entry: dict[str, Any], folder: Path) -> AbsTask:
    """The task that an entry of a suite describes; its files are read and checked here.

    Args:
        entry: name, type, the type's files, and perhaps description, language, metric, columns, options.
        folder: of the suite: what relative file names start from. `${DATA}` in a name is a variable of the environment.

    Raises:
        InputError: anything in the entry or its files that would make the score wrong, or no score.
    """
    name = entry["name"]
    kind, where = _kind(entry), f"task {name!r}"
    _check_keys(where, entry, kind)
    paths = {part: (folder / expand(str(entry[part]), where)).resolve() for part in kind.files}
    columns = {part: _columns(where, entry.get("columns") or {}, part, kind) for part in kind.files}
    _, attributes = kind.build(_read(paths, columns), paths)
    says = {key: value for key, value in entry.items() if key not in ("description", *kind.files)}
    definition = json.dumps(says, sort_keys=True)
    metadata = _metadata(where, entry, kind, _revision(definition, paths))
    attributes |= entry.get("options") or {}
    own = {"metadata": metadata, "kind": kind, "paths": paths, "columns": columns, "definition": definition}
    task: AbsTask = type(re.sub(r"\W", "_", name), (_OwnTask, kind.base), {**own, **attributes})()
    return task


# --- what people write ------------------------------------------------------------------------------------------------


def _kind(entry: Mapping[str, Any]) -> Kind:
    kind = str(entry["type"])
    if kind not in KINDS:
        there = ", ".join(KINDS)
        raise InputError(f"task {entry['name']!r}: type {kind!r} is not known{nearest(kind, KINDS)} It is {there}")
    return KINDS[kind]


def _check_keys(where: str, entry: Mapping[str, Any], kind: Kind) -> None:
    name = entry["name"]
    if not isinstance(name, str) or not NAME.fullmatch(name) or name.lower().startswith("model_meta"):
        raise InputError(f"task {name!r}: a name is letters, digits, dots, - and _ (at most 80): results are files")
    missing = [part for part in kind.files if not isinstance(entry.get(part), str)]
    if missing:
        there = ", ".join(kind.files)
        raise InputError(f"{where}: a {entry['type']} task needs the files {there}; add `{missing[0]}: FILE`")
    allowed = [*sorted(GENERAL), *kind.files]
    unknown = [key for key in entry if key not in allowed]
    if unknown:
        raise InputError(f"{where}: unknown key {unknown[0]!r}{nearest(str(unknown[0]), allowed)} There are {allowed}")
    options = entry.get("options") or {}
    if not isinstance(options, dict):
        raise InputError(f"{where}: `options` has to be like {{n_experiments: 10}}, it is {options!r}")
    for key, value in options.items():
        if key not in kind.options:
            raise InputError(f"{where}: unknown option {key!r}; there are {', '.join(kind.options) or 'none'}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{where}: option {key}: it must be a whole number of at least 1, it is {value!r}")
    if entry.get("metric", kind.metrics[0]) not in kind.metrics:
        raise InputError(f"{where}: metric {entry['metric']!r} is not one of {', '.join(kind.metrics)}")


def _columns(where: str, given: Any, part: str, kind: Kind) -> dict[str, Column]:
    """The columns of one file. `{text: question}` is for all files, `{queries: {text: question}}` for one."""
    keys = {key for columns in kind.files.values() for key in columns}
    if not isinstance(given, dict) or any(not isinstance(v, str | dict) for v in given.values()):
        raise InputError(f"{where}: `columns` says what the columns are called, for example {{text: question}}")
    for key, value in given.items():
        inner = value if isinstance(value, dict) else {key: value}
        wrong = set(inner) - (set(kind.files.get(key, ())) if isinstance(value, dict) else keys)
        if wrong or any(not isinstance(v, str) for v in inner.values()):
            there = "; ".join(f"{file}: {', '.join(columns)}" for file, columns in kind.files.items())
            raise InputError(f"{where}: `columns` has {key!r}: {value!r}, but the columns are ({there})")
    names = {k: v for k, v in given.items() if isinstance(v, str)} | given.get(part, {})
    return {
        key: column._replace(name=names[key], optional=False) if key in names else column
        for key, column in kind.files[part].items()
    }


def _read(paths: Paths, columns: Mapping[str, Mapping[str, Column]]) -> dict[str, Table]:
    return {part: read_table(path, columns[part]) for part, path in paths.items()}


def _revision(definition: str, paths: Paths) -> str:
    digest = hashlib.sha256(definition.encode())
    for part, path in paths.items():
        with path.open("rb") as stream:
            digest.update(f"{part} {hashlib.file_digest(stream, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()[:40]


def _metadata(where: str, entry: Mapping[str, Any], kind: Kind, revision: str) -> TaskMetadata:
    language = str(entry.get("language", "eng-Latn"))
    metadata = TaskMetadata(
        name=entry["name"],
        description=str(entry.get("description", "A task of one's own, from local files.")),
        dataset={"path": f"local/{entry['name']}", "revision": revision},
        type=entry["type"],
        category=kind.category,  # type: ignore[arg-type]
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=[language],
        main_score=entry.get("metric", kind.metrics[0]),
    )
    try:
        metadata._validate_metadata()
    except (ValueError, IndexError):
        raise InputError(f"{where}: language {language!r}: write it as eng-Latn (ISO 639-3 and the script)") from None
    return metadata


# --- the types -------------------------------------------------------------------------------------------------------

TEXT, LABEL = Column("text", own_data.text), Column("label", own_data.label)
SENTENCES = {key: Column(key, own_data.text) for key in ("sentence1", "sentence2")}
RANKED = tuple(
    f"{metric}_at_{k}" for metric in ("ndcg", "map", "mrr", "recall", "precision") for k in (1, 3, 5, 10, 100)
)

KINDS: dict[str, Kind] = {
    "Classification": Kind(
        AbsTaskClassification,
        {part: {"text": TEXT, "label": LABEL} for part in ("train", "test")},
        own_data.classification,
        ("accuracy", "f1", "f1_weighted"),
        category="t2c",
        options=("samples_per_label", "n_experiments"),
    ),
    "STS": Kind(
        AbsTaskSTS,
        {"test": {**SENTENCES, "score": Column("score", own_data.number)}},
        own_data.sts,
        ("cosine_spearman", "cosine_pearson", "spearman", "pearson"),
    ),
    "PairClassification": Kind(
        AbsTaskPairClassification,
        {"test": {**SENTENCES, "label": Column("label", own_data.yes_or_no)}},
        own_data.pairs,
        ("max_ap", "cosine_ap", "max_f1", "max_accuracy", "cosine_f1", "cosine_accuracy"),
    ),
    "Clustering": Kind(
        AbsTaskClustering,
        {"test": {"text": TEXT, "label": LABEL}},
        own_data.clustering,
        ("v_measure",),
        category="t2c",
        options=("n_clusters", "max_documents_per_cluster"),
    ),
    "Retrieval": Kind(
        AbsTaskRetrieval,
        {
            "queries": {"id": Column("id", own_data.identifier), "text": TEXT},
            "corpus": {
                "id": Column("id", own_data.identifier),
                "text": Column("text", own_data.maybe_blank),
                "title": Column("title", own_data.maybe_blank, optional=True),
            },
            "qrels": {
                "query_id": Column("query-id", own_data.identifier),
                "corpus_id": Column("corpus-id", own_data.identifier),
                "score": Column("score", own_data.grade, optional=True),
            },
        },
        own_data.retrieval,
        ("ndcg_at_10", *RANKED),
    ),
    "Reranking": Kind(
        AbsTaskRetrieval,
        {
            "test": {
                "query": Column("query", own_data.text),
                "positive": Column("positive", own_data.texts),
                "negative": Column("negative", own_data.texts),
            }
        },
        own_data.reranking,
        ("map_at_1000", *RANKED),
    ),
}
