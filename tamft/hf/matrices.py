"""Optimizers that take matrices only (torch.optim.Muon): the hidden matrices to them, everything else to AdamW."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer


def hidden_matrices(model: nn.Module) -> frozenset[int]:
    """Ids of the 2-D weights inside repeated layers (an nn.ModuleList), embeddings left out.

    Embeddings, heads and poolers stand outside of the layers; norms and biases are no matrices.
    """
    layers = [inner for outer in model.modules() if isinstance(outer, nn.ModuleList) for inner in outer.modules()]
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    own = (p for layer in layers for p in layer.parameters(recurse=False))
    return frozenset(id(p) for p in own if p.ndim == 2 and p.requires_grad and id(p) not in embeddings)


class MatrixAndAdamW(Optimizer):
    """`matrix` for the parameters in `hidden`, AdamW for the others, as one optimizer with one state and one schedule.

    Args:
        params: Trainer's parameter groups; each is split in two, so that its weight decay stays its own.
        matrix: the class for matrices.
        hidden: ids of the parameters that go there.
        matrix_options: keyword arguments for `matrix`.
        adamw_options: keyword arguments for AdamW.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        matrix: type[Optimizer],
        hidden: frozenset[int],
        matrix_options: dict[str, Any],
        adamw_options: dict[str, Any],
    ) -> None:
        groups = [group if isinstance(group, dict) else {"params": [group]} for group in params]
        self.parts: dict[bool, Optimizer] = {}
        for inside, cls, options in ((True, matrix, matrix_options), (False, AdamW, adamw_options)):
            split = [
                {**group, "params": [p for p in group["params"] if (id(p) in hidden) is inside], "matrix": inside}
                for group in groups
            ]
            if split := [group for group in split if group["params"]]:
                self.parts[inside] = cls(split, **options)
        super().__init__([group for part in self.parts.values() for group in part.param_groups], {})
        # Nothing is built from these: they are for those who record what an optimizer was set to.
        self.defaults = {key: value for part in reversed(self.parts.values()) for key, value in part.defaults.items()}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both. With a `closure`, returns what it returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for inside, part in self.parts.items():
            # Anew each time: loading a state, or accelerate under FSDP, puts other objects into this optimizer.
            part.param_groups = [group for group in self.param_groups if group["matrix"] is inside]
            part.state = self.state
            part.step()
        return loss
