"""Other people's optimizers: dotted names, plug-ins, what is refused, schedule-free weights, matrices-only classes."""

import json
import pickle
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from torch.optim import SGD, Optimizer
from transformers import HfArgumentParser, Trainer, TrainingArguments

import tamft
from tamft import registry
from tamft.errors import InputError
from tests.hf import small


@pytest.fixture(autouse=True)
def _entries(monkeypatch):
    """A registry that forgets what a test adds."""
    monkeypatch.setattr(registry, "ENTRIES", dict(registry.ENTRIES))


def arguments(tmp_path, **kwargs) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path / "out"), **{**small.QUIET, **kwargs})


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--optim", "torch.optim.NAdam"], ["--optim=torch.optim.NAdam"]])
def test_a_dotted_name_on_the_command_line(tmp_path, words):
    line = [*words, "--output_dir", str(tmp_path), "--use_cpu", "--optim_args", "momentum_decay=0.01"]
    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(line)
    made, kwargs = Trainer.get_optimizer_cls_and_kwargs(args)
    assert made is torch.optim.NAdam
    assert kwargs["momentum_decay"] == 0.01


@pytest.mark.parametrize("kind", ["json", "yaml", "python", "trl"])
def test_a_dotted_name_in_files_and_in_python(tmp_path, kind):
    settings = {"output_dir": str(tmp_path), "optim": "torch.optim.RAdam", "use_cpu": True, "report_to": "none"}
    (tmp_path / "a.json").write_text(json.dumps(settings))
    if kind == "python":
        args = TrainingArguments(**settings)
    elif kind == "trl":
        trl = pytest.importorskip("trl", reason="trl (extra `dev`) is not installed")
        parser = trl.TrlParser((TrainingArguments,))
        (args,) = parser.parse_args_and_config(["--config", str(tmp_path / "a.json")])
    else:
        (args,) = getattr(HfArgumentParser(TrainingArguments), f"parse_{kind}_file")(tmp_path / "a.json")
    assert Trainer.get_optimizer_cls_and_kwargs(args)[0] is torch.optim.RAdam


def test_a_dotted_name_in_the_recipes(tmp_path):
    from tamft.train import config

    @dataclass
    class Own:
        config: str | None = None

    (tmp_path / "c.yaml").write_text("optim: torch.optim.Adamax\nreport_to: none\nuse_cpu: true\n")
    line = f"--config {tmp_path / 'c.yaml'} --output_dir {tmp_path / 'out'}"
    assert config.parse(line.split(), Own, TrainingArguments)[1].optim == "torch.optim.Adamax"
    for words in (["--optim", "torch.optim.NAdam"], ["--optim=torch.optim.NAdam"]):
        assert config.parse([*line.split(), *words], Own, TrainingArguments)[1].optim == "torch.optim.NAdam"
    with pytest.raises(InputError, match=r"torch.optim has no 'Nadam'. Did you mean 'NAdam'"):
        config.parse([*line.split(), "--optim", "torch.optim.Nadam"], Own, TrainingArguments)


def test_register_with_a_dotted_name(tmp_path):
    tamft.register("torch.optim.NAdam", momentum_decay=0.5)
    tamft.register("torch.optim.NAdam", momentum_decay=0.5)
    args = arguments(tmp_path, optim="torch.optim.NAdam")
    assert Trainer.get_optimizer_cls_and_kwargs(args)[1]["momentum_decay"] == 0.5
    again = pickle.loads(pickle.dumps(args))
    assert type(again.optim) is str
    del registry.ENTRIES["torch.optim.NAdam"]  # as in a process that only loads the file
    assert Trainer.get_optimizer_cls_and_kwargs(again)[0] is torch.optim.NAdam


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package.Thing", "there is no package 'no_such_package' here: check the name, or pip install it"),
        ("torch.optim.Adamm", "torch.optim has no 'Adamm'. Did you mean 'Adam"),
        ("torch.optim.nothing.Adam", "torch.optim has no 'nothing'"),
        ("torch.nn.Linear", "no subclass of torch.optim.Optimizer"),
        ("math.pi", "this is a float and no subclass"),
        ("torch.optim.", "write package.module.Class"),
        ("torch..Adam", "write package.module.Class"),
        ("broken_package.Thing", "broken_package cannot be imported: ZeroDivisionError"),
        ("torch.optim.LBFGS", "its step() needs a closure"),
    ],
)
def test_names_that_cannot_be_used(tmp_path, monkeypatch, name, message):
    (tmp_path / "broken_package.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = registry.names()
    for use in (lambda: arguments(tmp_path, optim=name), lambda: tamft.register(name)):
        with pytest.raises(InputError) as raised:
            use()
        assert message in str(raised.value)
        assert name in str(raised.value)
    assert registry.names() == before
    assert not (tmp_path / "out").exists()


def test_plugins(tmp_path, run_python):
    (tmp_path / "peers.py").write_text("import torch\nclass Good(torch.optim.SGD): pass\n")
    info = tmp_path / "peers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: peers\nVersion: 1.0\n")
    names = "broken = peers:Missing\nadamw_torch = peers:Good\nnone = peers:torch\ngood_one = peers:Good\n"
    (info / "entry_points.txt").write_text(f"[tamft.optimizers]\n{names}")
    (tmp_path / "work.py").write_text(
        "import warnings\nwith warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n    import tamft\n    tamft.register()\n    tamft.register()\n"
        "from transformers import TrainingArguments\n"
        "print(TrainingArguments(output_dir='o', optim='good_one', use_cpu=True).optim.value)\n"
        "for w in caught: print(w.message) if 'peers' in str(w.message) else None\n"
    )
    from tests.conftest import ROOT

    result = run_python("work.py", env={"PYTHONPATH": f"{ROOT}:{tmp_path}"}, check=True)
    lines = result.stdout.splitlines()
    assert lines[0] == "good_one"
    assert len(lines) == 4
    for line, name in zip(lines[1:], ("broken", "adamw_torch", "none"), strict=True):
        assert line.startswith(f"the optimizer {name!r} of package peers is left out")


# ---- numbers ---------------------------------------------------------------------------------------------------------


class Peer(SGD):
    """No annotations, like most of them."""

    def __init__(self, params, lr, betas=(0.95, 0.98), eps=1e-16, decay=0, word=None, flag=False, sizes=(1, 2)):
        super().__init__(params, lr=lr)
        self.seen = {"betas": betas, "eps": eps, "decay": decay, "word": word, "flag": flag, "sizes": sizes}


def test_options_without_annotations_are_typed_from_their_defaults(tmp_path):
    tamft.register("peer", Peer)
    text = "betas=(0.5,0.6),eps=1e-3,decay=0.1,word=abc,flag=true,sizes=(3,4)"
    found = registry.parse_optim_args("peer", text)
    assert found == {"betas": (0.5, 0.6), "eps": 1e-3, "decay": 0.1, "word": "abc", "flag": True, "sizes": (3, 4)}
    assert [type(size) for size in found["sizes"]] == [int, int]
    assert registry.parse_optim_args("peer", "word=3,decay=2") == {"word": 3, "decay": 2}
    with pytest.raises(InputError, match=r"betas cannot be '\(0.5\)': it takes \(a number, a number\)"):
        registry.parse_optim_args("peer", "betas=(0.5)")


def test_adams_flags_leave_other_defaults_alone(tmp_path):
    """Trainer's β2 = 0.999 and ε = 1e-8 would silently replace tuned numbers."""
    tamft.register("peer", Peer)
    kwargs = Trainer.get_optimizer_cls_and_kwargs(arguments(tmp_path, optim="peer", learning_rate=0.5))[1]
    assert kwargs == {"lr": 0.5}
    assert registry.owned("peer") == {"lr": "--learning_rate"}
    with pytest.warns(UserWarning, match="does not read --adam_beta1 and --adam_beta2: use --optim_args betas="):
        Trainer.get_optimizer_cls_and_kwargs(arguments(tmp_path, optim="peer", adam_beta1=0.8))
    with pytest.warns(UserWarning, match="peer has no weight decay"):
        Trainer.get_optimizer_cls_and_kwargs(arguments(tmp_path, optim="peer", weight_decay=0.8))


# ---- what cannot be right --------------------------------------------------------------------------------------------


class NeedsClosure(SGD):
    def step(self, closure=None):
        if closure is None:
            raise RuntimeError("pass a closure")


class NeedsMore(SGD):
    def __init__(self, params, lr, radius, base):
        super().__init__(params, lr=lr)


class NeedsModel(SGD):
    def __init__(self, model, lr=0.1):
        super().__init__(model.parameters(), lr=lr)


class Wrapper(Optimizer):
    def __init__(self, optimizer, lr=0.1):
        super().__init__(optimizer.param_groups, {"lr": lr})


class OwnGroups(SGD):
    def __init__(self, params, lr=0.1):
        if any("use_muon" not in group for group in params):
            raise ValueError("`use_muon` must be set.")


class NoRate(Optimizer):
    def __init__(self, params):
        super().__init__(params, {})

    def step(self, closure=None):
        pass


@pytest.mark.parametrize(
    ("cls", "optim_args", "message"),
    [
        (NeedsClosure, None, "its step() needs a closure that evaluates the model once more"),
        (NeedsMore, None, "needs radius, base: give them in --optim_args"),
        (NeedsMore, "radius=1", "needs base: give it in --optim_args"),
        (NeedsModel, None, "it wants the model itself, to update layer by layer"),
        (Wrapper, None, "it wraps another optimizer"),
        (OwnGroups, None, "`use_muon` must be set.; it has rules of its own for groups: torch.optim.Muon has none"),
        (NoRate, None, "its parameter groups have no 'lr'"),
        (SGD, "momentum=nan", "momentum=nan is not a finite number (default: 0)"),
        (SGD, "momentum=-1", "Invalid momentum value"),
        (SGD, "nesterov=true", "Nesterov momentum requires"),
    ],
)
def test_refused_with_the_reason_before_there_is_a_model(tmp_path, cls, optim_args, message):
    name = f"refused-{cls.__name__}"
    with pytest.raises(InputError) as raised:
        tamft.register(name, cls)
        arguments(tmp_path, optim=name, optim_args=optim_args)
    assert message in str(raised.value)
    assert name in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_the_trial_uses_up_nothing_random(tmp_path):
    class Noisy(SGD):
        def step(self, closure=None):
            torch.rand(3)

    tamft.register("noisy", Noisy)
    torch.manual_seed(3)
    arguments(tmp_path, optim="noisy")
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))


def test_what_works_only_on_the_models_device_is_left_to_it(tmp_path):
    class OnGpu(SGD):
        def __init__(self, params, lr):
            raise RuntimeError("this optimizer needs CUDA")

    tamft.register("on-gpu", OnGpu)
    trainer = small.trainer(tmp_path, "on-gpu")
    with pytest.raises(InputError, match="on-gpu: a trial step failed: RuntimeError: this optimizer needs CUDA"):
        trainer.train()


# ---- train() and eval() ----------------------------------------------------------------------------------------------


class Away(SGD):
    """Training happens one unit away from the weights to keep; nothing in its groups says so."""

    def train(self):
        self._go(1.0)

    def eval(self):
        self._go(0.0)

    @torch.no_grad()
    def _go(self, where):
        now = getattr(self, "where", 0.0)
        for group in self.param_groups:
            for p in group["params"]:
                p += where - now
        self.where = where

    def step(self, closure=None):
        assert self.where == 1.0, "step() at the wrong place"
        super().step(closure)


def saved(folder) -> list[torch.Tensor]:
    stored = load_file(folder / "model.safetensors")
    return [stored[key] for key, _ in small.model().named_parameters()]


def test_saves_and_the_end_hold_the_weights_after_eval(tmp_path):
    tamft.register("away", Away)
    seen = []

    def save(**kwargs):
        seen.append(saving.optimizer.optimizer.where)
        saving.save_model(str(tmp_path / "middle"))
        seen.append(saving.optimizer.optimizer.where)

    settings = {"learning_rate": 0.0, "save_strategy": "steps", "save_steps": 2}
    saving = small.trainer(tmp_path, "away", callbacks=[small.At("on_pre_optimizer_step", 3, save)], **settings)
    start = small.weights(saving.model)
    saving.train()
    assert seen == [1.0, 1.0]  # away again: the step that follows needs it
    for weights in (
        *(saved(tmp_path / name) for name in ("checkpoint-2", "checkpoint-6", "middle")),
        small.weights(saving.model),
    ):
        assert small.distance(weights, start) < 1e-4
    saving.save_model(str(tmp_path / "after"))
    assert saving.optimizer.optimizer.where == 0.0


def test_the_best_checkpoint_is_not_moved_afterwards(tmp_path):
    tamft.register("away", Away)
    trainer = small.trainer(
        tmp_path, "away", learning_rate=0.0, max_steps=5, save_strategy="steps", save_steps=2, eval_strategy="steps",
        eval_steps=2, load_best_model_at_end=True,
    )  # fmt: skip
    start = small.weights(trainer.model)
    trainer.train()
    assert small.distance(small.weights(trainer.model), start) < 1e-4


def test_after_an_exception_too(tmp_path):
    tamft.register("away", Away)

    def stop(**kwargs):
        raise KeyboardInterrupt

    trainer = small.trainer(tmp_path, "away", learning_rate=0.0, callbacks=[small.At("on_pre_optimizer_step", 3, stop)])
    start = small.weights(trainer.model)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert small.distance(small.weights(trainer.model), start) < 1e-4


def test_schedule_free(tmp_path):
    pytest.importorskip("schedulefree", reason="schedulefree (extra `dev`) is not installed")
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    whole = small.trainer(tmp_path / "a", "schedulefree.AdamWScheduleFree", **settings)
    whole.train()
    optimizer = whole.optimizer.optimizer
    assert [group["train_mode"] for group in optimizer.param_groups] == [False, False]
    end = small.weights(whole.model)
    # the way out and back after the save costs a rounding
    assert small.distance(saved(tmp_path / "a" / "checkpoint-6"), end) < 1e-7
    optimizer.train()
    assert small.distance(small.weights(whole.model), end) > 1e-3  # what an unaware save would have held
    resumed = small.trainer(tmp_path / "b", "schedulefree.AdamWScheduleFree", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    assert small.distance(small.weights(resumed.model), end) == 0
