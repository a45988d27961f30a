"""What flattens tensors is refused before training begins: FSDP1 and DeepSpeed. Other people's optimizers may go on."""

import os
from typing import Any

from accelerate.utils import parse_flag_from_env
from torch.optim import Optimizer
from transformers import TrainingArguments

from tamft import registry
from tamft.errors import InputError
from tamft.hf.arguments import optim_name
from tamft.optim.base import MomentumOptimizer
from tamft.optim.sharded import CURE


def check_sharding(args: TrainingArguments, accelerator: Any = None, optimizer: Optimizer | None = None) -> None:
    """InputError where tamft's optimizer would be given flat shards in place of tensors.

    Looks at Trainer's flags and at what `accelerate launch` left in the environment, and at the `accelerator` once
    there is one. `optimizer`: one that was handed to Trainer and not named by `--optim`.
    """
    name = optim_name(args)
    cls = type(optimizer) if optimizer is not None else None if name is None else registry.get(name).cls
    if cls is None or not issubclass(cls, MomentumOptimizer):
        return
    reason = _flattened(args) or _flattened_by(accelerator)
    if reason is not None:
        raise InputError(
            f"{cls.__name__} cannot be trained with {reason}, which puts all tensors into one flat piece of memory and "
            f"divides that: a cosine per tensor would become one per piece, another algorithm. {CURE}"
        )


def _flattened(args: TrainingArguments) -> str | None:
    if args.deepspeed:
        return "--deepspeed"
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        return "DeepSpeed (`distributed_type: DEEPSPEED` of accelerate)"
    config = args.fsdp_config if isinstance(args.fsdp_config, dict) else {}
    if args.fsdp:
        if config.get("xla") and not config.get("xla_fsdp_v2"):
            return "the FSDP of torch_xla"
        # Known once TrainingArguments have read --fsdp_config; the default is another in each version of transformers.
        version = (getattr(args, "fsdp_plugin_args", None) or {}).get("fsdp_version", config.get("version"))
        return "--fsdp and version 1" if version is not None and int(version) == 1 else None
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION", "1") == "1":
        return "FSDP1 (`distributed_type: FSDP` of accelerate without `fsdp_version: 2`)"
    return None


def _flattened_by(accelerator: Any) -> str | None:
    state = getattr(accelerator, "state", None)
    if getattr(state, "deepspeed_plugin", None) is not None:
        return "DeepSpeed"
    plugin = getattr(state, "fsdp_plugin", None)
    return "FSDP1" if plugin is not None and getattr(plugin, "fsdp_version", 1) == 1 else None
