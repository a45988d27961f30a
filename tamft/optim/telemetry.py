"""What the optimizer is doing, as numbers for a log. The only code that waits for the device."""

from typing import Any

import torch
from torch import Tensor

from tamft.optim.ops import squares


@torch.no_grad()
def statistics(
    groups: list[dict[str, Any]], states: list[dict[str, Any]], moments: list[Tensor], square: float | None = None
) -> dict[str, float]:
    """Mean, spread and quantiles (.1, .5, .9) over tensors of ŝ and d; |m|; ρ.

    Args:
        groups: the optimizer's parameter groups.
        states: states of the parameters that have momentum; ŝ is their `alignment`.
        moments: m of the same parameters, real.
        square: |m|² over all of them, where the path keeps m in a form of its own.

    Returns:
        alignment_{mean,std,q10,q50,q90} and damping_{…} where there is torque; momentum_norm; rho where some group has
        rho > 0 (0 during `rho_start`). Empty before the first step.
    """
    if not moments:
        return {}
    values: dict[str, float] = {}
    alignment = [state["alignment"].double().cpu() for state in states if "alignment" in state]
    if alignment:
        s_hat = torch.stack(alignment)
        for name, x in (("alignment", s_hat), ("damping", (1 + s_hat) / 2)):
            q10, q50, q90 = torch.quantile(x, torch.tensor([0.1, 0.5, 0.9], dtype=x.dtype)).tolist()
            values |= {f"{name}_mean": x.mean().item(), f"{name}_std": x.std(correction=0).item()}
            values |= {f"{name}_q10": q10, f"{name}_q50": q50, f"{name}_q90": q90}
    values["momentum_norm"] = (squares(moments).item() if square is None else square) ** 0.5
    rho = max(group["rho"] for group in groups)
    if rho > 0:
        steps = max(state["step"].item() for state in states)
        values["rho"] = float(rho) if steps >= groups[0]["rho_start"] else 0.0
    return values
