"""How many texts scoring a task encodes, as far as that is known without its data: from mteb's statistics.

mteb ships, for nearly all of its tasks, how many texts their data has and how long they are. They are of the data; what
a task encodes of it (the training rows that are drawn, a share of the documents to cluster) follows from its type.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tamft.evaluation.data import needs_no_data

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

# mteb cuts large sets to this many rows while it loads them; statistics of such a set are of what is left.
SUBSAMPLE = 2048


class Size(NamedTuple):
    """Distinct texts that are encoded, their characters, and the characters of all that is loaded for it."""

    texts: int
    characters: int
    loaded: int

    def __add__(self, other: tuple[int, ...]) -> "Size":  # type: ignore[override]
        return Size(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def size(task: "AbsTask") -> Size | None:
    """What scoring a task encodes, estimated; None where nothing is known."""
    if task.is_aggregate:
        sizes = [size(part) for part in task.metadata.tasks]  # type: ignore[attr-defined]
        return None if None in sizes else sum((s for s in sizes if s), Size(0, 0, 0))
    statistics = task.metadata.descriptive_stats or _own(task)
    total = Size(0, 0, 0)
    for split in task.eval_splits:
        for subset in task.hf_subsets:
            tested = _texts(statistics, split, subset)
            if tested is None:
                return None
            total += _encoded(task, tested) + _training(task, statistics, split, subset)
    return total


def _own(task: "AbsTask") -> Mapping[str, Any]:
    """Statistics in mteb's form, of data that needs no network; {} for other tasks."""
    if not needs_no_data(task):
        return {}
    task.load_data()
    try:
        data: Any = task.dataset
        return {split: _count(rows) for split, rows in data.get("default", data).items()}
    finally:
        task.unload_data()


def _count(rows: Any) -> dict[str, Any]:
    if isinstance(rows, dict):  # queries and documents
        tables = {"queries": rows["queries"], "documents": rows["corpus"]}
    else:
        tables = {"": rows}
    found: dict[str, Any] = {}
    for name, table in tables.items():
        for column in set(table.column_names) & {"text", "sentence1", "sentence2", "sentences"}:
            texts = table[column][:]
            length = sum(map(len, texts))
            found[f"{name}{column}"] = {
                "total_text_length": length,
                "average_text_length": length / len(texts),
                "unique_texts": len(set(texts)),
            }
    if "label" in getattr(rows, "column_names", ()):
        counts = Counter(rows["label"][:])
        found["label_statistics"] = {"labels": {label: {"count": count} for label, count in counts.items()}}
    return found


def _of(statistics: Mapping[str, Any], split: str, subset: str) -> Mapping[str, Any]:
    whole: Mapping[str, Any] = statistics.get(split) or {}
    subsets: Mapping[str, Any] = whole.get("hf_subset_descriptive_stats") or {}
    return subsets.get(subset, {} if subsets else whole)


def _texts(statistics: Mapping[str, Any], split: str, subset: str) -> Size | None:
    columns = list(_columns(_of(statistics, split, subset)))
    count, characters = sum(c[0] for c in columns), sum(c[1] for c in columns)
    return Size(count, characters, characters) if count else None


def _columns(statistics: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Number of distinct texts and their characters, for each column of texts: text, sentence1, queries, summaries …"""
    for column in statistics.values():
        if isinstance(column, dict) and column.get("total_text_length") and column.get("average_text_length"):
            unique = column.get("unique_texts") or round(column["total_text_length"] / column["average_text_length"])
            yield unique, round(unique * column["average_text_length"])


def _encoded(task: "AbsTask", tested: Size) -> Size:
    """Clustering encodes a share of the documents."""
    from mteb.abstasks.clustering import AbsTaskClustering

    if not isinstance(task, AbsTaskClustering):
        return tested
    limit = task.max_document_to_embed or tested.texts
    fraction = task.max_fraction_of_documents_to_embed
    if fraction is not None and not (tested.texts <= SUBSAMPLE and "dataset_transform" in vars(type(task))):
        limit = int(fraction * tested.texts)
    share = min(1.0, limit / tested.texts)
    return Size(round(tested.texts * share), round(tested.characters * share), tested.loaded)


def _training(task: "AbsTask", statistics: Mapping[str, Any], split: str, subset: str) -> Size:
    """Classification encodes what it draws of the training rows: so many of each label, in each of its experiments."""
    from mteb.abstasks.classification import AbsTaskClassification

    if not isinstance(task, AbsTaskClassification) or task.train_split == split:
        return Size(0, 0, 0)
    found = _of(statistics, task.train_split, subset)
    rows = _texts(statistics, task.train_split, subset)
    drawn = task.samples_per_label
    labels: Mapping[str, Any] = (found.get("label_statistics") or {}).get("labels") or {}
    if rows is None:  # older statistics are of the tested split alone: as many labels, as long texts, rows enough
        rows = _texts(statistics, split, subset) or Size(1, 0, 0)
        labels = (_of(statistics, split, subset).get("label_statistics") or {}).get("labels") or {}
        count = drawn * task.n_experiments * max(2, len(labels))
        return Size(count, round(count * rows.characters / rows.texts), 0)
    # a row that one experiment draws may be drawn again by another, and is encoded once
    counts = [label["count"] for label in labels.values()] or [rows.texts / 2] * 2
    count = round(sum(n * (1 - (1 - min(1, drawn / n)) ** task.n_experiments) for n in counts if n))
    return Size(count, round(rows.characters * count / rows.texts), rows.loaded)
