"""Training rows from local files or the Hub: which columns, of which kind, and every bad row named by its line."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamft.errors import InputError
from tamft.registry import nearest
from tamft.row_files import Row, read_rows
from tamft.train.losses import PAIRS, SCORED, TRIPLETS

# Column sets that are understood without --columns, in this order; other columns of the data are left out.
LAYOUTS: tuple[tuple[str, ...], ...] = (
    ("sentence1", "sentence2", "score"),
    ("anchor", "positive", "negative"),
    ("query", "positive", "negative"),
    ("anchor", "positive"),
    ("query", "positive"),
    ("query", "answer"),
    ("question", "answer"),
    ("sentence1", "sentence2", "label"),
    ("sentence1", "sentence2"),
)
NUMBERS = ("score", "label")


@dataclass(frozen=True)
class Rows:
    """Checked training rows.

    `dataset` has the columns anchor, positive (, negative or negative_1 …), or sentence1, sentence2, score: names that
    cannot be mistaken for labels, in the order that the loss reads. `columns` and `unused` are the data's own names.
    """

    dataset: Any
    kind: str
    columns: list[str]
    unused: list[str]
    source: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        """Names of the dataset's columns that hold texts."""
        names: list[str] = self.dataset.column_names
        return names[:2] if self.kind == SCORED else names


def load_rows(
    file: str | None, dataset: str | None, config: str | None, split: str, columns: Sequence[str] | None
) -> Rows:
    """Rows of a local file, else of a Hub dataset: a file on the command line replaces a config's dataset.

    Args:
        file: .jsonl (one object per line), .csv (with a header) or .parquet.
        dataset, config, split: of a dataset on the Hub, as `datasets.load_dataset` takes them.
        columns: the columns to use, in the loss's order; None: the first of LAYOUTS that the data has.

    Raises InputError for neither, and for data that is missing, empty, not UTF-8, broken, lacks a column or
    holds a wrong type, with the line.
    """
    if file is not None:
        return load_file(file, columns)
    if dataset is None:
        raise InputError("no data: give --train_file FILE (.jsonl, .csv, .parquet) or --dataset NAME")
    return load_hub(dataset, config, split, columns)


def load_splits(args: Any, eval_strategy: Any) -> tuple[Rows, Rows | None]:
    """Training rows and those for the evaluation loss (None where none are asked for) that `args` name.

    Args:
        args: an arguments.DataArguments.
        eval_strategy: TrainingArguments' own, to find out whether evaluation rows are missing.

    Raises InputError as `load_rows` does, for evaluation rows that are missing, and for ones of another kind.
    """
    train = load_rows(args.train_file, args.dataset, args.dataset_config, args.train_split, args.columns)
    if not (args.eval_file or args.eval_split):
        if eval_strategy != "no":
            raise InputError(f"--eval_strategy {eval_strategy.value} needs --eval_file or --eval_split")
        return train, None
    if not args.eval_file and args.dataset is None:
        raise InputError(f"--eval_split {args.eval_split} is one of --dataset, which is not given: name an --eval_file")
    hub = None if args.eval_file else args.dataset
    rows = load_rows(args.eval_file, hub, args.dataset_config, args.eval_split or "", args.columns)
    if rows.kind != train.kind:
        raise InputError(f"training rows are {train.kind}, evaluation rows are {rows.kind}: both must be the same")
    return train, rows


def describe(rows: Rows) -> str:
    """One line for people: how many rows of which kind, from which columns, and what is not used."""
    left_out = f" (not used: {', '.join(rows.unused)})" if rows.unused else ""
    return f"{len(rows.dataset)} {rows.kind} from {', '.join(rows.columns)}{left_out}"


def load_file(name: str, columns: Sequence[str] | None = None) -> Rows:
    """Rows of a local file; see `load_rows`."""
    from datasets import Dataset

    path = Path(name).expanduser()
    rows = read_rows(path)
    first = next(rows, None)
    if first is None:
        raise InputError(f"{path}: holds no rows")
    loose = path.suffix.lower() in (".csv", ".tsv")  # where a number is a text that looks like one
    used, kind = plan(first, columns, str(path), loose=loose)
    unused = [column for column in first[1] if column not in used]
    values: dict[str, list[Any]] = {column: [] for column in used}
    for row in _chain(first, rows):
        for column, value in zip(used, _checked(row, used, kind, loose), strict=True):
            values[column].append(value)
    names = _names(used, kind)
    data = Dataset.from_dict(dict(zip(names, values.values(), strict=True)))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Rows(data, kind, used, unused, {"path": name, "sha256": digest, "rows": len(data)})


def load_hub(name: str, config: str | None, split: str, columns: Sequence[str] | None = None) -> Rows:
    """Rows of a dataset on the Hub (or in its local cache); see `load_rows`. sha256 is that of the used columns."""
    from datasets import load_dataset

    label = f"{name}:{config}:{split}" if config else f"{name}:{split}"
    try:
        data = load_dataset(name, config, split=split)
    except (OSError, ValueError) as error:  # not found, no network, unknown config or split
        raise InputError(f"--dataset {label}: cannot be loaded: {' '.join(str(error).split())}") from error
    if not len(data):
        raise InputError(f"--dataset {label}: holds no rows")
    used, kind = plan((f"{label}, row 1", data[0]), columns, label)
    unused = [column for column in data.column_names if column not in used]
    digest = hashlib.sha256()
    data = data.select_columns(used)
    for number, row in enumerate(data, start=1):
        digest.update(json.dumps(_checked((f"{label}, row {number}", row), used, kind, False)).encode())
    # Two renames: the data may use our names for other columns (`sentence2, sentence1`).
    names = _names(used, kind)
    data = data.rename_columns({column: f"_column_{i}" for i, column in enumerate(used)})
    data = data.rename_columns({f"_column_{i}": column for i, column in enumerate(names)})
    return Rows(data, kind, used, unused, {"path": label, "sha256": digest.hexdigest(), "rows": len(data)})


def plan(first: Row, wanted: Sequence[str] | None, where: str, *, loose: bool = False) -> tuple[list[str], str]:
    """Columns to use, in the loss's order, and the kind of rows (a key of losses.SHAPES), from the first row.

    `loose`: numbers may be written as texts (CSV). Raises InputError naming a missing column, or listing the columns
    where none of LAYOUTS fits.
    """
    there = [str(column) for column in first[1]]
    if wanted is None:
        used = next((layout for layout in LAYOUTS if set(layout) <= set(there)), None)
        if used is None:
            raise InputError(
                f"{where}: the columns {', '.join(there) or '(none)'} do not say which texts belong together: "
                "name them with --columns, for example --columns question answer"
            )
    else:
        used = tuple(wanted)
        for column in used:
            if column not in there:
                raise InputError(
                    f"{where}: has no column {column!r}{nearest(column, there)} Its columns: {', '.join(there)}"
                )
        if len(set(used)) < max(2, len(used)):
            raise InputError(f"{where}: --columns {' '.join(used)}: name two columns or more, each once")
    scored = len(used) == 3 and (
        used[2] in NUMBERS if wanted is None else _number(first[1][used[2]], loose) is not None
    )
    kind = SCORED if scored else PAIRS if len(used) == 2 else TRIPLETS
    return list(used), kind


def _checked(row: Row, used: Sequence[str], kind: str, loose: bool) -> list[Any]:
    where, values = row
    result: list[Any] = []
    for position, column in enumerate(used):
        if column not in values:
            raise InputError(f"{where}: has no column {column!r}; every row needs {', '.join(used)}")
        value = values[column]
        if kind == SCORED and position == 2:
            number = _number(value, loose)
            if number is None:
                raise InputError(f"{where}: column {column!r} has to be a finite number, it is {_short(value)}")
            result.append(number)
        elif isinstance(value, str) and value.strip():
            result.append(value)
        else:
            raise InputError(f"{where}: column {column!r} has to be a text that is not empty, it is {_short(value)}")
    return result


def _number(value: Any, loose: bool) -> float | None:
    try:
        number = float(value) if isinstance(value, int | float) or (loose and isinstance(value, str)) else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _names(used: Sequence[str], kind: str) -> list[str]:
    if kind == SCORED:
        return ["sentence1", "sentence2", "score"]
    negatives = len(used) - 2
    # "negative" beside "negative_2" would be one prefix of the other, and the collator tells columns apart by prefix.
    return [
        "anchor",
        "positive",
        *(["negative"] if negatives == 1 else [f"negative_{i + 1}" for i in range(negatives)]),
    ]


def _chain(first: Row, rest: Iterable[Row]) -> Iterator[Row]:
    yield first
    yield from rest
