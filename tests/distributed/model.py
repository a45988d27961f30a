"""A small model with uneven tensors, its data, and steps that do not depend on how many processes share them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tests.optim.problem import bits

ROWS = 12  # divisible by 1, 2 and 3 processes


def make(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1))
    return model.to(dtype)


def sharded(model: nn.Sequential) -> nn.Sequential:
    """FSDP2: a group for each linear layer, the norm with the root; the last bias has fewer rows than processes."""
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(model)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    return model


def batch(step: int, dtype: torch.dtype, *, share: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """This process's share of the batch of a step; all of it with `share=False` or in a single process."""
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(ROWS, 6, generator=generator, dtype=torch.float64).to(dtype)
    y = x[:, :1] * x[:, 1:2] + 0.1
    if not share or not dist.is_initialized():
        return x, y
    n = ROWS // dist.get_world_size()
    mine = slice(dist.get_rank() * n, (dist.get_rank() + 1) * n)
    return x[mine], y[mine]


def train(
    model: nn.Module,
    optimizer: Any,
    first: int,
    last: int,
    *,
    share: bool = True,
    before_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Steps `first` … `last` - 1, with the weights at the perturbed point while the gradient is taken."""
    dtype = next(model.parameters()).dtype
    for step in range(first, last):
        if hasattr(optimizer, "train"):
            optimizer.train()
        optimizer.zero_grad()
        x, y = batch(step, dtype, share=share)
        (model(x) - y).square().mean().backward()
        before_step(step)
        optimizer.step()


def weights(model: nn.Module) -> list[torch.Tensor]:
    """All weights, whole: a collective where they are sharded."""
    return [p.detach().full_tensor() if isinstance(p, DTensor) else p.detach().clone() for p in model.parameters()]


def distance(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """The largest difference of two weights."""
    return max((x.double() - y.double()).abs().max().item() for x, y in zip(a, b, strict=True))


def weight_bits(model: nn.Module) -> list[bytes]:
    return [bits(x) for x in weights(model)]
