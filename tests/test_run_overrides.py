"""`tamft run --optim … script.py`: options before the script win over everything that the script sets."""

import json

import pytest
import torch
from transformers import Trainer, TrainingArguments

import tamft
from tamft import run
from tamft.errors import InputError
from tamft.hf import overrides
from tests.hf import small
from tests.test_run import TRAINING, here  # noqa: F401  a fixture

# Scripts that write down what they made; `seen.json` is what TrainingArguments came to.
HEAD = """
import dataclasses, json, sys
from transformers import HfArgumentParser, Trainer, TrainingArguments
def note(args):
    keys = ("optim", "optim_args", "learning_rate", "bf16", "max_steps", "label_names", "dataloader_pin_memory")
    values = {key: getattr(getattr(args, key), "value", getattr(args, key)) for key in keys}
    open("seen.json", "w").write(json.dumps({**values, "argv": sys.argv, **getattr(args, "more", {})}))
"""
MADE = "TrainingArguments(output_dir='out', optim='adamw_torch', learning_rate=2e-5, report_to='none')"
HARD_CODED = HEAD + f"note({MADE})"
COMMAND_LINE = HEAD + "note(HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()[0])"
SUBCLASS = (
    HEAD
    + """
@dataclasses.dataclass
class Mine(TrainingArguments):
    max_length: int = 512
    packing: bool = False
    half: bool | None = None
    def __post_init__(self):
        self.half = self.packing if self.half is None else self.half  # from another field, before Trainer's own
        self.more = {"max_length": self.max_length, "packing": self.packing, "half": self.half}
        super().__post_init__()
note(Mine(output_dir="out", optim="adamw_torch", report_to="none"))
"""
)


def seen(folder) -> dict:
    return json.loads((folder / "seen.json").read_text())


def start(folder, script: str, line: str) -> int:
    (folder / "train.py").write_text(script)
    return run.main(line.split())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--optim adatamw --learning_rate 4e-5 train.py", {"optim": "adatamw", "learning_rate": 4e-5}),
        ("--optim=adatamw --optim-args=gamma=0.5,rho=0.1 train.py", {"optim_args": "gamma=0.5,rho=0.1"}),
        ("--learning-rate 1 train.py --x 1", {"learning_rate": 1.0, "argv": ["train.py", "--x", "1"]}),
        ("--optim torch.optim.NAdam train.py", {"optim": "torch.optim.NAdam"}),
        ("--use_cpu --max_steps 3 train.py true", {"max_steps": 3, "argv": ["train.py", "true"]}),
        ("--max_steps 3 --use_cpu train.py", {"max_steps": 3}),
        ("--fp16_full_eval --bf16=false --greater_is_better train.py", {"bf16": False}),
        ("--max_steps 3 --use_cpu true train.py", {"max_steps": 3}),
        ("--no_dataloader_pin_memory train.py", {"dataloader_pin_memory": False}),
        ("--dataloader_pin_memory false train.py", {"dataloader_pin_memory": False}),
        ("--label_names a b train.py", {"label_names": ["a", "b"]}),
        ("--label_names a b -- train.py", {"label_names": ["a", "b"]}),
        ("--max_steps -1 -m train", {"max_steps": -1}),
    ],
)
def test_hard_coded_arguments(here, line, expected):  # noqa: F811
    assert start(here, HARD_CODED, line) == 0
    assert {key: seen(here)[key] for key in expected} == expected


def test_one_line_says_what_changed(here, capsys):  # noqa: F811
    script = HARD_CODED + "\nTrainingArguments(output_dir='b')"
    assert start(here, script, "--optim adatamw --max_steps 9 train.py") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tamft run:")]
    assert lines == ["tamft run: TrainingArguments: optim adamw_torch -> adatamw, max_steps -1 -> 9"]


def test_only_the_first_rank_says_it(here, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setenv("RANK", "1")
    assert start(here, HARD_CODED, "--optim adatamw train.py") == 0
    assert "->" not in capsys.readouterr().err
    assert seen(here)["optim"] == "adatamw"


@pytest.mark.parametrize("rest", ["--output_dir out --optim msam --learning_rate 0.1", "a.json", "a.yaml"])
def test_they_win_over_the_scripts_own_command_line_and_files(here, rest):  # noqa: F811
    settings = {"output_dir": "out", "optim": "msam", "learning_rate": 0.1, "use_cpu": True}
    (here / "a.json").write_text(json.dumps(settings))
    (here / "a.yaml").write_text(json.dumps(settings))
    kind = rest.rpartition(".")[2]
    script = COMMAND_LINE
    if kind in ("json", "yaml"):
        script = HEAD + f"note(HfArgumentParser(TrainingArguments).parse_{kind}_file('{rest}')[0])"
    assert start(here, script, f"--optim adatamw --learning_rate 0.2 train.py {rest}") == 0
    assert (seen(here)["optim"], seen(here)["learning_rate"]) == ("adatamw", 0.2)


def test_a_subclass_and_what_it_derives(here):  # noqa: F811
    assert start(here, SUBCLASS, "--max_length 64 --packing --optim adatamw train.py") == 0
    found = seen(here)
    assert [found[key] for key in ("optim", "max_length", "packing", "half")] == ["adatamw", 64, True, True]


def test_a_switch_for_a_subclass_that_wants_a_value(here):  # noqa: F811
    """SFTConfig's bf16 is `bool | None`, for which argparse has no bare form."""
    script = SUBCLASS.replace("half: bool | None = None", "half: bool | None = None; use_cpu: bool | None = None")
    assert start(here, script, "--use_cpu --max_steps 3 train.py") == 0
    assert seen(here)["max_steps"] == 3


def test_copies_and_pickles_are_left_alone(here):  # noqa: F811
    script = HEAD + (
        f"args = {MADE}\nimport copy, pickle\nargs.learning_rate = 7.0\n"
        "assert pickle.loads(pickle.dumps(args)).learning_rate == copy.deepcopy(args).learning_rate == 7.0"
    )
    assert start(here, script, "--learning_rate 4e-5 train.py") == 0


BAD = [
    (
        "--learning_rte 1 train.py",
        "--learning_rte is not an option of TrainingArguments. Did you mean '--learning_rate'",
    ),
    ("--learning_rate fast train.py", "--learning_rate/--learning-rate: invalid float value: 'fast'"),
    ("--optim adatamv train.py", "--optim 'adatamv' is not known. Did you mean 'adatam"),
    ("--optim adatamw --optim_args gama=1 train.py", "adatamw has no option 'gama'. Did you mean 'gamma'?"),
    ("--optim adatamw --optim_args gamma=2 train.py", "--optim adatamw: AdaTAMW: gamma=2.0 is out of range"),
    ("--optim no_such_package.Thing train.py", "there is no package 'no_such_package' here"),
    ("--optim torch.optim.Adamm train.py", "torch.optim has no 'Adamm'. Did you mean 'Adam"),
    ("--optim torch.optim.LBFGS train.py", "step() needs a closure"),
    ("--max_steps 1.5 train.py", "--max_steps/--max-steps: invalid int value: '1.5'"),
    ("--quantity 3 train.py", "--quantity is not an option of TrainingArguments."),
    ("--use_cpu", "there is no script"),
    ("--optim adatamw --optim_args help=1", "adatamw has no option 'help'.\noptions of adatamw:\n  gamma=0.9"),
    ("--use_cpu other.py", "there is no file 'other.py'"),
    ("--use_cpu trll", "no command of an installed package, called 'trll'"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line for line, _ in BAD])
def test_mistakes(here, capsys, line, message):  # noqa: F811
    assert start(here, HARD_CODED, line) == 2
    error = capsys.readouterr().err
    assert error.startswith("tamft run: error: ")
    assert message in error
    assert not (here / "out").exists()
    assert not (here / "seen.json").exists()


@pytest.mark.parametrize("end", ["", "import sys; sys.exit()", "import sys; sys.exit(0)"])
def test_nothing_was_overridden(here, capsys, end):  # noqa: F811
    assert start(here, f"print('hello')\n{end}", "--optim adatamw --use_cpu train.py") == 2
    error = capsys.readouterr().err
    assert "--optim, --use_cpu: nothing was overridden, because the script made no TrainingArguments" in error


def test_the_scripts_own_failure_comes_first(here):  # noqa: F811
    with pytest.raises(SystemExit) as raised:
        start(here, "import sys; sys.exit(3)", "--optim adatamw train.py")
    assert raised.value.code == 3
    with pytest.raises(ZeroDivisionError):
        start(here, "1 / 0", "--optim adatamw train.py")
    assert start(here, "print(1)", "train.py") == 0


# ---- what Trainer does with them -------------------------------------------------------------------------------------


@pytest.fixture
def overriding():
    """`overriding(line)`: from now on TrainingArguments are made with these options."""
    entered = []

    def begin(line: str) -> overrides.Overrides:
        entered.append(overrides.active(overrides.Overrides(line.split())))
        return entered[-1].__enter__()

    tamft.register()
    yield begin
    for manager in entered:
        manager.__exit__(None, None, None)


def test_trainers_own_default_arguments(tmp_path, monkeypatch, overriding):
    monkeypatch.chdir(tmp_path)
    overriding("--optim adatamw --learning_rate 0.25 --use_cpu --report_to none")
    trainer = Trainer(model=small.model(), train_dataset=small.data())
    assert type(trainer.create_optimizer()) is tamft.AdaTAMW
    assert trainer.optimizer.param_groups[0]["lr"] == 0.25


OPTIMIZER = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
SCHEDULER = torch.optim.lr_scheduler.ConstantLR(OPTIMIZER)
OWN = [
    ("--optim adatamw", {"optimizers": (OPTIMIZER, None)}, "--optim would have no effect: .*own optimizer .*SGD"),
    ("--learning_rate 1", {"optimizers": (OPTIMIZER, None)}, "--learning_rate would have no effect"),
    ("--optim tam", {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 1.0})}, "optimizer_cls_and_kwargs=, SGD"),
    ("--warmup_steps 3", {"optimizers": (OPTIMIZER, SCHEDULER)}, "--warmup_steps would have .*own learning-rate sched"),
]


@pytest.mark.parametrize(("line", "given", "message"), OWN)
def test_an_optimizer_of_the_scripts_own_is_refused_when_trainer_is_made(tmp_path, overriding, line, given, message):
    overriding(line)
    args = TrainingArguments(output_dir=str(tmp_path), **small.QUIET)
    with pytest.raises(InputError, match=message):
        Trainer(model=small.model(), args=args, **given)


def test_what_does_not_concern_the_optimizer_may_stay(tmp_path, overriding):
    overriding("--max_steps 3")
    args = TrainingArguments(output_dir=str(tmp_path), **small.QUIET)
    assert Trainer(model=small.model(), args=args, optimizers=(OPTIMIZER, None)).args.max_steps == 3


def test_arguments_changed_afterwards_are_refused(tmp_path, overriding):
    overriding("--learning_rate 1")
    args = TrainingArguments(output_dir=str(tmp_path), **small.QUIET)
    args.learning_rate = 2.0
    with pytest.raises(InputError, match=r"--learning_rate .* no effect: the script sets learning_rate=2.0 after"):
        Trainer(model=small.model(), args=args)


def test_a_trainer_that_builds_its_own_optimizer_is_refused_before_the_first_step(tmp_path, overriding):
    class Own(Trainer):
        def create_optimizer(self, *args, **kwargs):
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
            return self.optimizer

    overriding("--optim adatamw")
    trainer = small.trainer(tmp_path, "sgd", cls=Own)
    with pytest.raises(InputError, match=r"--optim adatamw has no effect: .*SGD"):
        trainer.train()


def test_a_search_sets_its_own_values(tmp_path, overriding):
    pytest.importorskip("optuna", reason="optuna (extra `dev`) is not installed")
    overriding("--optim adatamw --learning_rate 0.5")
    rates = []

    class Noting(Trainer):
        def create_optimizer(self, *args, **kwargs):
            made = super().create_optimizer(*args, **kwargs)
            rates.append((type(made), made.param_groups[0]["lr"], made.param_groups[0]["gamma"]))
            return made

    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, **{**small.PLAIN, "eval_strategy": "steps", "eval_steps": 1}
    )
    data = {"train_dataset": small.data(), "eval_dataset": small.data(4)}
    trainer = Noting(model_init=lambda: small.model(), args=args, **data)
    trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [0.125])},
        n_trials=1,
        backend="optuna",
    )
    assert rates == [(tamft.AdaTAMW, 0.125, 0.9)]


# ---- real command lines ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hard_coded_sentence_transformers_script(tmp_path, tiny_model, run_python):
    pairs = [{"anchor": f"card {i}", "positive": f"pay {i}"} for i in range(16)]
    (tmp_path / "st.py").write_text(
        "from datasets import Dataset\n"
        "from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer\n"
        "from sentence_transformers import SentenceTransformerTrainingArguments\n"
        "from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss\n"
        f"model = SentenceTransformer({str(tiny_model)!r}, device='cpu')\n"
        "trainer = SentenceTransformerTrainer(model=model, loss=MultipleNegativesRankingLoss(model),\n"
        f"    train_dataset=Dataset.from_list({pairs!r}),\n"
        "    args=SentenceTransformerTrainingArguments(output_dir='out', learning_rate=2e-5, max_steps=2,\n"
        "        use_cpu=True, report_to='none'))\n"
        "trainer.train()\n"
        "print(type(trainer.optimizer.optimizer).__name__, trainer.args.batch_sampler.value)\n"
    )
    line = "-m tamft.run --optim adatamw_msam --learning_rate 1e-3 --batch_sampler no_duplicates st.py"
    result = run_python(*line.split())
    assert result.returncode == 0, result.stderr
    assert "AdaTAMW no_duplicates" in result.stdout
    assert "batch_sampler batch_sampler -> no_duplicates" in result.stderr


def test_a_mistake_leaves_no_traceback_and_no_folder(tmp_path, run_python):
    (tmp_path / "train.py").write_text(TRAINING)
    result = run_python(*"-m tamft.run --optim tam --optim_args gamma=1,,rho=1 train.py --output_dir out".split())
    assert result.returncode == 2
    assert result.stderr.startswith("tamft run: error: --optim_args: there is nothing before a comma")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
