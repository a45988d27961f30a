"""Local files of a task of one's own, read and checked before any model is loaded."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, DatasetDict
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

from tamft.errors import InputError
from tamft.registry import nearest
from tamft.row_files import read_rows


class Column(NamedTuple):
    """A column that a table must have (or may have): its name in the file, what its values are, and if it may lack."""

    name: str
    convert: Callable[[Any], Any]
    optional: bool = False


Table = dict[str, list[Any]]
Tables = Mapping[str, Table]
Paths = Mapping[str, Path]
Built = tuple[Any, dict[str, Any]]  # mteb's `dataset`, and attributes of the task that follow from the data


def read_table(path: Path, columns: Mapping[str, Column]) -> Table:
    """The wanted columns of a file, by their names in `columns`; an optional one that the file lacks is left out.

    Raises InputError for a file that is missing, broken or has no rows, a missing column, and, with its line, a value
    that is not what its column holds.
    """
    table: Table = {}
    for where, row in read_rows(path):
        if not table:
            table = {key: [] for key, column in columns.items() if column.name in row or not column.optional}
        for key, values in table.items():
            name, convert, _ = columns[key]
            if name not in row:
                raise InputError(
                    f"{where}: has no column {name!r}{nearest(name, row)} Its columns: {', '.join(map(str, row))}; "
                    f"say which one is meant with `columns: {{{key}: …}}`"
                )
            try:
                values.append(convert(row[name]))
            except ValueError as error:
                raise InputError(f"{where}: column {name!r} {error}") from None
    if not table:
        raise InputError(f"{path}: holds no rows")
    return table


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


# --- what a cell may hold ---------------------------------------------------------------------------------------------


def text(value: Any) -> str:
    """A text that is not blank and can be written as UTF-8."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"has to be a text that is not empty, it is {_short(value)}")
    return maybe_blank(value)


def maybe_blank(value: Any) -> str:
    """A text; nothing counts as an empty one."""
    value = "" if value is None else value
    if not isinstance(value, str):
        raise ValueError(f"has to be a text, it is {_short(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"holds half a character (a lone surrogate): {_short(value)}") from None
    return value


def texts(value: Any) -> list[str]:
    """A list of texts; one text (all that CSV can hold) is a list of one, nothing is an empty list."""
    if value is None or value == "":
        return []
    return [text(item) for item in (value if isinstance(value, list) else [value])]


def label(value: Any) -> str:
    """A class: a text, a whole number or a truth value; 1 and "1" are the same class."""
    if isinstance(value, str) and value.strip():
        return maybe_blank(value)
    if isinstance(value, int):
        return str(value)
    raise ValueError(f"has to be a class (a text or a whole number), it is {_short(value)}")


def identifier(value: Any) -> str:
    """What names a row: a text or a whole number; 1 and "1" are the same."""
    if isinstance(value, bool):
        raise ValueError(f"has to be a text or a whole number, it is {value}")
    return label(value)


def number(value: Any) -> float:
    """A finite number, which CSV writes as a text."""
    try:
        result = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not math.isfinite(result):
        raise ValueError(f"has to be a finite number, it is {_short(value)}")
    return result


def grade(value: Any) -> int:
    """How relevant: a whole number of at least 0."""
    result = number(value)
    if result < 0 or result != int(result):
        raise ValueError(f"has to be 0 (not relevant), 1 or a higher grade, it is {_short(value)}")
    return int(result)


def yes_or_no(value: Any) -> int:
    """1 or 0."""
    words = {"1": 1, "0": 0, "true": 1, "false": 0}
    if str(value).lower() not in words:
        raise ValueError(f"has to be 1 (they belong together) or 0, it is {_short(value)}")
    return words[str(value).lower()]


# --- what a table must hold -------------------------------------------------------------------------------------------


def classes(path: Path, labels: list[str], at_least: int = 2) -> set[str]:
    """The classes of a table. Raises InputError for fewer than `at_least`."""
    found = set(labels)
    if len(found) < at_least:
        raise InputError(f"{path}: all {len(labels)} rows have the label {labels[0]!r}; a score needs two classes")
    return found


def unique(path: Path, ids: list[str], what: str) -> None:
    """Raise InputError if an id occurs twice."""
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise InputError(
            f"{path}: the {what} id {twice[0]!r} occurs {Counter(ids)[twice[0]]} times; ids must be unique"
        )


def some(names: set[str] | list[str]) -> str:
    """A few of many names, for a message."""
    names = sorted(names)
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# --- from files to what mteb expects ----------------------------------------------------------------------------------


def classification(tables: Tables, paths: Paths) -> Built:
    """Rows of text and class (0, 1, … in the order of the names)."""
    known = classes(paths["train"], tables["train"]["label"])
    tested = classes(paths["test"], tables["test"]["label"])
    if tested - known:
        raise InputError(f"{paths['test']}: no row of the training file has the label {some(tested - known)}")
    if known - tested:
        raise InputError(
            f"{paths['train']}: no row of the test file has the label {some(known - tested)}; take these rows out, or "
            "add such rows to the test file"
        )
    numbers = all(name.isdecimal() for name in known)
    order = {name: i for i, name in enumerate(sorted(known, key=int if numbers else None))}
    splits = {
        part: Dataset.from_dict({"text": table["text"], "label": [order[name] for name in table["label"]]})
        for part, table in tables.items()
    }
    return DatasetDict(splits), {}


def sts(tables: Tables, paths: Paths) -> Built:
    """Graded pairs, and the range of the grades."""
    scores = tables["test"]["score"]
    if min(scores) == max(scores):
        raise InputError(f"{paths['test']}: all {len(scores)} scores are {scores[0]:g}; no correlation is defined")
    return DatasetDict({"test": Dataset.from_dict(tables["test"])}), {
        "min_score": min(scores),
        "max_score": max(scores),
    }


def pairs(tables: Tables, paths: Paths) -> Built:
    """Pairs that belong together or do not."""
    table = tables["test"]
    classes(paths["test"], table["label"])
    return DatasetDict({"test": Dataset.from_dict({**table, "labels": table["label"]}).remove_columns("label")}), {}


def clustering(tables: Tables, paths: Paths) -> Built:
    """Texts and their classes, all of them used."""
    table = tables["test"]
    if len(classes(paths["test"], table["label"])) == len(table["label"]):
        raise InputError(f"{paths['test']}: every row has a label of its own; clusters need labels that occur again")
    data = Dataset.from_dict({"sentences": table["text"], "labels": table["label"]})
    # mteb's defaults are for large sets: 4 % of the texts, and samples of 16384
    whole = {"max_fraction_of_documents_to_embed": None, "max_documents_per_cluster": min(len(data), 16_384)}
    return DatasetDict({"test": data}), whole


def retrieval(tables: Tables, paths: Paths) -> Built:
    """Queries, documents and which belong together; queries without a judgment are left out, as mteb does."""
    queries, corpus, qrels = tables["queries"], tables["corpus"], tables["qrels"]
    unique(paths["queries"], queries["id"], "query")
    unique(paths["corpus"], corpus["id"], "document")
    for text, title in zip(corpus["text"], corpus.get("title", corpus["text"]), strict=True):
        if not text.strip() and not title.strip():
            raise InputError(f"{paths['corpus']}: a document has neither text nor title; take it out")
    for column, part, ids in (("query_id", "queries", queries["id"]), ("corpus_id", "corpus", corpus["id"])):
        lost = set(qrels[column]) - set(ids)
        if lost:
            raise InputError(f"{paths['qrels']}: {some(lost)}: no such id in {paths[part].name}")
    relevant: dict[str, dict[str, int]] = {}
    grades = qrels.get("score", [1] * len(qrels["query_id"]))
    for query, document, grade in zip(qrels["query_id"], qrels["corpus_id"], grades, strict=True):
        if relevant.setdefault(query, {}).setdefault(document, grade) != grade:
            raise InputError(f"{paths['qrels']}: query {query!r} and document {document!r} have two different scores")
    barren = {query for query, documents in relevant.items() if not any(documents.values())}
    if barren:
        raise InputError(f"{paths['qrels']}: no relevant document for the query {some(barren)}; take it out")
    judged = [i for i, name in enumerate(queries["id"]) if name in relevant]
    split = RetrievalSplitData(
        queries=Dataset.from_dict(queries).select(judged),
        corpus=Dataset.from_dict(corpus),
        relevant_docs=relevant,
        top_ranked=None,
    )
    return {"default": {"test": split}}, {}


def reranking(tables: Tables, paths: Paths) -> Built:
    """A text is one document however often it is a candidate; rows of one query are put together (CSV).

    Ids are hashes: where scores are equal the id decides the rank, and the order of rows must not.
    """
    ids: dict[str, str] = {}
    judged: dict[str, dict[str, int]] = {}
    table = tables["test"]
    for query, positive, negative in zip(table["query"], table["positive"], table["negative"], strict=True):
        mine = judged.setdefault(query, {})
        for text, grade in [*((t, 1) for t in positive), *((t, 0) for t in negative)]:
            name = ids.setdefault(text, hashlib.sha256(text.encode()).hexdigest()[:16])
            if mine.setdefault(name, grade) != grade:
                raise InputError(f"{paths['test']}: for the query {query!r} the text {text!r} is positive and negative")
    for query, documents in judged.items():
        if set(documents.values()) != {0, 1}:
            raise InputError(
                f"{paths['test']}: the query {query!r} needs a positive and a negative text: nothing to rank"
            )
    names = {query: f"q{i}" for i, query in enumerate(judged)}
    split = RetrievalSplitData(
        queries=Dataset.from_dict({"id": list(names.values()), "text": list(names)}),
        corpus=Dataset.from_dict({"id": list(ids.values()), "text": list(ids)}),
        relevant_docs={names[query]: documents for query, documents in judged.items()},
        top_ranked={names[query]: sorted(documents) for query, documents in judged.items()},
    )
    return {"default": {"test": split}}, {}
