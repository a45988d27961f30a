"""How many of a task's test texts a model was trained on: counted with the hashes that its training left behind.

A count, not a verdict: some texts of a public test set are in its public training set, too. Other models are not
"clean" because nothing is said of them: only models that tamft trained have the file.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tamft import fingerprints
from tamft.evaluation.identity import Identity

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

Record = dict[str, Any]
# Where mteb's task types name the columns that they embed.
ATTRIBUTES = ("input_column_name", "column_names", "input1_column_name", "input2_column_name")
# Where they name none (bitext mining, summaries), every column of texts counts but these.
NO_TEXTS = {"id", "_id", "label", "labels", "label_text", "lang", "language", "score", "title", "split"}


def fingerprint_of(identity: Identity) -> fingerprints.Fingerprint | None:
    """What is known of a model's training texts (for an adapter, of its base model's too); None: nothing.

    Raises InputError for a file that is broken.
    """
    folders = [found.folder for found in (identity, identity.base) if found is not None and found.folder is not None]
    paths = [path for folder in folders if (path := fingerprints.find(folder)) is not None]
    known = [fingerprints.read(path) for path in paths]
    return fingerprints.join(*known) if len(known) == 2 else known[0] if known else None


def count(task: "AbsTask", trained_on: fingerprints.Fingerprint | None) -> dict[str, dict[str, dict[str, int]]] | None:
    """`{split: {subset: {"texts": found, "of": looked at}}}` of a task whose data is loaded.

    None without a fingerprint. Of retrieval tasks the queries count: documents are meant to be known.
    """
    if trained_on is None:
        return None
    return {
        split: {
            subset: dict(zip(("texts", "of"), trained_on.count(test_texts(task, split, subset)), strict=True))
            for subset in task.hf_subsets
        }
        for split in task.eval_splits
    }


def pick(counted: Mapping[str, Any] | None, split: str, subset: str) -> dict[str, int] | None:
    """The count of one record; None where nothing was counted or the task has no texts."""
    found: dict[str, int] | None = ((counted or {}).get(split) or {}).get(subset)
    return found if found and found["of"] else None


def notes(records: Sequence[Record], label: Mapping[str, str]) -> list[str]:
    """A line for each task and model where a test text was trained on. `label`: how the table calls the models."""
    sums: dict[tuple[str, str], list[int]] = {}
    for record in records:
        if found := record.get("overlap"):
            total = sums.setdefault((record["task"], record["model"]), [0, 0])
            total[0] += found["texts"]
            total[1] += found["of"]
    return [
        f"overlap {task}: {texts} of {of} test texts are in the training data of {label[model]}"
        for (task, model), (texts, of) in sums.items()
        if texts
    ]


def test_texts(task: "AbsTask", split: str, subset: str) -> Iterator[str]:
    data: Any = getattr(task, "queries", None) or task.dataset or {}  # older retrieval tasks have `queries`
    data = data.get(subset, data)  # with one subset some tasks leave this level out
    part: Any = data.get(split)
    if part is None:
        return
    named = _flat(getattr(task, attribute, None) for attribute in ATTRIBUTES)
    if isinstance(part, Mapping):
        part, named = part.get("queries", part), iter(["text"])
        if isinstance(part, Mapping):  # {id: text}
            yield from _flat(part.values())
            return
    texts = [name for name in part.column_names if "string" in str(part.features[name]) and name not in NO_TEXTS]
    columns = [name for name in dict.fromkeys(named) if name in texts]
    for name in columns or texts:
        yield from _flat(part[name])


def _flat(values: Iterable[Any]) -> Iterator[str]:
    """The texts among `values`, in their lists, and the keys of their mappings (column name: modality)."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping | list | tuple):
            yield from _flat(value)
