"""Loading a saved optimizer state without losing a bit of it.

torch.optim.Optimizer.load_state_dict casts every floating tensor but `step` to the parameter's dtype: float32 moments
of a bf16 parameter would come back as bf16. So the values are taken from the saved state itself.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.optimizer import StateDict

from tamft.optim.options import BACKEND, LOW_PRECISION, RANGES
from tamft.optim.sharded import spread

if TYPE_CHECKING:
    from tamft.optim.base import MomentumOptimizer

MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")


def refuse_foreign(optimizer: "MomentumOptimizer", incoming: StateDict, newest: int) -> None:
    """Raise ValueError if `incoming` was not written by this class's kind of optimizer, or by a newer tamft."""
    owner = type(optimizer).__name__
    for group in incoming.get("param_groups", []):
        if "tamft_format" not in group:
            raise ValueError(
                f"{owner}.load_state_dict: this state was not written by tamft (its groups have no `tamft_format`). "
                "Load it into the optimizer that wrote it, or start with a fresh state"
            )
        if group["tamft_format"] > newest:
            raise ValueError(
                f"{owner}.load_state_dict: the state has format {group['tamft_format']}, this version of tamft reads "
                f"up to {newest}: update tamft"
            )
        foreign = sorted(set(group) & set(RANGES) - set(optimizer.defaults))
        if foreign:
            raise ValueError(
                f"{owner}.load_state_dict: the state was written by an optimizer with the options "
                f"{', '.join(foreign)}, which {owner} has not. Load it into the class that wrote it"
            )
    for state in incoming.get("state", {}).values():
        if "step" in state and optimizer.moment not in state:
            raise ValueError(
                f"{owner}.load_state_dict: the state has no `{optimizer.moment}`: another kind of optimizer wrote it"
            )
    saved = (
        incoming.get("state", {}).get(i, {}) for group in incoming.get("param_groups", []) for i in group["params"]
    )
    for state, p in zip(saved, (p for group in optimizer.param_groups for p in group["params"]), strict=False):
        if optimizer.moment in state and spread(state[optimizer.moment]) != spread(p):
            raise ValueError(
                f"{owner}.load_state_dict: the state is that of {'whole' if spread(p) else 'sharded'} tensors, and the "
                f"parameters are {'sharded' if spread(p) else 'whole'}. Load it with set_optimizer_state_dict of "
                "torch.distributed.checkpoint.state_dict and StateDictOptions(full_state_dict=True), saved with "
                "get_optimizer_state_dict and the same options"
            )


def _precision(key: str, p: Tensor) -> torch.dtype | None:
    """The dtype of a state entry whatever it was saved in: a float64 run's state goes on in a float32 model."""
    own = torch.float32 if p.dtype in LOW_PRECISION else p.dtype
    return own if key in MOMENTS else own.to_real() if key in ("alignment", "damping") else None


def exact_state(optimizer: "MomentumOptimizer", incoming: StateDict, cast: dict[str, Any]) -> dict[str, Any]:
    """Return torch's own result `cast` = {"state", "param_groups"} with every tensor as it was saved.

    Only m, v, ŝ and D take the dtype that the state of `p` has: see `_precision`.
    """
    for group, own in zip(cast["param_groups"], optimizer.param_groups, strict=True):
        for name, value in optimizer.defaults.items():
            group.setdefault(name, value)
        group.update({name: own[name] for name in BACKEND if name in own})
        group.setdefault("moved", False)
        if "betas" in group:
            group["betas"] = tuple(group["betas"])  # distributed checkpoints make a list of it
        scale = group.get("scale", 0.0)
        group["scale"] = torch.as_tensor(scale, dtype=torch.float32).detach().clone()

    saved_ids = (i for group in incoming["param_groups"] for i in group["params"])
    owners = ((p, group) for group in cast["param_groups"] for p in group["params"])
    for saved_id, (p, group) in zip(saved_ids, owners, strict=True):
        for key, value in incoming["state"].get(saved_id, {}).items():
            if isinstance(value, Tensor):
                on_cpu = key == "step" and not group["capturable"]
                device = torch.device("cpu") if on_cpu else p.device
                cast["state"][p][key] = value.detach().to(
                    device=device, dtype=_precision(key, p) or value.dtype, copy=True
                )
    return cast
