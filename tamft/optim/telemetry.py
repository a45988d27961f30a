"""What the optimizer is doing, as numbers for a log. The only code that waits for the device."""

from typing import Any

import torch


@torch.no_grad()
def statistics(groups: list[dict[str, Any]], states: list[dict[str, Any]], square: float) -> dict[str, float]:
    """Mean, spread and quantiles (.1, .5, .9) over tensors of ŝ and d; |m|; ρ.

    Args:
        groups: the optimizer's parameter groups.
        states: states of the parameters that have momentum; ŝ is their `alignment`.
        square: |m|² over all of them.

    Returns:
        alignment_{mean,std,q10,q50,q90} and damping_{…} where there is torque; momentum_norm; rho where some group has
        rho > 0 (0 during `rho_start`).
    """
    values: dict[str, float] = {}
    alignment = [state["alignment"].double().cpu() for state in states if "alignment" in state]
    if alignment:
        s_hat = torch.stack(alignment)
        for name, x in (("alignment", s_hat), ("damping", (1 + s_hat) / 2)):
            q10, q50, q90 = torch.quantile(x, torch.tensor([0.1, 0.5, 0.9], dtype=x.dtype)).tolist()
            values |= {f"{name}_mean": x.mean().item(), f"{name}_std": x.std(correction=0).item()}
            values |= {f"{name}_q10": q10, f"{name}_q50": q50, f"{name}_q90": q90}
    values["momentum_norm"] = square**0.5
    rho = max(group["rho"] for group in groups)
    if rho > 0:
        steps = max(state["step"].item() for state in states)
        values["rho"] = float(rho) if steps >= groups[0]["rho_start"] else 0.0
    return values
