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
    """What scoring a task encodes.

    `texts` are distinct, `rows` all of them: where no embeddings are kept, what occurs again is encoded again.
    `characters` are the texts' own, `loaded` those of all data that is fetched for it.
    """

    texts: int
    rows: int
    characters: int
    loaded: int

    def __add__(self, other: tuple[int, ...]) -> "Size":  # type: ignore[override]
        return Size(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def of(self, texts: float, rows: float, loaded: float) -> "Size":
        """So many texts as long as these."""
        return Size(round(texts), round(rows), round(self.characters * texts / max(1, self.texts)), round(loaded))


NOTHING = Size(0, 0, 0, 0)


def size(task: "AbsTask") -> Size | None:
    """What scoring a task encodes, estimated; None where nothing is known."""
    if task.is_aggregate:
        sizes = [size(part) for part in task.metadata.tasks]  # type: ignore[attr-defined]
        return None if None in sizes else sum((s for s in sizes if s), NOTHING)
    statistics = task.metadata.descriptive_stats or _own(task)
    total = NOTHING
    for split in task.eval_splits:
        for subset in task.hf_subsets:
            tested = _texts(statistics, split, subset)
            if tested is None:
                return None
            total += _encoded(task, tested) + _training(task, statistics, split, subset)
    if task.fast_loading:  # all languages are fetched, whichever are meant
        whole = [sum(c.loaded for c in _columns(of_split)) for of_split in statistics.values()]
        total = total._replace(loaded=sum(whole))
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
    found = sum(_columns(_of(statistics, split, subset)), NOTHING)
    return found if found.texts else None


def _columns(statistics: Mapping[str, Any]) -> Iterator[Size]:
    """Each column of texts: text, sentence1, queries, summaries …"""
    for column in statistics.values():
        if isinstance(column, dict) and column.get("total_text_length") and column.get("average_text_length"):
            length, average = column["total_text_length"], column["average_text_length"]
            rows = round(length / average)
            unique = column.get("unique_texts") or rows
            yield Size(unique, rows, round(unique * average), length)


def _encoded(task: "AbsTask", tested: Size) -> Size:
    """Clustering encodes a share of the documents."""
    from mteb.abstasks.clustering import AbsTaskClustering

    if not isinstance(task, AbsTaskClustering):
        return tested
    limit = min(tested.rows, task.max_document_to_embed or tested.rows)
    fraction = task.max_fraction_of_documents_to_embed
    if fraction is not None and not (tested.rows <= SUBSAMPLE and "dataset_transform" in vars(type(task))):
        limit = int(fraction * tested.rows)
    return tested.of(min(limit, tested.texts), limit, tested.loaded)


def _training(task: "AbsTask", statistics: Mapping[str, Any], split: str, subset: str) -> Size:
    """Classification encodes what it draws of the training rows: so many of each label, in each of its experiments."""
    from mteb.abstasks.classification import AbsTaskClassification

    if not isinstance(task, AbsTaskClassification) or task.train_split == split:
        return NOTHING
    rows = _texts(statistics, task.train_split, subset)
    # older statistics are of the tested split alone: as many labels, as long texts, and rows enough
    found = _of(statistics, task.train_split if rows else split, subset)
    labels: Mapping[str, Any] = (found.get("label_statistics") or {}).get("labels") or {}
    if rows is None:
        count = task.samples_per_label * task.n_experiments * max(2, len(labels))
        return (_texts(statistics, split, subset) or NOTHING).of(count, count, 0)
    # a row that one experiment draws may be drawn again by another, and is encoded once
    counts = [label["count"] for label in labels.values()] or [rows.rows / 2] * 2
    missed = [(n, 1 - min(1, task.samples_per_label / n)) for n in counts if n]
    count = round(sum(n * (1 - share**task.n_experiments) for n, share in missed))
    return rows.of(min(count, rows.texts), count, rows.loaded)
