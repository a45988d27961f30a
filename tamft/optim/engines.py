"""Which fused path takes a set of parameter groups: where there is one, where it is wanted, where it can run."""

import importlib
from collections.abc import Mapping
from typing import Any


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
        reason = importlib.import_module(name).refusal(groups, moment)
        if reason is None:
            return name
    if asked:
        raise RuntimeError(f"{owner}: fused=True is not available: {reason}. Leave fused=None")
    return None
