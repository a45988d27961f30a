"""Clean weights after a skipped step, telemetry in the logs, and `rho_start=warmup`. In every Trainer by default."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tamft import registry
from tamft.hf.arguments import optim_name
from tamft.hf.others import note_mode
from tamft.hf.overrides import check_optimizer
from tamft.optim.base import MomentumOptimizer
from tamft.optim_args import WARMUP


def unwrap(optimizer: Any) -> Any:
    """The optimizer itself, without accelerate's (and DeepSpeed's) wrappers."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def is_moved(optimizer: Any) -> bool:
    """True while the weights are at the perturbed point. False for optimizers that know no such thing."""
    return any(group.get("moved", False) for group in getattr(optimizer, "param_groups", ()))


def is_away(optimizer: Any) -> bool:
    """True while the weights are not the ones to keep: ours moved, or a registered other one's after train()."""
    return is_moved(optimizer) or getattr(unwrap(optimizer), "away", False)


def bring_back(optimizer: Any) -> None:
    """The real weights, if they are not there yet. `eval()` of what nobody has registered is never called."""
    if is_away(optimizer):
        optimizer.eval()


@contextmanager
def clean_weights(optimizer: Any) -> Iterator[None]:
    """The real weights inside; outside whatever was there before.

    Going out again matters for a save in the middle of a step (Trainer's just-in-time checkpoint saves between backward
    and step): without it the step that follows would refuse to run.

    Every process looks at the state here, because only the first one writes it: looking settles the fused path's
    moments, and the ranks' weights would differ by a last bit from then on.
    """
    _ = getattr(optimizer, "state", None)
    away = is_away(optimizer)
    if away:
        optimizer.eval()
    try:
        yield
    finally:
        if away:
            optimizer.train()


class TamftCallback(TrainerCallback):
    """Does nothing for optimizers that are not tamft's. Holds no state, so that checkpoints know nothing of it."""

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Fill in `rho_start=warmup`: only now is the number of training steps known."""
        check_optimizer(args, unwrap(optimizer))
        name = optim_name(args)
        if name is None or type(unwrap(optimizer)) is not registry.get(name).cls:
            return
        if not isinstance(unwrap(optimizer), MomentumOptimizer):
            note_mode(unwrap(optimizer))
            return
        if registry.parse_optim_args(name, args.optim_args).get("rho_start") == WARMUP:
            for group in unwrap(optimizer).param_groups:
                group["rho_start"] = args.get_warmup_steps(state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """A step that GradScaler skipped has left the weights perturbed; Trainer may save right after this."""
        if is_moved(optimizer):
            bring_back(optimizer)

    def on_epoch_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """The last chance before Trainer puts the best checkpoint's weights under an optimizer that is still away."""
        bring_back(optimizer)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        optimizer: Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Add `tamft/<key>` on logging steps (not to evaluation results), before any tracker's own on_log."""
        telemetry = getattr(unwrap(optimizer), "telemetry", None)
        if logs is None or "loss" not in logs or not callable(telemetry):
            return
        values = {f"tamft/{key}": value for key, value in telemetry().items()}
        logs.update(values)
        # Trainer appended its own copy before it called us.
        state.log_history[-1].update(values)
