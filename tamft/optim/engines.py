"""Which path takes a set of parameter groups: what is asked for, what is there, what can run."""

import importlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim.optimizer import _default_to_fused_or_foreach

from tamft.optim.bucket import on_device
from tamft.optim.sharded import local


def choose(
    table: Mapping[str, tuple[str, bool]], owner: str, groups: list[dict[str, Any]], moment: str, *, compiled: bool
) -> str | None:
    """The module in `table` (kind of device -> module, chosen unasked or not) whose fused path is to be taken, or None.

    `owner` is the class's name, `moment` the state key of m, `compiled` says that steps are compiled, which rules a
    fused path out unless it is asked for. Raises RuntimeError where fused=True cannot be had.
    """
    first = groups[0]
    asked = first["fused"]
    if asked is False or (asked is None and (first["foreach"] is not None or compiled)):
        return None
    kinds = {p.device.type for group in groups for p in group["params"]}
    name, unasked = table.get(next(iter(kinds)), (None, False)) if len(kinds) == 1 else (None, False)
    if name is None:
        reason = f"there is no fused path for parameters on {' and '.join(sorted(kinds)) or 'no device'}"
    elif first["differentiable"]:
        reason = "autograd cannot run through fused kernels (differentiable=True)"
    elif asked or unasked:
        try:
            reason = importlib.import_module(name).refusal(groups, moment)
        except ModuleNotFoundError as error:
            reason = f"it needs the package {error.name}, which is not installed"
        if reason is None:
            return name
    if asked:
        raise RuntimeError(f"{owner}: fused=True is not available: {reason}. Leave fused=None")
    return None


def multi_tensor(group: dict[str, Any]) -> bool:
    """Whether a group that no fused path takes is updated by torch's multi-tensor operations, as torch would choose."""
    if group["foreach"] is not None:
        return bool(group["foreach"])
    if isinstance(group["lr"], Tensor) and not on_device(group):
        return False
    # torch would not take a DTensor for a tensor; what is updated is the shard.
    return _default_to_fused_or_foreach([local(p) for p in group["params"]], group["differentiable"], use_fused=False)[
        1
    ]
