"""`tamft run script.py …`: what the script sees is what `python script.py …` would have shown it."""

import json
import sys
from itertools import combinations

import pytest
from safetensors.torch import load_file

from tamft import cli, run
from tests.cases import NAMES

# A user's script. It never imports tamft.
TRAINING = """
import torch
from dataclasses import dataclass
from transformers import BertConfig, BertForSequenceClassification, HfArgumentParser, Trainer, TrainingArguments


@dataclass
class Task:
    hidden_size: int = 16


def main():
    task, args = HfArgumentParser((Task, TrainingArguments)).parse_args_into_dataclasses()
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=task.hidden_size, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=16)
    model = BertForSequenceClassification(config)
    data = [{"input_ids": torch.randint(0, 50, (6,)), "labels": torch.tensor(i % 2)} for i in range(24)]
    trainer = Trainer(model=model, args=args, train_dataset=data)
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
"""
FLAGS = [
    "--use_cpu",
    "--report_to=none",
    "--disable_tqdm=true",
    "--save_strategy=no",
    "--max_steps=3",
    "--logging_steps=1",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder; sys.path, sys.argv and __main__ are put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    return tmp_path


def test_an_unmodified_script_with_every_name(tmp_path, run_python):
    (tmp_path / "train.py").write_text(TRAINING)
    driver = (
        "import sys\nfrom tamft.run import main\n"
        "names, *flags = sys.argv[1:]\n"
        "for name in names.split():\n"
        "    line = f'train.py --output_dir {name} --optim {name} --learning_rate 0.05 --weight_decay 0.1'\n"
        "    assert main(line.split() + flags) == 0\n"
    )
    names = [*NAMES, "adamw_torch"]
    result = run_python("-c", driver, " ".join(names), *FLAGS, check=True)
    assert result.stdout.count("'tamft/momentum_norm'") == 3 * len(NAMES)
    trained = {name: load_file(tmp_path / name / "model.safetensors") for name in names}
    for one, other in combinations(names, 2):
        assert any(
            not trained[one][key].equal(trained[other][key]) for key in trained[one] if key.endswith("weight")
        ), f"{one} and {other} trained the same model"
    assert all(tensor.isfinite().all() for model in trained.values() for tensor in model.values())


def test_the_real_command_line(tmp_path, run_python):
    (tmp_path / "train.py").write_text(TRAINING)
    line = "-m tamft.run train.py --output_dir out --optim adamw_msam --optim_args rho=0.1,rho_start=warmup"
    result = run_python(*line.split(), "--warmup_steps", "1", *FLAGS)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "training_args.bin").is_file()


def test_bad_options_end_in_one_clean_message(tmp_path, run_python):
    (tmp_path / "train.py").write_text(TRAINING)
    line = "-m tamft.run train.py --output_dir out --optim adatamw --optim_args gama=0.9"
    result = run_python(*line.split(), *FLAGS)
    assert result.returncode == 2
    first = result.stderr.splitlines()[0]
    assert first == "tamft run: error: --optim_args: adatamw has no option 'gama'. Did you mean 'gamma'?"
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_name_that_does_not_exist_is_argparses_business(here, capsys):
    (here / "train.py").write_text(TRAINING)
    with pytest.raises(SystemExit) as raised:
        run.main(["train.py", "--output_dir", "out", "--optim", "adatamv"])
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert "invalid choice: 'adatamv'" in error
    assert "adatamw_msam" in error


def test_the_script_sees_what_python_would_have_shown_it(here):
    (here / "sub").mkdir()
    (here / "sub" / "sibling.py").write_text("VALUE = 42\n")
    (here / "sub" / "look.py").write_text(
        "import json, sys, sibling\n"
        "seen = [__name__, __file__, sys.argv, sys.path[0], sibling.VALUE, sys.modules['__main__'].sibling.VALUE]\n"
        "open('seen.json', 'w').write(json.dumps(seen))\n"
    )
    assert run.main(["sub/look.py", "--help", "-m", "x y", "--", ""]) == 0
    assert json.loads((here / "seen.json").read_text()) == [
        "__main__",
        str(here / "sub" / "look.py"),
        ["sub/look.py", "--help", "-m", "x y", "--", ""],
        str(here / "sub"),
        42,
        42,
    ]


def test_a_module_is_found_from_the_current_folder(here):
    (here / "package").mkdir()
    (here / "package" / "__init__.py").write_text("")
    (here / "package" / "look.py").write_text(
        "import json, sys\n"
        "seen = [__name__, __spec__.name, sys.argv[1:], sys.path[0]]\n"
        "open('seen.json', 'w').write(json.dumps(seen))\n"
    )
    assert run.main(["-m", "package.look", "--optim", "adatamw"]) == 0
    seen = json.loads((here / "seen.json").read_text())
    assert seen == ["__main__", "package.look", ["--optim", "adatamw"], str(here)]


@pytest.mark.parametrize(("statement", "code"), [("", None), ("0", 0), ("7", 7), ("'no'", "no")])
def test_exit_codes_pass_through(here, statement, code):
    (here / "leave.py").write_text(f"import sys\nsys.exit({statement})\n")
    with pytest.raises(SystemExit) as raised:
        run.main(["leave.py"])
    assert raised.value.code == code


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, ValueError])
def test_other_exceptions_pass_through(here, error):
    (here / "fail.py").write_text(f"raise {error.__name__}('mine')\n")
    with pytest.raises(error, match="mine"):
        run.main(["fail.py"])


LOOK = """
import atexit, dataclasses, inspect, json, multiprocessing, pickle, sys
from datasets import Dataset
@dataclasses.dataclass
class Thing:
    x: int = 3
def more(thing): return [thing.x + 1, __name__]
def row(x): return {"y": Thing(x["x"]).x + 1}
def again(): print("at exit", pickle.loads(pickle.dumps(Thing(5))), sys.modules["__main__"].__dict__ is globals())
if __name__ == "__main__":
    atexit.register(again)
    names = sorted(key for key in globals() if key.startswith("__"))
    print(__name__, __file__, __spec__ and __spec__.name, __package__, type(__loader__).__name__, __cached__, names)
    print(sys.argv, sys.path[0], len(inspect.getsource(Thing)), sys.modules["__main__"].__dict__ is globals())
    with multiprocessing.get_context("spawn").Pool(1) as pool: print(pool.map(more, [Thing(4)]))
    print(Dataset.from_list([{"x": 1}, {"x": 2}]).map(row, num_proc=2)["y"][:])
    1 / 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("line", ["look.py --x 1", "sub/look.py", "-m look a b", "-m package.inner.look"])
def test_a_whole_script_is_the_same_as_under_python(tmp_path, run_python, line):
    """Everything it prints, its children and its exit code; of its traceback the end."""
    inner = tmp_path / "package" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "sub").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("")
    (inner / "helper.py").write_text("VALUE = 1\n")
    for path in (tmp_path / "look.py", tmp_path / "sub" / "look.py"):
        path.write_text(LOOK)
    (inner / "look.py").write_text("from . import helper\nfrom ..inner.helper import VALUE\n" + LOOK)
    python, tamft = (run_python(*start, *line.split(), timeout=120) for start in ([], ["-m", "tamft.run"]))
    assert tamft.stdout == python.stdout
    assert "[[5, '__mp_main__']]\n[2, 3]\nat exit Thing(x=5) True" in python.stdout
    assert tamft.returncode == python.returncode == 1
    assert tamft.stderr.splitlines()[-3:] == python.stderr.splitlines()[-3:]


def test_a_module_that_misses_something_itself_says_so(here):
    (here / "lacking").mkdir()
    (here / "lacking" / "__init__.py").write_text("import no_such_thing\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
        run.main(["-m", "lacking.module"])


def test_tracebacks_and_workers(tmp_path, run_python):
    """One fresh process for what needs one: spawned workers find the script's own classes, a failure shows its line."""
    (tmp_path / "work.py").write_text(
        "import multiprocessing\n"
        "import torch\n"
        "class Numbers(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 4\n"
        "    def __getitem__(self, i): return i * i\n"
        "def double(x): return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    loader = torch.utils.data.DataLoader(Numbers(), num_workers=1, multiprocessing_context='spawn')\n"
        "    print([batch.item() for batch in loader])\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool: print(pool.map(double, [1, 2]))\n"
        "    1 / 0\n"
    )
    result = run_python("-m", "tamft.run", "work.py")
    assert result.stdout.splitlines() == ["[0, 1, 4, 9]", "[2, 4]"], result.stderr
    assert result.returncode == 1
    assert "line 11, in <module>" in result.stderr
    assert result.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nothing.py"], "there is no file 'nothing.py'"),
        (["."], "there is no file '.'"),
        (["--optim", "adatamw"], "there is no script: tamft run [options] SCRIPT.py"),
        (["-x", "train.py"], "-x is not an option of tamft run"),
        (["-m"], "-m needs the name of a module"),
        (["-m", "no_such_module"], "there is no module 'no_such_module'"),
        (["-m", "no_such.module"], "there is no module 'no_such.module'"),
    ],
)
def test_bad_input(here, capsys, argv, message):
    assert run.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("tamft run: error: ")
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("argv", [["--help"], ["-h"], []])
def test_help_teaches(capsys, argv):
    assert run.main(argv) == (0 if argv else 2)
    text = "".join(capsys.readouterr())
    assert "tamft run train.py --output_dir out --optim adatamw" in text
    assert all(f" {name}" in text for name in NAMES)


def test_the_tamft_command_runs_scripts_too(here, capsys):
    (here / "look.py").write_text("import sys\nprint(sys.argv, __name__)\nsys.exit(5)\n")
    with pytest.raises(SystemExit) as raised:
        cli.main(["run", "look.py", "--help"])
    assert raised.value.code == 5
    assert capsys.readouterr().out.strip() == "['look.py', '--help'] __main__"
    assert cli.main(["run", "nothing.py"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        "-m torch.distributed.run --standalone --nproc_per_node 2 -m tamft.run",
        "-m accelerate.commands.launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no "
        "--dynamo_backend no -m tamft.run",
    ],
    ids=["torchrun", "accelerate"],
)
def test_launchers(tmp_path, run_python, launcher):
    (tmp_path / "train.py").write_text(TRAINING)
    line = f"{launcher} train.py --output_dir out --optim adatamw_msam --optim_args rho=0.1"
    result = run_python(*line.split(), *FLAGS)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()
