"""One cell: a real training of four steps with a checkpoint in the middle, a resumed one, and everything looked at."""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors.torch import load_file
from torch import nn
from transformers import HfArgumentParser, TrainerCallback

from tamft.hf.callbacks import is_moved, unwrap
from tests.compatibility import optimizers
from tests.compatibility.trainers import TRAINERS, Kind
from tests.compatibility.ways import PRECISIONS, WRAPPERS, Way

STEPS = 4
ORDINARY: dict[str, Any] = {
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "max_steps": STEPS,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 2,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
}


@dataclass(frozen=True)
class Cell:
    """One combination. Every field is a name: a key of TRAINERS, LAUNCHERS, PRECISIONS, WRAPPERS, or a column."""

    trainer: str = "Trainer"
    launcher: str = "python script.py"
    precision: str = "float32"
    wrapper: str = "none"
    optimizer: str = "adamw_torch"


def fingerprint(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Equal for equal bits of equal shape and type, whatever the tensor is called where it is stored."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return tensor.dtype, tuple(tensor.shape), hashlib.sha1(flat.tobytes(), usedforsecurity=False).hexdigest()


def fingerprints(tensors: Iterable[torch.Tensor]) -> set[tuple[Any, ...]]:
    return {fingerprint(tensor) for tensor in tensors}


def saved(folder: str | Path) -> list[torch.Tensor]:
    """Every weight that was saved in `folder`, adapters and modules in sub-folders included."""
    return [tensor for path in sorted(Path(folder).rglob("*.safetensors")) for tensor in load_file(path).values()]


def trained(model: nn.Module) -> list[torch.Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


class Watch(TrainerCallback):
    """Compares each checkpoint with the weights that the optimizer's own eval() gives, and leaves no trace itself."""

    def __init__(self, folder: Path, perturbing: bool) -> None:
        self.folder, self.perturbing = folder, perturbing
        self.checkpoints: list[int] = []
        self.problems: list[
            str
        ] = []  # not raised here: in one of several processes that would leave the others waiting
        self.optimizers: list[Any] = []
        self.saved_at = -1

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs) -> None:
        self.optimizers.append(unwrap(optimizer))
        # The first step has no momentum to follow.
        if not self.perturbing or state.global_step == 0:
            return
        if not is_moved(unwrap(optimizer)):
            self.problems.append(f"step {state.global_step + 1} was taken without a perturbation")
        elif self.saved_at == state.global_step and self.clean[0].dtype == torch.float32:
            # From the weights that were saved to those where the gradients are taken it is ρ, over all trained weights.
            far = sum((p - q).double().square().sum().item() for p, q in zip(self.clean, trained(model), strict=True))
            if not math.isclose(far**0.5, optimizers.GIVEN_RHO, rel_tol=1e-3):
                self.problems.append(f"step {state.global_step + 1} was {far**0.5:.4g} away from the saved weights")

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs) -> None:
        # Before the save, because an optimizer's way there and back may round.
        self.model = model  # Trainer itself forgets it after a search
        inner, parameters = unwrap(optimizer), list(model.parameters())
        before = [p.detach().clone() for p in parameters]
        groups, away = [dict(group) for group in inner.param_groups], getattr(inner, "away", None)
        if callable(getattr(inner, "eval", None)):
            inner.eval()
        self.clean = [p.detach().clone() for p in trained(model)]
        self.all_clean = fingerprints([*parameters, *model.buffers()])
        with torch.no_grad():
            for p, value in zip(parameters, before, strict=True):
                p.copy_(value)
        for group, was in zip(inner.param_groups, groups, strict=True):
            group.update(was)
        if away is not None:  # where tamft notes the mode of other people's optimizers
            inner.away = away

    def on_save(self, args, state, control, **kwargs) -> None:
        self.saved_at = state.global_step
        self.checkpoints.append(state.global_step)
        if not state.is_world_process_zero:
            return  # the files are being written, by another process
        folder = max(self.folder.rglob(f"checkpoint-{state.global_step}"), key=lambda path: path.stat().st_mtime_ns)
        stored = fingerprints(saved(folder))
        if not stored <= self.all_clean:
            self.problems.append(f"checkpoint {state.global_step} holds weights that are not the clean ones")
        elif not fingerprints(self.clean) <= stored:
            self.problems.append(f"checkpoint {state.global_step} misses trained weights")


def train(cell: Cell, folder: Path, resume: Path | None = None) -> Any:
    """Train, and return the trainer with `watch` and `begin` (the trained weights before) on it."""
    kind, ways = TRAINERS[cell.trainer](), (PRECISIONS[cell.precision], WRAPPERS[cell.wrapper])
    args = _arguments(cell, kind, ways, folder)
    watch = Watch(folder, cell.optimizer in optimizers.PERTURBING)

    def model() -> nn.Module:
        made = kind.model()
        for way in ways:
            made = way.model(made)
        return made

    def own(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return optimizers.build(cell.optimizer, params, _words(cell, kind, ways, folder))

    keywords: dict[str, Any] = {"callbacks": [watch]}
    for way in ways:
        if way.keywords is not None:
            keywords |= way.keywords(model, own)
    given = keywords.pop("model", None) if "model_init" in keywords or "model" in keywords else model()
    trainer = kind.make(given, args, **keywords)
    trainer.watch = watch
    for way in ways:
        if way.change is not None:
            way.change(trainer, own, resume is not None)
    trainer.begin = [p.detach().clone() for p in trained(trainer.model)]
    start = next((way.start for way in ways if way.start is not None), None)
    if start is not None:
        start(trainer)
    else:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return trainer


def _words(cell: Cell, kind: Kind, ways: tuple[Way, ...], folder: Path) -> dict[str, Any]:
    """Everything that is asked for, in Trainer's words."""
    words = {**ORDINARY, **kind.settings, "output_dir": str(folder), "learning_rate": optimizers.rate(cell.optimizer)}
    words["optim"] = cell.optimizer
    if cell.optimizer in optimizers.OURS:
        more = {key: value for way in ways for key, value in way.optim_args.items()}
        words["optim_args"] = optimizers.optim_args(cell.optimizer, **more)
    return words | {key: value for way in ways for key, value in way.arguments.items()}


def _arguments(cell: Cell, kind: Kind, ways: tuple[Way, ...], folder: Path) -> Any:
    """As they come from a command line: `--optim` and the rest go through the argument parser."""
    words = _words(cell, kind, ways, folder)
    if kind.arguments is None:
        return words
    elsewhere = {"scaler", "loss_factor"}  # a loop's
    if any(way.own_optimizer for way in ways):
        elsewhere |= {"optim", "optim_args"}
    flags = [f"--{key}={_flag(value)}" for key, value in words.items() if key not in elsewhere]
    return HfArgumentParser(kind.arguments).parse_args_into_dataclasses(flags)[0]


def _flag(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, bool)) else str(value)


def check(cell: Cell, folder: Path, *, resume: bool = True) -> None:
    """AssertionError with the reason if anything about the cell is not as it should be; other errors pass through."""
    ways = (PRECISIONS[cell.precision], WRAPPERS[cell.wrapper])
    whole = train(cell, folder / "whole")
    _check_optimizer(cell, whole.watch.optimizers)
    assert whole.state.global_step == STEPS, f"{whole.state.global_step} steps instead of {STEPS}"
    losses = [row["loss"] for row in whole.state.log_history if "loss" in row]
    assert losses, "no loss was logged"
    assert all(map(math.isfinite, losses)), f"losses {losses}"
    assert whole.watch.checkpoints[-2:] == [2, 4], f"checkpoints {whole.watch.checkpoints}"
    problems = gather_object(whole.watch.problems)
    assert not problems, problems[0]
    end = trained(whole.watch.model)
    assert all(p.isfinite().all() for p in end), "weights are not finite"
    # not each of them: a bias that cancels out has no gradient, and that of LoRA's A begins at zero
    still = sum(torch.equal(p, q) for p, q in zip(whole.begin, end, strict=True))
    assert still <= len(end) // 2, f"{still} of {len(end)} weights did not move"
    assert not is_moved(unwrap(whole.optimizer)), "the weights are left perturbed"
    for way in ways:
        if way.check is not None:
            way.check(whole)
    if resume and all(way.resumes for way in ways):
        PartialState().wait_for_everyone()  # until the last file is written
        resumed = train(cell, folder / "resumed", folder / "whole" / "checkpoint-2")
        assert resumed.state.global_step == STEPS
        far = max((p - q).abs().max().item() for p, q in zip(trained(resumed.model), end, strict=True))
        assert far == 0, f"the resumed run ends at other weights, {far:.1g} away"


def _check_optimizer(cell: Cell, seen: list[Any]) -> None:
    assert seen, "no step was taken"
    for optimizer in seen:
        name = type(optimizer).__name__
        assert name in optimizers.expected(cell.optimizer), f"the optimizer is {name}"
        for group in optimizer.param_groups:
            for key, value in optimizers.GIVEN.get(cell.optimizer, {}).items():
                assert group[key] == value, f"{key} is {group[key]} instead of {value}"
