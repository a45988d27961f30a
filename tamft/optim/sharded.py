"""Tensors whose elements are spread over processes: DTensor (FSDP2, HSDP), and the kinds that cannot be had.

A shard is updated where it lies, as if it were a tensor of its own. Only cosines and norms need what the others hold:
the products of all tensors go into one vector, and each group of processes adds it up once. A tensor that is replicated
over a dimension of its mesh is not added up there, so every element counts once; a process whose shards are empty takes
part with zeros.

What a framework flattens cannot be served: a flat buffer does not say where a tensor ends, and a cosine per tensor is
the algorithm.
"""

import sys
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from tamft.optim.ops import square, wide

CURE = """Use FSDP2, which keeps tensors apart. In the file for `accelerate launch --config_file`:

    distributed_type: FSDP
    fsdp_config:
      fsdp_version: 2

With Trainer's own flags: --fsdp, and "version": 2 in --fsdp_config. In a loop of your own:
torch.distributed.fsdp.fully_shard. DDP works as well."""
_PLAIN = (Tensor, torch.nn.Parameter)


def spread(x: Tensor) -> bool:
    """Whether a tensor is a DTensor."""
    # By name: importing DTensor takes half a second, and nobody without one should wait for it.
    return type(x) not in _PLAIN and hasattr(x, "placements")


def _layout(x: Any) -> tuple[Any, tuple[Any, ...]]:
    """The mesh of processes and, for each dimension of it, what lies there."""
    return x.device_mesh, x.placements


def local(x: Tensor) -> Tensor:
    """What this process holds of a tensor: the shard of a DTensor, any other tensor itself."""
    return cast("Tensor", cast("Any", x).to_local()) if spread(x) else x


def is_sharded(groups: Sequence[dict[str, Any]]) -> bool:
    """Whether some parameter is a DTensor."""
    return any(spread(p) for group in groups for p in group["params"])


def gradient(p: Tensor) -> Tensor:
    """`p.grad`, spread over processes as `p` is. Raises RuntimeError where it cannot be."""
    g: Any = p.grad
    if not spread(p):
        return cast("Tensor", g)
    mesh, placements = _layout(p)
    if not spread(g) or _layout(g)[0] != mesh:
        raise RuntimeError(
            f"the gradient of a parameter that is a DTensor on {mesh} is "
            f"{f'on {_layout(g)[0]}' if spread(g) else 'a plain tensor'}: both must be spread over the same processes"
        )
    # Tensor parallelism leaves parts that are still to be added up on tensors that are replicated.
    return cast("Tensor", g if _layout(g)[1] == placements else g.redistribute(mesh, placements))


def add_up(parts: Sequence[Tensor], params: Sequence[Tensor]) -> list[Tensor]:
    """Sum each of `parts` over the processes that share the parameter next to it. One collective per process group.

    `parts` are equally long vectors that this process computed from its shards, all processes in the same order; those
    of tensors that are not spread stay as they are. float64 where the device has it.
    """
    known: dict[Any, tuple[Any, ...]] = {}
    waiting = [set(_process_groups(p, known)) for p in params]
    sums = list(parts)
    for group, kind in dict.fromkeys(pair for pairs in known.values() for pair in pairs):
        ours = [i for i, pairs in enumerate(waiting) if (group, kind) in pairs]
        home = sums[ours[0]].device
        vector = torch.stack([sums[i].to(home, wide(sums[i]), non_blocking=True) for i in ours])
        # Weights that FSDP2 keeps on the CPU belong to a mesh of GPUs, whose processes may be able to talk there alone.
        vector = vector if home.type == kind else vector.to(kind)
        torch.distributed.all_reduce(vector, group=group)
        for i, total in zip(ours, vector.to(home).unbind(), strict=True):
            sums[i] = total
    return sums


def square_of_all(params: Sequence[Tensor], ms: Sequence[Tensor]) -> Tensor:
    """The sum of |m|² over all tensors and processes, 0-d; `ms[i]` is what is here of the momentum of `params[i]`."""
    parts = add_up([square(m.reshape(-1)).reshape(1) for m in ms], params)
    device = parts[0].device
    return torch.stack([part.to(device, wide(part), non_blocking=True) for part in parts]).sum()


def _process_groups(p: Tensor, known: dict[Any, tuple[Any, ...]]) -> tuple[Any, ...]:
    """The groups of processes that hold different elements of `p`, one per dimension of its mesh that divides it, each
    with the kind of device that it talks on."""
    if not spread(p):
        return ()
    mesh, placements = _layout(p)
    key = (id(mesh), placements)
    if key not in known:
        split = [i for i, place in enumerate(placements) if not place.is_replicate() and mesh.size(i) > 1]
        known[key] = tuple((mesh.get_group(i), mesh.device_type) for i in split)
    return known[key]


def refuse(owner: str, groups: Sequence[dict[str, Any]], given: Sequence[tuple[int, int]] = ()) -> None:
    """Raise RuntimeError for parameters whose shards are not what the algorithm needs.

    `owner` is the class's name; `given`: how many tensors each group had when it was added, and how many dimensions the
    first of them.
    """
    for group in groups:
        for p in group["params"]:
            # FSDP1 marks its flat parameters, and with use_orig_params the views that it shows in their place.
            if getattr(p, "_fsdp_flattened", False):
                _refuse_flat(owner, "FSDP1 (FullyShardedDataParallel) flattens them")
            if hasattr(p, "ds_id"):
                _refuse_flat(owner, "DeepSpeed ZeRO-3 flattens them")
            if not spread(p):
                continue
            mesh, placements = _layout(p)
            if group["differentiable"]:
                raise RuntimeError(f"{owner}: differentiable=True does not work with sharded parameters (DTensor)")
            if any(place.is_partial() for place in placements):
                raise RuntimeError(
                    f"{owner}: a parameter is a DTensor with the placements {placements}: to update parts that are yet "
                    "to be added up is not to update the sum. Call p.redistribute() with Shard or Replicate first"
                )
            if mesh.get_coordinate() is None:
                raise RuntimeError(
                    f"{owner}: a parameter lies on {mesh}, which this process is no part of. Give each process the "
                    "parameters that it holds a part of"
                )
    for group, before in zip(groups, given, strict=False):
        # DeepSpeed puts one flat tensor, which is no Parameter, in the place of all and leaves no mark.
        if signature(group) == (1, 1) != before and type(group["params"][0]) is Tensor:
            _refuse_flat(owner, f"the {before[0]} of a group became one flat one, as DeepSpeed does it")


def signature(group: dict[str, Any]) -> tuple[int, int]:
    """How many tensors a group has, and how many dimensions the first of them."""
    params = group["params"]
    return len(params), params[0].dim() if params else 0


def _refuse_flat(owner: str, reason: str) -> None:
    raise RuntimeError(
        f"{owner} needs whole tensors, but {reason}: a cosine per tensor would become one per flat shard, another "
        f"algorithm. {CURE}"
    )


def refuse_zero_redundancy(owner: str, options: dict[str, Any]) -> None:
    """Raise RuntimeError inside torch's ZeroRedundancyOptimizer where an option needs the tensors of all processes.

    It gives each process whole tensors, but only some of them, and says so to nobody: it is found among the callers.
    """
    needs = [f"rho={options['rho']}"] if options["rho"] > 0 else []
    needs += ['alignment="global"'] if options.get("alignment") == "global" and options["torque"] else []
    if not needs or "torch.distributed.optim.zero_redundancy_optimizer" not in sys.modules:
        return
    frame = sys._getframe(1)
    for _ in range(6):
        if type(frame.f_locals.get("self")).__name__ == "ZeroRedundancyOptimizer":
            raise RuntimeError(
                f"{owner}: {' and '.join(needs)} needs all tensors, but ZeroRedundancyOptimizer hands each process "
                f"only some. {CURE}"
            )
        if frame.f_back is None:
            return
        frame = frame.f_back
