"""From TrainingArguments to a constructor's keyword arguments, with every mistake found before a model is loaded."""

import warnings
from typing import Any

import torch
from torch.optim import Optimizer
from transformers import TrainingArguments

from tamft import registry
from tamft.errors import InputError
from tamft.hf import others
from tamft.hf.matrices import MatrixAndAdamW, hidden_matrices
from tamft.optim.base import MomentumOptimizer
from tamft.optim_args import WARMUP

# Below this a heavy-ball optimizer hardly moves: its step is lr x gradient, without Adam's division.
SMALL_RATE = 1e-3


def optim_name(args: TrainingArguments) -> str | None:
    """The registered name that `--optim` asks for, or None if it is one of transformers' own."""
    name = str(getattr(args.optim, "value", args.optim))
    return name if name in registry.ENTRIES else None


def optimizer_kwargs(name: str, args: TrainingArguments) -> dict[str, Any]:
    """Everything but the parameters and weight_decay, which Trainer puts into its parameter groups.

    The preset, then `--optim_args`, then Trainer's flags. `rho_start=warmup` is 0 here: the number of training steps
    is not known before training begins. Raises InputError.
    """
    given = registry.parse_optim_args(name, args.optim_args)
    if given.get("rho_start") == WARMUP:
        given["rho_start"] = 0
    flags = {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
    }
    return {
        **registry.get(name).preset,
        **given,
        **{key: value for key, value in flags.items() if key in registry.owned(name)},
    }


def optimizer_class(
    name: str, args: TrainingArguments, model: torch.nn.Module | None
) -> tuple[type[Optimizer], dict[str, Any]]:
    """The class to build over Trainer's parameter groups, and its keyword arguments."""
    cls, kwargs = registry.get(name).cls, optimizer_kwargs(name, args)
    if model is None or issubclass(cls, MomentumOptimizer) or not others.only_matrices(name, kwargs, model):
        return cls, kwargs
    hidden = hidden_matrices(model)
    if not hidden:
        raise InputError(
            f"--optim {name} takes matrices only, and {type(model).__name__} has none inside repeated layers "
            "(nn.ModuleList): everything would go to AdamW; choose another --optim"
        )
    adamw = {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
    return MatrixAndAdamW, {"matrix": cls, "hidden": hidden, "matrix_options": kwargs, "adamw_options": adamw}


def check_arguments(args: TrainingArguments, model: torch.nn.Module | None = None) -> None:
    """InputError if the optimizer that `args` ask for could not be built. Of transformers' own it asks little.

    With a `model` its trainable weights are looked at too: a perturbation is lost on 16-bit ones.
    """
    name = optim_name(args)
    if name is None:
        _check_shape(args.optim_args)
        return
    kwargs = optimizer_kwargs(name, args)
    cls = registry.get(name).cls
    if not issubclass(cls, MomentumOptimizer):
        others.check(name, kwargs, model)
        return
    if kwargs.get("capturable"):
        kwargs.pop("fused", None)  # together they exist on an accelerator only, and the weights may not be there yet
    weights = [torch.zeros(1)] if model is None else [p for p in model.parameters() if p.requires_grad]
    try:
        # The constructor alone knows what is allowed. It makes no state, so asking it costs nothing.
        cls([{"params": weights}], weight_decay=args.weight_decay, **kwargs)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"--optim {name}: {error}") from error


def _check_shape(text: str | None) -> None:
    """For transformers' own names: InputError for what its parser would end on, with a traceback, much later."""
    for item in str(text).replace(" ", "").split(",") if text else ():
        if item.count("=") != 1:
            raise InputError(f"--optim_args: {item!r} in {text!r} is not key=value: write key=value,key=value")


def warn_about(name: str, args: TrainingArguments) -> None:
    """Warn where flags that suit Adam are given to a heavy-ball optimizer, and where nobody reads a flag."""
    options, owned = registry.options(name), registry.owned(name)
    if args.weight_decay and "weight_decay" not in options:
        warnings.warn(
            f"--optim {name} has no weight decay: --weight_decay {args.weight_decay} is not read", stacklevel=3
        )
    if "betas" in options and "betas" not in owned and (args.adam_beta1, args.adam_beta2) != (0.9, 0.999):
        warnings.warn(
            f"--optim {name} does not read --adam_beta1 and --adam_beta2: use --optim_args betas=…", stacklevel=3
        )
    if "momentum" not in options or "betas" in options or not issubclass(registry.get(name).cls, MomentumOptimizer):
        return
    if args.learning_rate < SMALL_RATE:
        warnings.warn(
            f"--optim {name} is a heavy-ball optimizer: with learning_rate={args.learning_rate:g} it will hardly move. "
            "SGD needs far larger rates than AdamW: try 1e-2 to 1e-1",
            stacklevel=3,
        )
    if args.adam_beta1 != 0.9:
        warnings.warn(
            f"--optim {name} does not read adam_beta1={args.adam_beta1}: use --optim_args momentum={args.adam_beta1}",
            stacklevel=3,
        )
