"""`tamft eval` as people call it: table, exit codes, bad input, and the published scores."""

import json
import re
import shutil

import pytest

from tamft.cli import main as tamft
from tamft.errors import InputError
from tamft.evaluation.score import evaluate
from tests.evaluation.adapters import save_adapter

pytestmark = pytest.mark.usefixtures("tiny_tasks")


def test_the_command(tiny_model, other_tiny_model, tmp_path, capsys):
    arguments = [str(tiny_model), str(other_tiny_model), "--tasks", "TinySTS", "TwoLanguages", "--batch-size=8"]
    arguments += ["--results", str(tmp_path / "r"), "--json", str(tmp_path / "new" / "scores.json"), "--device", "cpu"]
    assert tamft(["eval", *arguments]) == 0
    printed = capsys.readouterr().out
    records = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert [(r["task"], r["subset"]) for r in records[:2]] == [("TinySTS", "default"), ("TwoLanguages", "en")]
    assert records[0]["batch"] == 8
    assert records[0]["command"].startswith(f"tamft eval {tiny_model}")
    for record in records:
        assert f"{record['main_score']:.4f}" in printed
        assert f"@{record['revision']}" in printed


def test_batches_and_precision_from_the_command_line(tiny_model, tmp_path, capsys):
    arguments = ["eval", str(tiny_model), "--tasks", "TinySTS", "--results", str(tmp_path / "r"), "--device=cpu"]
    arguments += ["--json", str(tmp_path / "scores.json")]
    found = {}
    for words in ("", "--batch-tokens 64 --dtype bfloat16", "--batch_size 3 --cache_mb 1 --mix_versions"):
        assert tamft([*arguments, *words.split()]) == 0
        (record,) = json.loads((tmp_path / "scores.json").read_text())
        found[words] = record["batch"], record["batch_unit"], record["dtype"]
    assert list(found.values()) == [
        (2048, "tokens", "float32"),
        (64, "tokens", "bfloat16"),
        (2048, "tokens", "float32"),
    ]
    capsys.readouterr()


def test_exit_code_1_when_something_failed(tiny_model, tmp_path, capsys):
    arguments = ["eval", str(tiny_model), "--results", str(tmp_path / "r"), "--tasks", "TinySTS", "Broken", "Absent"]
    assert tamft(arguments) == 1
    printed = capsys.readouterr().out
    assert re.search(r"failed  Broken with bert/model: .*sentence2", printed)
    assert "missing Absent: the data is not in the local cache" in printed


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        tamft(["eval", "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for word in (
        "--batch_size",
        "--batch_tokens",
        "--dtype",
        "--devices all",
        "--mix_versions",
        "--suite nanobeir",
        "LoRA adapter",
        "Exit code",
    ):
        assert word in printed


BAD = {
    "--batch_size 0": "at least 1",
    "--batch_size -4": "at least 1",
    "--batch_size many": "invalid int value: 'many'",
    "--batch_tokens 0": "at least 1",
    "--batch_tokens 64 --batch_size 8": "not allowed with argument",
    "--dtype int8": "invalid choice: 'int8'",
    "--cache_mb -1": "at least 0",
    "--num_processes 0": "at least 1",
    "--num_processes 2 --devices cpu": "give it alone",
    "--devices all": "torch sees no GPU here",
    "--devices cpu cuda:99": "--devices 'cuda:99' cannot be used here",
    "--device gpu": "--device 'gpu' cannot be used here",
    "--device cuda:99": "there is cpu",
    "--device meta": "cannot be used here",
    "--batchsize 8": "did you mean --batch_size?",
    "--frobnicate 8": "unrecognized arguments: --frobnicate",
    "--results FILE": "is a file; give a folder",
    "--results FILE/below": "nothing can be written below it",
    "--json FOLDER": "is not an ordinary file",
    "--json /dev/full": "is not an ordinary file",
    "--json FILE/scores.json": "nothing can be written below it",
    "--tasks TinyST": "did you mean TinySTS",
    "--suite nothing": "unknown suite 'nothing'",
    "--languages klingon": "klingon",
    "nowhere/at/all --tasks TinySTS": "model 'nowhere/at/all': no such folder",
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_one_line_and_writes_nothing(bad, tiny_model, tmp_path, capsys, monkeypatch, forbid_loading):
    forbid_loading()
    (tmp_path / "here").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    words = bad.replace("FILE", str(tmp_path / "file")).replace("FOLDER", str(tmp_path)).split()
    rest = ["--tasks", "XQuADRetrieval" if "languages" in bad else "TinySTS"] if "--tasks" not in words else []
    models = [] if words[0][0] != "-" else [str(tiny_model)]
    assert tamft(["eval", *models, *rest, *words]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("tamft eval: error: ")
    assert printed.err.count("\n") == 1
    assert BAD[bad] in printed.err
    assert printed.out == ""
    assert list((tmp_path / "here").iterdir()) == []
    assert (tmp_path / "file").read_text() == ""


def test_the_same_model_twice(score, tiny_model):
    with pytest.raises(InputError, match="given twice"):
        score(tiny_model, tiny_model)
    with pytest.raises(InputError, match="no model given"):
        score()


def test_a_single_model_needs_no_list(tiny_model, tmp_path):
    (record,) = evaluate(tiny_model, tasks=["TinySTS"], results=tmp_path / "r", device="cpu")
    assert record["status"] == "ok"


def test_a_model_without_an_identity_is_refused(tiny_model):
    from sentence_transformers import SentenceTransformer

    with pytest.raises(InputError, match="a SentenceTransformer object has no identity"):
        evaluate([SentenceTransformer(str(tiny_model), device="cpu")], tasks=["TinySTS"])


def test_a_full_disk_is_seen_before_the_work(score, tiny_model, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    with pytest.raises(InputError, match="is full"):
        score(tiny_model)


def test_a_hub_model_in_the_local_cache(tiny_model, tmp_path, run_python):
    """A fresh process: the Hub's folders are fixed at import."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hf" / "hub" / "models--acme--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(tiny_model, repository / "snapshots" / commit)
    done = run_python(
        *("-m", "tamft.cli", "eval", "acme/tiny", tiny_model, "--tasks", "EmbeddedSTS", "--json", "x.json"),
        env={"HF_HOME": str(tmp_path / "hf")},
    )
    assert done.returncode == 0, done.stderr
    hub, local = json.loads((tmp_path / "x.json").read_text())
    assert (hub["name"], hub["revision"]) == ("acme/tiny", commit)
    assert hub["main_score"] == local["main_score"]
    assert (tmp_path / "results" / "results" / "acme__tiny" / commit / "EmbeddedSTS.json").exists()


# --- real model, real data --------------------------------------------------------------------------------------------

PUBLISHED = {
    "Banking77Classification": 0.80042,
    "STS12": 0.72369,
    "STS13": 0.80603,
    "SICK-R": 0.77582,
    "XQuADRetrieval": 0.94357,
}


def run_real(run_python, hf_home, *arguments):
    done = run_python(
        *("-m", "tamft.cli", "eval", *arguments, "--json", "scores.json"), env={"HF_HOME": str(hf_home)}, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.model
def test_scores_equal_the_published_ones(minilm, hf_home, run_python, tmp_path):
    run_real(run_python, hf_home, minilm, "--tasks", *PUBLISHED)
    records = json.loads((tmp_path / "scores.json").read_text())
    assert {r["task"]: r["main_score"] for r in records} == pytest.approx(PUBLISHED, abs=1e-4)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.model
def test_the_task_whose_published_score_is_of_other_data_equals_mtebs_own_api(
    minilm, hf_home, run_python, tmp_path, monkeypatch
):
    """MasakhaNEWSClusteringS2S: published is 0.41085, of data revision 8ccc72e6; here is 5dddcb13."""
    import datasets
    import mteb
    from sentence_transformers import SentenceTransformer

    run_real(run_python, hf_home, minilm, "--tasks", "MasakhaNEWSClusteringS2S", "--batch_size", "32")
    (record,) = json.loads((tmp_path / "scores.json").read_text())
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", hf_home / "datasets")
    task = mteb.get_task("MasakhaNEWSClusteringS2S", languages=["eng"])
    model = SentenceTransformer(str(minilm), device="cpu")
    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False).task_results[0]
    assert record["dataset_revision"] == result.dataset_revision
    assert record["dataset_revision"].startswith("5dddcb13")
    assert record["main_score"] == pytest.approx(result.get_score(), abs=1e-6)
    assert record["main_score"] == pytest.approx(0.3484, abs=0.02)  # versions of scikit-learn split ties differently


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.model
def test_real_models_and_an_adapter_side_by_side(minilm, hf_home, run_python, tmp_path, tiny_model):
    adapter = save_adapter(minilm, tmp_path / "lora")
    done = run_real(run_python, hf_home, minilm, tiny_model, adapter, "--tasks", "STS13")
    records = json.loads((tmp_path / "scores.json").read_text())
    assert len({r["revision"] for r in records}) == 3
    assert len({round(r["main_score"], 3) for r in records}) == 3
    assert records[0]["main_score"] == pytest.approx(PUBLISHED["STS13"], abs=1e-4)
    assert all(f"{r['main_score']:.4f}" in done.stdout for r in records)
