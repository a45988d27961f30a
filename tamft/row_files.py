"""Files of rows that people bring, read the same way everywhere: every bad row is named by its line."""

import csv
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tamft.errors import InputError

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")

Row = tuple[str, dict[str, Any]]  # where it stands ("FILE, line 3"), and its columns


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a .jsonl (one object per line), .csv or .tsv (with a header) or .parquet file, one after the other.

    The values of a CSV are texts. Raises InputError, with the line, for what is missing, empty, not UTF-8 or broken.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: unknown kind of file; use {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        with path.open("rb") as stream:
            if not stream.read(1):
                raise InputError(f"{path}: the file is empty")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    readers: dict[str, Callable[[Path], Iterator[Row]]] = {
        ".csv": _csv_rows,
        ".tsv": partial(_csv_rows, delimiter="\t"),
        ".parquet": _parquet_rows,
    }
    return readers.get(path.suffix.lower(), _json_rows)(path)


def _json_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            where = f"{path}, line {number}"
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise InputError(f"{where}: not UTF-8 text (byte {error.start + 1}); save the file as UTF-8") from error
            except json.JSONDecodeError as error:
                raise InputError(f"{where}: broken JSON: {error.msg} (column {error.colno})") from error
            if not isinstance(row, dict):
                raise InputError(f'{where}: has to be one JSON object such as {{"text": "…"}}')
            yield where, row


def _csv_rows(path: Path, delimiter: str = ",") -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True, restkey="", delimiter=delimiter)
        try:
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if "" in row:
                    raise InputError(f"{where}: has more cells than the header; quote texts that hold commas")
                yield where, row
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 text after line {reader.line_num}; save the file as UTF-8") from error
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: broken CSV: {error}") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: broken Parquet: {error}") from error
