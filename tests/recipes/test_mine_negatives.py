"""Mining: the miner's own negatives, in a file that the recipes read; nothing half written, nothing overwritten."""

import json

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives

from tamft.train import data, run
from tests.recipes.conftest import make_rows
from tests.recipes.program import load_recipe
from tests.recipes.test_encoder_pairs import read


@pytest.fixture
def mine(tiny_model, rows_file, tmp_path, capsys):
    """Run the recipe in this process: (exit code, stdout, stderr, rows of the output)."""

    def call(*flags, output="out.jsonl"):
        words = [
            "--model",
            tiny_model,
            "--train_file",
            rows_file(name="pairs.jsonl"),
            "--output_file",
            tmp_path / output,
        ]
        capsys.readouterr()
        code = run.command(load_recipe("mine_negatives").main, [str(word) for word in [*words, *flags]])
        path = tmp_path / output
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else None
        return code, *capsys.readouterr(), rows

    return call


def test_negatives_are_the_miners(mine, tiny_model, rows_file):
    code, out, _, rows = mine("--num_negatives", 3, "--range_min", 2)
    assert code == 0
    pairs = data.load_file(rows_file()).dataset
    model = SentenceTransformer(str(tiny_model), device="cpu")
    expected = mine_hard_negatives(pairs, model, num_negatives=3, range_min=2, output_format="n-tuple", verbose=False)
    assert rows == expected.to_list()
    assert list(rows[0]) == ["anchor", "positive", "negative_1", "negative_2", "negative_3"]
    assert "--columns anchor positive negative_1 negative_2 negative_3 " in out


def test_the_recipe_reads_the_result(mine, recipe, tmp_path):
    assert mine()[0] == 0
    code, error, folder = recipe("--train_file", tmp_path / "out.jsonl")
    assert code == 0, error
    assert read(folder)["config"]["columns"] == ["anchor", "positive", "negative"]


def test_triplets_have_a_row_for_each_negative(mine):
    rows = mine("--num_negatives", 2, "--output_format", "triplet")[3]
    assert len(rows) == 48
    assert all(set(row) == {"anchor", "positive", "negative"} for row in rows)


@pytest.mark.parametrize("strategy", ["top", "random"])
def test_the_same_call_gives_the_same_file(mine, strategy):
    flags = ["--sampling_strategy", strategy, "--range_max", 15, "--num_negatives", 2]
    first, second = (mine(*flags, output=name)[3] for name in ("a.jsonl", "b.jsonl"))
    assert first == second
    other = mine(*flags, "--seed", 7, output="c.jsonl")[3]
    assert (other == first) == (strategy == "top")


def test_prompts_are_the_models_unless_told(mine, tiny_of, tmp_path):
    gemma = tiny_of("google/embeddinggemma-300m")
    out = mine("--model", gemma)[1]
    assert "prompts 'task: search result | query: ' and 'title: none | text: '" in out
    out = mine("--model", gemma, "--query_prompt", "q: ", "--corpus_prompt", "", "--overwrite", "true")[1]
    assert "prompts 'q: ' and ''" in out


def test_corpus(mine, tmp_path):
    (tmp_path / "more.txt").write_text("how do i top up my card\n\nwhy was the fee high\n", encoding="utf-8")
    rows = mine("--corpus", tmp_path / "more.txt", "--num_negatives", 20)[3]
    found = {row[key] for row in rows for key in row if key.startswith("negative")}
    assert {"how do i top up my card", "why was the fee high"} <= found


def test_an_output_is_not_overwritten_by_accident(mine, tmp_path):
    (tmp_path / "out.jsonl").write_text('{"mine": 1}\n', encoding="utf-8")
    code, _, error, rows = mine()
    assert (code, rows) == (2, [{"mine": 1}])
    assert "--overwrite true" in error
    assert mine("--overwrite", "true")[3] != [{"mine": 1}]
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


def test_an_anchor_is_not_its_own_negative(mine, rows_file):
    """The miner leaves out an anchor's positives, and the anchor itself may be another row's."""
    rows = make_rows(("anchor", "positive"), 8)
    rows = [*rows, *({"anchor": row["positive"], "positive": row["anchor"]} for row in rows[:2])]
    flags = ["--train_file", rows_file(rows=rows, name="both.jsonl")]
    code, out, _, found = mine(*flags)
    assert (code, "whose negative is the anchor itself" in out) == (0, True)
    assert all(row["negative"] != row["anchor"] for row in found)
    more = mine(*flags, "--max_score", 0.9999, "--overwrite", "true")[3]
    assert len(more) > len(found)


def test_nothing_found(mine):
    code, _, error, rows = mine("--max_score", -2)
    assert (code, rows) == (1, None)
    assert "no negatives were found" in error


BAD = [
    (["--train_file", "none.jsonl"], "none.jsonl"),
    (["--output_file", "out.csv"], "has to end in .jsonl"),
    (["--output_file", "/proc/none/out.jsonl"], "cannot be written"),
    (["--num_negatives", "0"], "num_negatives must be at least 1"),
    (["--range_min", "9", "--range_max", "3"], "range_min"),
    (["--corpus", "none.txt"], "--corpus none.txt: cannot be read"),
    (["--model", "./none"], "no such folder"),
    (["--num_negative", "1"], "'--num_negatives'"),
    (["--sampling_strategy", "best"], "best"),
]


@pytest.mark.parametrize(("flags", "words"), BAD)
def test_refused_in_one_line_and_nothing_written(mine, flags, words):
    code, _, error, rows = mine(*flags)
    assert (code, rows) == (2, None), error
    assert words in error
    assert error.splitlines()[-1].startswith("error: ")


def test_triplets_are_no_input(mine, rows_file):
    code, _, error, _ = mine("--train_file", rows_file(("anchor", "positive", "negative"), name="three.jsonl"))
    assert (code, "name an anchor and a positive" in error) == (2, True)
    assert mine("--train_file", rows_file(rows=make_rows(("q", "a", "n"))), "--columns", "q", "a")[0] == 0


def test_one_process(mine, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, error, _ = mine()
    assert (code, "--use_multi_process true" in error) == (2, True)
