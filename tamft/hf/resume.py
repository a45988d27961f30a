"""Which checkpoint a training goes on from, and whether it may: by the same optimizer, with which numbers."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer

from tamft import registry
from tamft.errors import InputError
from tamft.hf.arguments import optim_name
from tamft.hf.callbacks import unwrap
from tamft.hf.checkpoints import ARGUMENTS, OPTIMIZER, STATE, checkpoints, problems, read_torch
from tamft.hf.pickles import read_arguments
from tamft.optim.base import FORMAT, MomentumOptimizer
from tamft.optim.load import refuse_foreign
from tamft.optim.options import BACKEND
from tamft.optim_args import WARMUP

logger = logging.getLogger(__name__)


def newest(folder: Path, *, tell: bool = True, **demands: Any) -> Path | None:
    """The complete checkpoint in `folder` with the highest step; a warning for each one that is passed over.

    `demands` as for `tamft.hf.checkpoints.problems`. `tell=False` on all processes but one.
    """
    for path in checkpoints(folder):
        found = problems(path, **demands)
        if not found:
            return path
        if tell:
            logger.warning("%s is not complete and is passed over: %s", path, "; ".join(found))
    return None


def choose(wish: str | bool, folder: Path, *, tell: bool = True, **demands: Any) -> Path:
    """The checkpoint to resume from: `wish` if it is a path, else the newest complete one in `folder`.

    Raises InputError, naming the file and the cure, for a checkpoint that is not complete and for none that is.
    """
    if wish is True:
        if (found := newest(folder, tell=tell, **demands)) is not None:
            return found
        broken = [f"{path.name} ({problems(path, **demands)[0]})" for path in checkpoints(folder)]
        holds = f"no complete checkpoint: {', '.join(broken)}" if broken else "no checkpoint"
        raise InputError(f"resume_from_checkpoint: {folder} holds {holds}; start anew without resume_from_checkpoint")
    path = Path(wish)
    found_problems = problems(path, **demands)
    if not found_problems:
        return path
    whole = newest(path.parent, tell=False, **demands) if path.parent.is_dir() else None
    cure = f"the newest complete one is {whole}" if whole else "start anew without resume_from_checkpoint"
    raise InputError(
        f"resume_from_checkpoint: {path} is not a complete checkpoint: {'; '.join(found_problems)}; {cure}"
    )


def check_optimizer(checkpoint: Path, name: str, cls: type | None, *, by_name: bool = True) -> None:
    """InputError if another optimizer than `--optim name` wrote the state in `checkpoint`.

    torch would load the state of nearly every optimizer into every other one, and go on with it as if it were its own.

    Args:
        name: what `--optim` asks for; in messages, where the optimizer itself was handed to Trainer.
        cls: its class, None if only transformers knows it.
        by_name: whether `--optim` decided; then the name that the checkpoint was written with counts as well.
    """
    cure = "take the optimizer that wrote it, or start anew with the checkpoint as the model to start from"
    wrote = read_arguments(checkpoint / ARGUMENTS).get("optim")
    ours = cls is not None and issubclass(cls, MomentumOptimizer)
    if by_name and wrote is not None and not _same(wrote, name, ours):
        raise InputError(f"resume_from_checkpoint: {checkpoint} was written with --optim {wrote}, not {name}: {cure}")
    if not (checkpoint / OPTIMIZER).is_file():
        return  # FSDP's and DeepSpeed's own files: they refuse what does not fit
    state = read_torch(checkpoint / OPTIMIZER)
    if ours:
        try:
            refuse_foreign(cls([torch.zeros(1)]), state, FORMAT)
        except ValueError as error:
            raise InputError(f"resume_from_checkpoint: {checkpoint}: {error}") from error
    elif any("tamft_format" in group for group in state["param_groups"]):
        raise InputError(
            f"resume_from_checkpoint: {checkpoint} was written by an optimizer of tamft, not {name}: {cure}"
        )


def _same(wrote: str, name: str, ours: bool) -> bool:
    """Whether a state means the same to both: torch's fused and plain AdamW, our presets of one class."""
    known = registry.ENTRIES
    if wrote in known and name in known:
        return registry.get(wrote).cls is registry.get(name).cls
    # Handed to Trainer, an optimizer is not the one that the arguments name: for ours the state itself tells.
    return wrote.removesuffix("_fused") == name.removesuffix("_fused") or (ours and wrote not in known)


# ---- in Trainer -----------------------------------------------------------------------------------------------------


def wanted(trainer: Trainer) -> tuple[str, type, bool] | None:
    """(name, class, whether --optim decided) of the optimizer that will train; None if it is not a registered one."""
    if (optimizer := unwrap(trainer.optimizer)) is not None:
        cls = type(optimizer)
        known = any(entry.cls is cls for entry in registry.ENTRIES.values())
        return (cls.__name__, cls, False) if known else None
    name = optim_name(trainer.args)
    return (name, registry.get(name).cls, True) if name is not None else None


def resumable(trainer: Trainer, wish: str | bool | None) -> str | bool | None:
    """What Trainer.train() is to be given for the `resume_from_checkpoint` it was called with.

    Registered optimizers only go on from a complete checkpoint that they wrote themselves; for others nothing changes.
    Raises InputError as `choose` and `check_optimizer` do.
    """
    asked = wanted(trainer)
    if asked is None or not wish:
        return wish
    args = trainer.args
    # Only what lies on this machine can be looked at: every process looks for all of it, or for its own file.
    ranks = [args.process_index] if args.save_on_each_node else range(args.world_size)
    demands = {"ranks": ranks, "needed": needed(trainer)}
    path = choose(wish, Path(args.output_dir), tell=args.process_index == 0, **demands)
    name, cls, by_name = asked
    check_optimizer(path, name, cls, by_name=by_name)
    return str(path)


def needed(trainer: Trainer) -> list[str]:
    """Files without which this trainer's model or loss scaler could not go on."""
    scaler = ["scaler.pt"] if getattr(trainer.accelerator, "scaler", None) is not None else []
    model = trainer.model
    if hasattr(model, "peft_config") and hasattr(model, "active_adapters") and not isinstance(model, PreTrainedModel):
        return [*scaler]  # its adapters may be in folders of their own
    if isinstance(model, PreTrainedModel):
        return [*scaler, "config.json"]
    return [*scaler, "modules.json"] if type(model).__module__.startswith("sentence_transformers") else scaler


def mark_unfinished(trainer: Trainer, trial: Any) -> None:
    """Trainer writes over a checkpoint of the same step: until it is done, it must not pass for a complete one."""
    if wanted(trainer) is not None and trainer.args.should_save:
        folder = Path(trainer._get_output_dir(trial)) / f"checkpoint-{trainer.state.global_step}"
        (folder / STATE).unlink(missing_ok=True)


def is_over(trainer: Trainer) -> bool:
    """Whether all steps are done already: Trainer makes one more when it resumes its last checkpoint (max_steps)."""
    return 0 < trainer.state.max_steps <= trainer.state.global_step


def options_of(trainer: Trainer) -> list[dict[str, Any]]:
    """The options of every parameter group, as they are now."""
    return [
        {key: value for key, value in group.items() if key not in _NOT_OPTIONS}
        for group in unwrap(trainer.optimizer).param_groups
    ]


# The rate of this step belongs to the schedule; its peak is `initial_lr`.
_NOT_OPTIONS = {"params", "lr", "moved", "scale", "tamft_format", *BACKEND}


def tell_differences(trainer: Trainer, asked: Sequence[dict[str, Any]], checkpoint: str) -> None:
    """One line for options that came from the checkpoint and are not those that were asked for."""
    args, found = trainer.args, options_of(trainer)
    name = optim_name(args)
    filled_in = set()
    if name is not None and registry.parse_optim_args(name, args.optim_args).get("rho_start") == WARMUP:
        filled_in = {"rho_start"}  # when training begins
    lines = dict.fromkeys(
        f"{'learning_rate' if key == 'initial_lr' else key}: checkpoint {group[key]}, asked for {wish[key]}"
        for wish, group in zip(asked, found, strict=True)
        for key in wish.keys() & group.keys() - filled_in
        if group[key] != wish[key]
    )
    if lines and args.process_index == 0:
        logger.warning("%s: the checkpoint's value is used: %s", checkpoint, "; ".join(sorted(lines)))
