"""Paths become records: who is who, what belongs together, what is shown; bad paths are one clear error."""

import json
import shutil
from pathlib import Path

import pytest

from tamft.errors import InputError
from tamft.evaluation.identity import identify
from tamft.evaluation.report.sources import find, find_model
from tests.evaluation.making import record
from tests.evaluation.report.making import a_run, write_results

MINILM, E5 = "sentence-transformers/all-MiniLM-L6-v2", "intfloat/e5-small"


def shown(found):
    return {(r["model"], r["task"]): r["main_score"] if r["status"] == "ok" else r["status"] for r in found.records}


def write_records(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


@pytest.fixture
def own(tmp_path):
    models = {("local/model", "a" * 16): {"STS12": 0.5, "STS13": 0.6}, ("local/model", "b" * 16): {"STS12": 0.7}}
    return write_results(tmp_path / "own", models)


@pytest.fixture
def published(tmp_path):
    scores = {(MINILM, "rev1"): {"STS12": 0.1, "NFCorpus": 0.2}, (E5, "rev2"): {"STS13": 0.3}}
    return write_results(tmp_path / "clone", scores)


def test_a_results_folder_its_inside_and_mteb_s_cache_are_read_alike(own, tmp_path):
    wanted = {
        ("local/model @ aaaaaaaa", "STS12"): 0.5,
        ("local/model @ aaaaaaaa", "STS13"): 0.6,
        ("local/model @ bbbbbbbb", "STS12"): 0.7,
    }
    assert shown(find([own])) == shown(find([own / "results"])) == wanted
    cache = tmp_path / "cache"
    shutil.copytree(own, cache / "remote")
    assert shown(find([cache])) == wanted


def test_provenance_beside_the_results_comes_along(own):
    folder = own / "results" / "local__model" / ("a" * 16)
    facts = {"task": "STS12", "device": "cuda", "dtype": "bfloat16", "batch": 64, "command": "tamft eval x"}
    facts |= {"model": "runs/x/model", "type": "STS", "overlap": {"test": {"default": {"texts": 1, "of": 9}}}}
    lines = [
        json.dumps(facts | {"device": "cpu"}),
        json.dumps(facts | {"warning": "it changes nothing"}),
        '{"task": "S',
    ]
    (folder / "tamft_provenance.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = {(r["revision"], r["task"]): r for r in find([own]).records}
    one = found["a" * 16, "STS12"]
    wanted = {key: facts[key] for key in ("device", "dtype", "batch", "command", "type")} | {"model": "x/model"}
    assert {key: one[key] for key in wanted} == wanted
    assert one["overlap"] == {"texts": 1, "of": 9}
    assert (one["reason"], one["metric"], one["seconds"]) == ("it changes nothing", "cosine_spearman", 1.5)
    assert (found["a" * 16, "STS13"]["model"], found["a" * 16, "STS13"]["device"]) == ("x/model", None)


def test_damaged_files_and_scores_that_are_no_numbers_fail_alone(own):
    folder = own / "results" / "local__model" / ("a" * 16)
    file = folder / "STS12.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["scores"]["test"][0]["main_score"] = float("nan")
    file.write_text(json.dumps(content), encoding="utf-8")
    (folder / "STS13.json").write_text('{"task_name": "ST', encoding="utf-8")
    found = find([own])
    assert shown(found) == {
        ("local/model @ aaaaaaaa", "STS12"): "failed",
        ("local/model @ aaaaaaaa", "STS13"): "failed",
        ("local/model @ bbbbbbbb", "STS12"): 0.7,
    }
    reasons = {r["task"]: r["reason"] for r in found.records if r["status"] == "failed"}
    assert "undefined" in reasons["STS12"]
    assert "STS13.json cannot be read" in reasons["STS13"]


def test_files_from_before_the_present_format_are_read(tmp_path):
    """As mteb 1.0 wrote them; the results repository has thousands."""
    old = {"mteb_dataset_name": "STS12", "mteb_version": "1.0.2", "dataset_revision": "x"}
    old["test"] = {"cos_sim": {"pearson": 0.4, "spearman": 0.45}, "evaluation_time": 3.0}
    file = tmp_path / "clone" / "results" / "acme__tiny" / "no_revision_available" / "STS12.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(old), encoding="utf-8")
    (found,) = find([tmp_path / "clone"]).records
    assert (found["model"], found["main_score"], found["mteb_version"]) == ("tiny", 0.45, "1.0.2")


def test_the_same_model_from_two_places_is_one(own, tmp_path):
    typed = record("runs/x/model", "STS12", 0.5, revision="a" * 16)
    other = record("runs/x/model", "SICK-R", 0.9, revision="a" * 16)
    found = find([own, write_records(tmp_path / "scores.json", [typed, other])])
    assert shown(found) == {
        ("x/model", "STS12"): 0.5,
        ("x/model", "STS13"): 0.6,
        ("x/model", "SICK-R"): 0.9,
        ("local/model", "STS12"): 0.7,
    }
    assert not found.remarks


def test_a_model_that_was_trained_again_in_its_folder_is_another_one(own, tmp_path):
    for revision in ("a", "b"):
        line = json.dumps({"task": "STS12", "model": "runs/x/model"})
        folder = own / "results" / "local__model" / (revision * 16)
        (folder / "tamft_provenance.jsonl").write_text(line, encoding="utf-8")
    assert shown(find([own])) == {
        ("x/model @ aaaaaaaa", "STS12"): 0.5,
        ("x/model @ aaaaaaaa", "STS13"): 0.6,
        ("x/model @ bbbbbbbb", "STS12"): 0.7,
    }


def test_two_precisions_of_a_model_are_two_columns(own, tmp_path):
    folder = own / "results" / "local__model" / ("a" * 16)
    half = folder / "experiments" / "dtype_bfloat16"
    half.mkdir(parents=True)
    for name in ("STS12.json", "model_meta.json"):
        shutil.copy(folder / name, half)
    content = json.loads((half / "STS12.json").read_text(encoding="utf-8"))
    content["scores"]["test"][0]["main_score"] = 0.49
    (half / "STS12.json").write_text(json.dumps(content), encoding="utf-8")
    for place, dtype in ((folder, "float32"), (half, "bfloat16")):
        line = json.dumps({"task": "STS12", "dtype": dtype})
        (place / "tamft_provenance.jsonl").write_text(line, encoding="utf-8")
    found = find([own])
    assert shown(found) == {
        ("local/model @ aaaaaaaa, float32", "STS12"): 0.5,
        ("local/model @ aaaaaaaa, float32", "STS13"): 0.6,
        ("local/model @ aaaaaaaa, bfloat16", "STS12"): 0.49,
        ("local/model @ bbbbbbbb", "STS12"): 0.7,
    }
    assert not found.remarks


def test_two_scores_for_one_thing_are_said(own, tmp_path):
    found = find([own, write_records(tmp_path / "s.json", [record("m", "STS12", 0.51, revision="a" * 16)])])
    (remark,) = found.remarks
    assert "0.500000" in remark and "0.510000" in remark and "the first is shown" in remark
    assert shown(found)["m", "STS12"] == 0.5


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path, tiny_model, other_tiny_model, monkeypatch):
    """Two run folders with models, scored into ./results together with a third model."""
    monkeypatch.chdir(tmp_path)
    folders, scores = [], {("local/other", "c" * 16): {"STS12": 0.1}}
    for name, source in (("adamw_torch", tiny_model), ("adatamw", other_tiny_model)):
        folders.append(a_run(tmp_path / "runs" / name, name))
        shutil.copytree(source, folders[-1] / "model")
        identity = identify(str(folders[-1] / "model"))
        scores[identity.name, identity.revision] = {"STS12": 0.25 * len(folders), "STS13": 0.5}
    write_results(tmp_path / "results", scores)
    return folders


def test_run_folders_show_the_scores_of_their_models(runs):
    found = find(runs)
    assert list(found.runs) == ["adamw_torch", "adatamw"]
    assert {(m, t): s for (m, t), s in shown(found).items() if t == "STS12"} == {
        ("adamw_torch", "STS12"): 0.25,
        ("adatamw", "STS12"): 0.5,
    }
    assert ("other", "STS12") in shown(find(runs, baseline="other"))
    assert ("other", "STS12") in shown(find(runs, models=["oth*"]))
    assert ("other", "STS12") in shown(find([*runs, Path("results")]))


def test_a_run_whose_model_has_changed_is_not_given_the_old_scores(runs):
    with (runs[1] / "model" / "config_sentence_transformers.json").open("a", encoding="utf-8") as out:
        out.write(" ")
    found = find(runs)
    assert {model for model, _ in shown(found)} == {"adamw_torch"}
    (remark,) = found.remarks
    assert remark.startswith("missing adatamw: no scores of local/model @ ")
    assert "tamft eval" in remark


def test_a_run_that_was_copied_without_its_model_is_known_by_what_was_typed(runs, tmp_path):
    shutil.rmtree(runs[0] / "model")
    file = write_records(tmp_path / "s.json", [record(str(runs[0] / "model"), "STS12", 0.75)])
    assert shown(find([runs[0], file])) == {("adamw_torch", "STS12"): 0.75}


def test_a_model_that_is_called_like_a_run_is_another_one(runs, tmp_path):
    file = write_records(tmp_path / "s.json", [record("adatamw", "STS12", 0.9, revision="d" * 16)])
    found = shown(find([*runs, Path("results"), file]))
    assert (found["adatamw", "STS12"], found["adatamw @ dddddddd", "STS12"]) == (0.5, 0.9)


def test_a_run_that_left_no_model_is_said(runs):
    content = json.loads((runs[0] / "run.json").read_text(encoding="utf-8"))
    content |= {"status": "diverged", "model_dir": None}
    (runs[0] / "run.json").write_text(json.dumps(content), encoding="utf-8")
    assert find(runs).remarks == ["missing adamw_torch: the run is diverged and left no model"]


# --- published results ------------------------------------------------------------------------------------------------


def test_published_results_stand_beside_one_s_own_on_the_same_tasks(own, published):
    found = shown(find([own], published=published))
    assert found["all-MiniLM-L6-v2 (published)", "STS12"] == 0.1
    assert found["e5-small (published)", "STS13"] == 0.3
    assert not [task for _, task in found if task == "NFCorpus"]
    only = shown(find([own], published=published, models=["INTFLOAT/*"]))
    assert {m for m, _ in only} == {"local/model @ aaaaaaaa", "local/model @ bbbbbbbb", "e5-small (published)"}


def test_a_clone_is_a_path_like_any_other(published):
    assert {m for m, _ in shown(find([published], models=["e5-small"]))} == {"e5-small"}


def test_of_published_results_only_the_splits_and_subsets_that_the_others_have(tmp_path, published):
    file = write_records(tmp_path / "s.json", [record("m", "STS22", 0.9, subset="en")])
    write_results(published, {(MINILM, "rev1"): {"STS22": {"test": {"en": 0.5, "de": 0.1}}}})
    found = find([file], published=published, models=[MINILM])
    assert shown(found)["all-MiniLM-L6-v2 (published)", "STS22"] == 0.5
    assert found.remarks == ["published: of STS22 only the splits and subsets that the others have"]


def test_one_s_own_score_of_a_published_model_is_not_taken_for_the_published_one(tmp_path, published):
    file = write_records(tmp_path / "s.json", [record(MINILM, "STS12", 0.9, name=MINILM, revision="rev1")])
    found = shown(find([file], published=published, models=[MINILM]))
    assert found == {("all-MiniLM-L6-v2", "STS12"): 0.9, ("all-MiniLM-L6-v2 (published)", "STS12"): 0.1}


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "cannot be read"),
        ("{}", "not a list of score records"),
        ('[{"model": "a"}]', "not a list of score records"),
        (json.dumps([record("m", "A", 0.5, status="great")]), "status 'great'"),
        (json.dumps([record("m", "A", 0.5, status="missing")]), "one is wrong"),
        (json.dumps([record("m", "A", None, status="ok")]), "main_score None"),
        (json.dumps([record("m", "A", float("nan"), status="ok")]), "main_score None"),
        ("[]", "no scores in"),
    ],
)
def test_a_record_file_that_is_none(tmp_path, content, message):
    file = tmp_path / "scores.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        find([file])


def test_paths_that_lead_nowhere(tmp_path, runs, published, own):
    with pytest.raises(InputError, match="no such file or folder"):
        find([tmp_path / "nothing"])
    with pytest.raises(InputError, match=r"neither a results folder nor a run folder; did you mean .*adamw_torch"):
        find([tmp_path / "runs"])
    with pytest.raises(InputError, match=r"no scores of its model in nothing; run `tamft eval"):
        find(runs, results=Path("nothing"))
    with pytest.raises(InputError, match="did you mean intfloat/e5-small"):
        find([own], published=published, models=["e5-smal"])
    with pytest.raises(InputError, match="no scores of e5"):
        find([own], models=["e5"])
    with pytest.raises(InputError, match=r"no results of .* on STS14"):
        find([write_records(tmp_path / "s.json", [record("m", "STS14", 0.1)])], published=published)


def test_too_many_published_models_are_refused(own, published):
    for number in range(50):
        (published / "results" / f"acme__m{number}" / "rev").mkdir(parents=True)
    with pytest.raises(InputError, match="these are 52 models; say which to show with --models"):
        find([own], published=published)
    assert shown(find([own], published=published, models=["e5-small"]))


NAMES = [
    record("adamw", "A", 0.1, name="local/model", revision="abcd1234", typed="runs/adamw/model"),
    record("adamw_msam", "A", 0.1, name="local/model", revision="abcdffff", typed="runs/adamw_msam/model"),
    record("MiniLM (published)", "A", 0.1, name="sentence-transformers/MiniLM", revision="77"),
]


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("adamw", "adamw"),
        ("runs/adamw/model", "adamw"),
        ("abcd1", "adamw"),
        ("local/model@abcdffff", "adamw_msam"),
        ("msam", "adamw_msam"),
        ("minilm", "MiniLM (published)"),
        ("sentence-transformers/MiniLM", "MiniLM (published)"),
    ],
)
def test_a_model_is_named_by_anything_unambiguous(text, model):
    assert find_model(text, NAMES) == model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abcd", "'abcd' may be adamw, adamw_msam"),
        ("local/model", "may be adamw, adamw_msam"),
        ("adamww", "did you mean adamw"),
        ("@@", "there are adamw, adamw_msam, MiniLM"),
    ],
)
def test_a_name_that_fits_none_or_several(text, message):
    with pytest.raises(InputError, match=message):
        find_model(text, NAMES)
