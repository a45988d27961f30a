"""Decay and no-decay groups for people who write their own loop; Trainer makes its own."""

from typing import Any

from torch import nn


def param_groups(model: nn.Module, weight_decay: float = 1e-2) -> list[dict[str, Any]]:
    """Split the trainable parameters of `model` into a group with decay and one without, each parameter once.

    Biases, norm weights and other tensors with fewer than two dimensions do not decay. Tied parameters appear once; an
    empty group is left out, so the result can go straight into any torch optimizer.

    Args:
        model: any module.
        weight_decay: λ >= 0 of the first group.

    Raises:
        ValueError: no parameter requires a gradient.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("param_groups: no parameter of the model requires a gradient: there is nothing to train")
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
