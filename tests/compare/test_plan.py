"""Plans: what is refused before any run, one clear error each; what the hash and the list of runs depend on."""

import copy
import shutil

import pytest
import yaml

from tamft.compare import checks, runs
from tamft.compare.command import main
from tamft.compare.plan import read_plan
from tamft.errors import InputError
from tests.compare import small


@pytest.fixture
def write(plan_file):
    """Write a changed plan beside the good one and return its name."""

    def write(change, name="changed.yaml"):
        content = yaml.safe_load(plan_file.read_text(encoding="utf-8"))
        change(content)
        path = plan_file.with_name(name)
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return path

    return write


def setter(place, value):
    """A change of a plan: `optimizers.adatamw.space` to `value`."""

    def change(content):
        *keys, last = place.split(".")
        for key in keys:
            content = content[key]
        content[last] = value

    return change


def arms(**entries):
    """A change of a plan: these optimizers beside the baseline, all else the same."""
    return lambda content: content["optimizers"].update(entries)


WRONG = {
    "unknown key": (setter("trails", 3), r"unknown key 'trails'. Did you mean 'trials'\? There are: name"),
    "unknown key of an arm": (
        setter("optimizers.adatamw.arg", "a=1"),
        r"unknown key 'arg' in optimizers.adatamw. Did you mean 'args'\?",
    ),
    "unknown key of an axis": (
        setter("optimizers.adatamw.space", {"learning_rate": {"logs": [1, 2]}}),
        r"unknown key 'logs' in optimizers.adatamw.space.learning_rate. Did you mean 'log'\?",
    ),
    "wrong type": (setter("seeds.screen", ["one"]), r"seeds.screen\[0\]: must be a valid integer, it is 'one'"),
    "not a mapping": (setter("optimizers.msam", 3), r"optimizers.msam: must be `key: value` lines, it is 3"),
    "missing": (lambda content: content.pop("delta"), r"delta is missing"),
    "delta": (setter("delta", 0), r"delta: must be greater than 0, it is 0"),
    "range": (
        setter("optimizers.msam.space", {"learning_rate": {"log": [1e-3, 1e-5]}}),
        r"space.learning_rate: log takes two numbers above 0, the lower one first",
    ),
    "empty values": (setter("optimizers.msam.space", {"learning_rate": {"values": []}}), r"values is empty, or has"),
    "empty space": (setter("optimizers.msam.space", {}), r"optimizers.msam.space is empty"),
    "no rate": (
        setter("optimizers.msam.space", {"rho": {"values": [1, 2, 3]}}),
        r"optimizers.msam.space has no learning_rate",
    ),
    "unequal grids": (
        setter("optimizers.msam.space", {"learning_rate": {"values": [1e-3, 1e-2]}}),
        r"unequal budgets: the grid of msam has 2 configurations, adamw_torch has 3",
    ),
    "unequal to trials": (setter("trials", 4), r"the grid of adamw_torch has 3 configurations, trials says 4"),
    "grid and sample": (
        setter("optimizers.msam.space", {"learning_rate": {"log": [1e-3, 1e-2]}}),
        r"unequal budgets: the space of adamw_torch is a grid, that of msam is a sample",
    ),
    "no baseline": (lambda content: content["optimizers"].pop("adamw_torch"), r"baseline: .* A comparison needs AdamW"),
    "another baseline": (setter("baseline", "msam"), r"baseline: msam is msam; the baseline is AdamW itself"),
    "alone": (
        lambda content: [content["optimizers"].pop(name) for name in ("adatamw", "msam")],
        r"optimizers: there is only adamw_torch",
    ),
    "same twice": (
        arms(again={"optim": "adatamw", "space": small.rates()}),
        r"optimizers: adatamw and again are the same optimizer",
    ),
    "unknown optimizer": (
        arms(adatam2={"space": small.rates()}),
        r"optimizers.adatam2: no optimizer is called 'adatam2'. Did you mean 'adatam'\?",
    ),
    "unknown package": (arms(a={"optim": "nowhere.Adam", "space": small.rates()}), r"there is no package 'nowhere'"),
    "unknown option": (setter("optimizers.msam.args", "rhoo=1"), r"optimizers.msam: .*no option 'rhoo'. Did you mean"),
    "unknown axis": (
        setter("optimizers.msam.space", small.rates() | {"gamma": {"values": [1]}}),
        r"space: 'gamma' is no option of msam",
    ),
    "fixed and searched": (
        setter("optimizers.msam.space", small.rates() | {"rho": {"values": [1]}}),
        r"optimizers.msam: rho is both fixed \(args\) and searched",
    ),
    "ill-typed value": (
        setter("optimizers.adatamw.space", small.rates() | {"rescale": {"values": ["perhaps"]}}),
        r"optimizers.adatamw: .*rescale cannot be 'perhaps'",
    ),
    "one seed": (setter("seeds.confirm", [5]), r"seeds.confirm: 1 seed allows no inference"),
    "seed used twice": (setter("seeds.confirm", [2, 3]), r"seeds.confirm: 2 is in screen already"),
    "seed repeated": (setter("seeds.confirm", [3, 3]), r"seeds.confirm: 3 is in confirm already"),
    "A/A seed repeated": (setter("seeds.aa", [11, 30]), r"seeds.aa: 11 is in confirm already"),
    "A/A seeds": (setter("seeds.aa", [30]), r"seeds.aa: the A/A control needs as many seeds"),
    "unknown confirmed": (setter("confirm", ["adatam"]), r"confirm: there is no arm 'adatam'. Did you mean 'adatamw'"),
    "frozen": (setter("controls", {"frozen_torque": "msam"}), r"'msam' is no arm with a torque to freeze"),
    "unknown recipe": (setter("recipe", "encoder_pair"), r"recipe 'encoder_pair' is not known. Did you mean 'encoder_"),
    "no such file": (
        setter("train.train_file", "nowhere.jsonl"),
        r"train.train_file: there is no file .*nowhere.jsonl",
    ),
    "variable": (setter("train.train_file", "${NO_SUCH}/a.jsonl"), r"the environment variable NO_SUCH is not set"),
    "no data": (lambda content: content["train"].pop("train_file"), r"train.train_file is missing"),
    "rate in train": (setter("train.learning_rate", 1e-3), r"train.learning_rate: the plan says that in `optimizers"),
    "ours in train": (setter("train.output_dir", "x"), r"train.output_dir: `tamft compare` sets this itself"),
    "unknown model": (setter("model", "./nowhere"), r"model: model ./nowhere: there is no such folder"),
    "unknown task": (setter("report.tasks", ["STS133"]), r"unknown task 'STS133'; did you mean STS13"),
    "no tasks": (setter("report.tasks", []), r"report: write either tasks"),
    "metric": (setter("select", {"metric": "f1"}), r"select: metric 'f1' is not known: it is eval_loss"),
    "no evaluation file": (setter("select", {"metric": "eval_loss"}), r"eval_loss needs train.eval_file"),
    "selects what it reports": (setter("select.tasks", ["report.yaml"]), r"select and report both have SmallTest"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_plans(write, mistake):
    change, message = WRONG[mistake]
    with pytest.raises(InputError, match=message):
        read_plan(write(change))


CHECKED = {
    "option of the recipe": (setter("train.max_step", 3), r"train: --max_step is not an option. Did you mean"),
    "column": (setter("train.columns", ["anchor", "answer"]), r"train: .*has no column 'answer'"),
    "range of an option": (setter("optimizers.msam.args", "rho=-1"), r"optimizers.msam: .*rho"),
    "range of an axis": (
        setter("optimizers.adatamw.space", small.rates() | {"gamma": {"values": [1.5]}}),
        r"optimizers.adatamw: .*gamma",
    ),
}


@pytest.mark.parametrize("mistake", CHECKED)
def test_wrong_options_are_found_before_any_run(write, mistake, tmp_path):
    change, message = CHECKED[mistake]
    with pytest.raises(InputError, match=message):
        main([str(write(change)), "--output_dir", str(tmp_path / "study")])
    assert not (tmp_path / "study").exists()


def select_by(folder, rows):
    """Selection by a task over these rows of (text, label)."""
    small.jsonl(folder / "leak.jsonl", [{"text": text, "label": label} for text, label in rows])
    entry = {"name": "Leaky", "type": "Classification", "train": "probe.jsonl", "test": "leak.jsonl"}
    suite = {"name": "l", "tasks": [{**entry, "options": {"n_experiments": 1}}]}
    (folder / "leak.yaml").write_text(yaml.safe_dump(suite), encoding="utf-8")
    return setter("select.tasks", ["leak.yaml"])


def test_selection_on_training_texts(write, plan_file):
    rows = [(small.text(topic, i).upper(), topic) for topic in small.TOPICS for i in (3, 60, 61)]
    path = write(select_by(plan_file.parent, rows))
    with pytest.raises(InputError, match="4 of the 12 texts of Leaky are trained on: what a model remembers"):
        checks.check_overlap(read_plan(path))


def test_selection_on_reported_texts(write, plan_file):
    rows = [(small.text(small.TOPICS[i % 4], 80 + i), small.TOPICS[i % 4]) for i in range(16)]
    path = write(select_by(plan_file.parent, rows))
    with pytest.raises(InputError, match="16 of the 16 texts of Leaky are reported"):
        checks.check_overlap(read_plan(path))


def test_missing_data_is_found_before_any_run(write):
    path = write(setter("report.tasks", ["STS22"]))
    with pytest.raises(InputError, match="the data of STS22 is not here"):
        checks.check_overlap(read_plan(path))


def test_few_seeds_are_a_warning(plan_file):
    assert any("2 seeds find only large differences" in line for line in read_plan(plan_file).warnings)


# --- the hash and the list of runs ------------------------------------------------------------------------------------


def test_the_hash_is_of_what_was_decided_and_not_of_where_it_lies(plan_file, tmp_path, write):
    first = read_plan(plan_file)
    folder = tmp_path / "elsewhere"
    shutil.copytree(plan_file.parent, folder)
    there = folder / plan_file.name
    there.write_text(
        "# a comment\n" + there.read_text(encoding="utf-8").replace(str(plan_file.parent), str(folder)),
        encoding="utf-8",
    )
    moved = read_plan(there)
    assert moved.content["model"] != first.content["model"]  # as typed
    assert {run.key for run in runs.screen(moved)} == {run.key for run in runs.screen(first)}
    assert read_plan(write(lambda content: None, "same.yaml")).hash == first.hash
    assert read_plan(write(setter("delta", 0.02))).hash != first.hash


def test_changed_rows_are_another_study(plan_file, tmp_path):
    first = read_plan(plan_file)
    folder = tmp_path / "elsewhere"
    shutil.copytree(plan_file.parent, folder)
    small.jsonl(folder / "train.jsonl", [{"anchor": "a", "positive": "b"}] * 8)
    changed = read_plan(folder / plan_file.name)
    assert not {run.key for run in runs.screen(changed)} & {run.key for run in runs.screen(first)}


def test_the_fixed_list_of_runs(plan_file):
    plan = read_plan(plan_file)
    screened = runs.screen(plan)
    assert [(r.arm, dict(r.params)["learning_rate"], r.seed) for r in screened[:7]] == [
        ("adamw_torch", 1e-3, 1),
        ("adatamw", 1e-3, 1),
        ("msam", 1e-3, 1),
        ("adamw_torch", 1e-3, 2),
        ("adatamw", 1e-3, 2),
        ("msam", 1e-3, 2),
        ("adamw_torch", 3e-3, 1),
    ]
    chosen = {name: {"learning_rate": 1e-3} for name in plan.arms}
    confirmed = runs.confirm(plan, chosen)
    assert len(confirmed) == runs.count_confirm(plan) == 10
    assert [(r.arm, r.seed, r.control) for r in confirmed[:5]] == [
        ("adamw_torch", 11, None),
        ("adamw_torch (A/A)", 13, "aa"),
        ("adatamw", 11, None),
        ("msam", 11, None),
        ("adatamw gamma=1", 11, "null"),
    ]
    assert len({run.key for run in [*screened, *confirmed, runs.base(plan)]}) == 18 + 10 + 1
    assert not [run for run in runs.confirm(plan, chosen | {"msam": None}) if run.arm == "msam"]


def test_processes_are_part_of_a_run(write, plan_file):
    """The global batch depends on them."""
    plan = read_plan(write(setter("processes", 2)))
    assert plan.processes == 2
    assert not {run.key for run in runs.screen(plan)} & {run.key for run in runs.screen(read_plan(plan_file))}
    with pytest.raises(InputError, match="processes: 2: one GPU is needed for each and there are 0"):
        main([str(plan.path)])


def test_screened_only(write):
    plan = read_plan(write(lambda content: content.update(confirm=["adatamw"], controls={"aa": False})))
    assert plan.content["confirm"] == ["adamw_torch", "adatamw"]
    assert plan.content["controls"] == {"aa": False, "frozen_torque": "adatamw"}
    chosen = {name: {"learning_rate": 1e-3} for name in plan.arms}
    arms_ = {run.arm for run in runs.confirm(plan, chosen)}
    assert arms_ == {"adamw_torch", "adatamw", "adatamw gamma=1"}


def test_words_of_a_run(write, tmp_path):
    """What an arm searches goes where the recipe reads it: flags to flags, options to --optim_args."""
    space = {"learning_rate": {"values": [2e-3]}, "weight_decay": {"values": [0.1, 0.2, 0.3]}}
    change = copy.deepcopy

    def three(content):
        content["optimizers"]["adamw_torch"]["space"] = change(space)
        content["optimizers"]["adatamw"] = {"args": {"rescale": True}, "space": space | {"gamma": {"values": [0.5]}}}
        content["optimizers"]["msam"]["space"] = change(space)

    plan = read_plan(write(three))
    run = next(run for run in runs.screen(plan) if run.arm == "adatamw")
    words = runs.job(plan, run, tmp_path, None).words
    for word in ("--optim=adatamw", "--optim_args=rescale=true,gamma=0.5", "--learning_rate=0.002", "--seed=1"):
        assert word in words
    assert "--weight_decay=0.1" in words
    assert "--save_strategy=no" in words


def test_several_training_files_become_one(plan_file, write, tmp_path):
    from tamft.compare import study

    folder = plan_file.parent
    small.jsonl(folder / "more.jsonl", [{"anchor": "how do i", "positive": "what is", "label": 3}])
    plan = read_plan(write(setter("train.train_file", ["train.jsonl", "more.jsonl"])))
    path = study.open_study(plan, tmp_path / "study")
    text = (folder / "train.jsonl").read_text(encoding="utf-8") + (folder / "more.jsonl").read_text(encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text
    assert f"--train_file={path}" in runs.job(plan, runs.screen(plan)[0], tmp_path / "study", path).words


def test_every_shipped_plan_can_be_read(monkeypatch, data_root, minilm):
    from tests.conftest import ROOT

    monkeypatch.setenv("TAMFT_DATA", str(data_root))
    plan = read_plan(ROOT / "eval" / "plans" / "minilm_intents.yaml")
    assert len(plan.arms) == 8
    assert runs.count_confirm(plan) == 35
    assert plan.content["select"]["tasks"] == ["Clinc150Validation", "MsrpValidation"]
