"""Which columns are used, of which kind, and which line is wrong."""

import hashlib
import json

import pytest
from datasets import Dataset

from tamft.errors import InputError
from tamft.train import data

PAIR = {"anchor": "a", "positive": "b"}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("row", "columns", "kind", "used"),
    [
        ({**PAIR, "label": "x"}, None, "pairs", ["anchor", "positive"]),
        ({"label": 1, "positive": "b", "anchor": "a"}, None, "pairs", ["anchor", "positive"]),
        ({**PAIR, "negative": "c", "id": 1}, None, "triplets", ["anchor", "positive", "negative"]),
        ({"query": "a", "answer": "b"}, None, "pairs", ["query", "answer"]),
        ({"sentence1": "a", "sentence2": "b", "score": 0.5, "label": "x"}, None, "scored pairs", None),
        ({"sentence1": "a", "sentence2": "b", "label": 1}, None, "scored pairs", ["sentence1", "sentence2", "label"]),
        ({"x": "a", "y": "b", "z": 3}, ["y", "x", "z"], "scored pairs", ["y", "x", "z"]),
        ({"x": "a", "y": "b", "z": "3"}, ["x", "y", "z"], "triplets", ["x", "y", "z"]),
        ({"x": "a", "y": "b", "z": "c", "w": "d"}, ["w", "x", "y", "z"], "triplets", ["w", "x", "y", "z"]),
        ({**PAIR, "label": "x"}, ["anchor", "label"], "pairs", ["anchor", "label"]),
    ],
)
def test_columns_decide_the_kind(tmp_path, row, columns, kind, used):
    rows = data.load_file(write(tmp_path / "f.jsonl", row), columns)
    used = used or ["sentence1", "sentence2", "score"]
    assert (rows.kind, rows.columns) == (kind, used)
    assert rows.unused == [column for column in row if column not in used]
    # names under which the collator cannot take a text for a label, in the loss's order
    names = {
        "pairs": ["anchor", "positive"],
        "scored pairs": ["sentence1", "sentence2", "score"],
        "triplets": ["anchor", "positive", "negative"] if len(used) == 3 else None,
    }[kind] or ["anchor", "positive", "negative_1", "negative_2"]
    assert rows.dataset.column_names == names
    assert list(rows.dataset[0].values()) == [row[column] for column in used]


def test_source_names_the_bytes(tmp_path):
    path = tmp_path / "f.jsonl"
    write(path, PAIR, PAIR)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert data.load_file(str(path)).source == {"path": str(path), "sha256": digest, "rows": 2}


def test_three_formats_agree(tmp_path):
    rows = [{"sentence1": f"größe, {i}", "sentence2": 'say "x"\nagain', "score": i / 4} for i in range(4)]
    frame = Dataset.from_list(rows)
    frame.to_csv(str(tmp_path / "f.csv"))
    frame.to_parquet(str(tmp_path / "f.parquet"))
    write(tmp_path / "f.jsonl", *rows)
    loaded = [data.load_file(str(tmp_path / f"f{suffix}")).dataset for suffix in (".jsonl", ".csv", ".parquet")]
    assert loaded[0].to_list() == loaded[1].to_list() == loaded[2].to_list() == rows


def test_byte_order_mark_and_blank_lines(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(PAIR).encode() + b"\n\n" + json.dumps(PAIR).encode())
    assert len(data.load_file(str(path)).dataset) == 2


GOOD = json.dumps(PAIR).encode() + b"\n"
SCORED = {"sentence1": "a", "sentence2": "b", "score": 1.0}


@pytest.mark.parametrize(
    ("name", "content", "columns", "words"),
    [
        ("f.jsonl", b"", None, ["empty"]),
        ("f.jsonl", b"\n\n", None, ["no rows"]),
        ("f.jsonl", GOOD + b'{"anchor": "x", \n', None, ["line 2", "broken JSON"]),
        ("f.jsonl", GOOD + b"[1]\n", None, ["line 2", "JSON object"]),
        ("f.jsonl", GOOD + b'{"anchor": "caf\xe9", "positive": "b"}\n', None, ["line 2", "not UTF-8"]),
        ("f.jsonl", GOOD + b'{"anchor": "x"}\n', None, ["line 2", "no column 'positive'"]),
        ("f.jsonl", GOOD + b'{"anchor": "x", "positive": null}\n', None, ["line 2", "'positive'", "None"]),
        ("f.jsonl", GOOD + b'{"anchor": "x", "positive": 3}\n', None, ["line 2", "'positive'", "3"]),
        ("f.jsonl", GOOD + b'{"anchor": " ", "positive": "b"}\n', None, ["line 2", "'anchor'", "not empty"]),
        ("f.jsonl", GOOD, ["anchor", "postive"], ["'postive'", "'positive'", "anchor, positive"]),
        ("f.jsonl", GOOD, ["anchor", "anchor"], ["each once"]),
        ("f.jsonl", GOOD, ["anchor"], ["two columns"]),
        ("f.jsonl", b'{"a": "x", "b": "y"}\n', None, ["a, b", "--columns"]),
        ("f.jsonl", json.dumps({**SCORED, "score": "high"}).encode(), None, ["line 1", "'score'", "'high'"]),
        ("f.jsonl", json.dumps({**SCORED, "score": "0.5"}).encode(), None, ["line 1", "'score'", "'0.5'"]),
        ("f.jsonl", json.dumps({**SCORED, "score": float("nan")}).encode(), None, ["line 1", "finite"]),
        ("f.csv", b"", None, ["empty"]),
        ("f.csv", b"anchor,positive\n", None, ["no rows"]),
        ("f.csv", b"anchor,positive\nx,y\nx\n", None, ["line 3", "'positive'"]),
        ("f.csv", b"anchor,positive\nx,y\nx,y,z\n", None, ["line 3", "more cells"]),
        ("f.csv", b"anchor,positive\nx,caf\xe9\n", None, ["not UTF-8"]),
        ("f.csv", b"sentence1,sentence2,score\nx,y,high\n", None, ["line 2", "'score'", "'high'"]),
        ("f.parquet", b"PAR1 nothing", None, ["broken Parquet"]),
        ("f.txt", b"x", None, ["unknown kind of file", ".parquet"]),
    ],
)
def test_bad_files(tmp_path, name, content, columns, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        data.load_file(str(path), columns)
    assert all(word in str(error.value) for word in [*words, name]), str(error.value)


def test_missing_file_and_nothing_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        data.load_file(str(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match="--train_file"):
        data.load_rows(None, None, None, "train", None)


def test_dataset_by_name_from_a_local_folder(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    # the names are ours, in the other order: renaming must not mix them up
    write(
        folder / "train.jsonl",
        {"positive": "a", "anchor": "b", "label": "x"},
        {"positive": "c", "anchor": "d", "label": "y"},
    )
    rows = data.load_hub(str(folder), None, "train", ["positive", "anchor"])
    assert rows.dataset.to_list() == [{"anchor": "a", "positive": "b"}, {"anchor": "c", "positive": "d"}]
    assert (rows.kind, rows.unused, rows.source["rows"]) == ("pairs", ["label"], 2)


def test_dataset_that_cannot_be_had():
    with pytest.raises(InputError, match="--dataset nobody/nothing:train: cannot be loaded"):
        data.load_hub("nobody/nothing", None, "train")
