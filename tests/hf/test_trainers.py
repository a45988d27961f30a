"""Every trainer trains with our names: the checks are those of tests/compatibility, cell by cell."""

import pytest
from transformers import Trainer, TrainingArguments

from tests.cases import PERTURBING
from tests.compatibility.cell import Cell, Watch, check, train
from tests.compatibility.trainers import TRAINERS
from tests.hf import small

# a torque name, a name that perturbs (and has torque too), and torch's own as a control of the test itself
NAMES = ["adatamw", "tam_msam", "adamw_torch"]


@pytest.fixture(autouse=True)
def _needs(request):
    name = request.node.callspec.params.get("trainer", "") if hasattr(request.node, "callspec") else ""
    if name.startswith(("SFT", "DPO", "KTO", "Reward", "GRPO", "Online")):
        trl = pytest.importorskip("trl", reason="trl (extra `dev`) is not installed")
        if name != "OnlineDPOTrainer" and not hasattr(trl, name):
            pytest.skip(f"this trl has no {name}")


@pytest.mark.parametrize("optimizer", NAMES)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_trains_saves_clean_weights_and_resumes_bitwise(tmp_path, trainer, optimizer):
    if trainer == "OnlineDPOTrainer" and optimizer in PERTURBING:
        pytest.skip("refused: see the next test")
    check(Cell(trainer=trainer, optimizer=optimizer), tmp_path)


@pytest.mark.parametrize("optimizer", PERTURBING)
def test_online_dpo_never_trains_unperturbed_silently(tmp_path, optimizer):
    """TRL's online DPO has a training step of its own, which never calls optimizer.train()."""
    pytest.importorskip("trl")
    with pytest.raises(RuntimeError, match=f"rho={0.2}, but the gradient was not taken at the perturbed weights"):
        train(Cell(trainer="OnlineDPOTrainer", optimizer=optimizer), tmp_path)


WITH_ARGUMENTS = [name for name in TRAINERS if "loop" not in name]


@pytest.mark.slow
def test_training_args_load_where_tamft_is_not(tmp_path, run_python):
    pytest.importorskip("trl")
    for name in WITH_ARGUMENTS:
        kind = TRAINERS[name]()
        settings = {**small.QUIET, **kind.settings}
        args = kind.arguments(output_dir=str(tmp_path / name), optim="adatamw", optim_args="gamma=0.5", **settings)
        kind.make(kind.model(), args).save_model()
    program = (
        "import sys, torch\n"
        "sys.modules['tamft'] = None  # importing it is an error\n"
        "for name in sys.argv[2:]:\n"
        "    args = torch.load(f'{sys.argv[1]}/{name}/training_args.bin', weights_only=False)\n"
        "    print(name, str(args.optim), args.optim_args)\n"
    )
    shown = run_python("-c", program, tmp_path, *WITH_ARGUMENTS, check=True, env={"TRL_EXPERIMENTAL_SILENCE": "1"})
    assert shown.stdout.splitlines() == [f"{name} adatamw gamma=0.5" for name in WITH_ARGUMENTS]


# ---- the checks themselves: each must be able to fail -------------------------------------------------------------


def watched(folder, optim="adamw_msam", **more):
    arguments = {"optim_args": "rho=0.2", "save_strategy": "steps", "save_steps": 2, "max_steps": 4, **more}
    watch = Watch(folder, perturbing=True)
    small.trainer(folder, optim, callbacks=[watch], **arguments).train()
    return watch


def test_the_watch_is_content_with_a_right_training(tmp_path):
    watch = watched(tmp_path)
    assert watch.problems == []
    assert watch.checkpoints == [2, 4]
    assert len(watch.optimizers) == 4


def test_the_watch_sees_perturbed_weights_in_a_checkpoint(tmp_path, monkeypatch):
    whole = Trainer._save_checkpoint

    def save(self, *args, **kwargs):
        self.optimizer.train()
        whole.__wrapped__(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "_save_checkpoint", save)
    monkeypatch.setattr(Trainer, "save_model", Trainer.save_model.__wrapped__)
    assert watched(tmp_path).problems[0] == "checkpoint 2 holds weights that are not the clean ones"


def test_the_watch_sees_a_step_without_a_perturbation(tmp_path):
    problems = watched(tmp_path, optim="adamw_torch", optim_args=None).problems
    assert problems == [f"step {step} was taken without a perturbation" for step in (2, 3, 4)]


def test_the_watch_sees_another_rho(tmp_path):
    problems = watched(tmp_path, optim_args="rho=0.1").problems
    assert problems == ["step 3 was 0.1 away from the saved weights"]


def test_a_resume_without_the_optimizers_state_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "_load_optimizer_and_scheduler", lambda *args, **kwargs: None)
    with pytest.raises(AssertionError, match="the resumed run ends at other weights"):
        check(Cell(optimizer="adatamw"), tmp_path)


def test_another_optimizer_than_the_one_asked_for_is_seen(tmp_path, monkeypatch):
    real = Trainer.get_optimizer_cls_and_kwargs

    def other(args: TrainingArguments, model=None):
        args.optim, args.optim_args = "adatamw", None
        return real(args, model)

    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", staticmethod(other))
    with pytest.raises(AssertionError, match="the optimizer is AdaTAMW"):
        check(Cell(optimizer="tam"), tmp_path)
