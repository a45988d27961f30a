"""Program: a problem whose tensors are DTensors, against the same run in one process. Words: which part to run."""

import sys
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from tests.distributed.counting import check_that_it_counts, collectives
from tests.distributed.spawn import report
from tests.optim.cases import CASES, FEW
from tests.optim.problem import GROUPS, Problem, apart, bits, cls, groups_of, learning_rate, run_tamft

SHAPES = ((5, 3), (7,), (), (1,), (2, 3, 4))
STEPS = 16
COUNTED = (0, 1, 5, 15)  # steps


class Spread(Problem):
    """The problem with its tensors laid out over processes by `layout(index, tensor)`."""

    def lay_out(self, layout: Any) -> "Spread":
        self.layout = layout
        return self

    def spread(self, index: int, x: Any, dtype: torch.dtype) -> torch.Tensor:
        return self.layout(index, torch.tensor(x, dtype=dtype))

    def parameters(self, dtype: torch.dtype) -> list[Any]:
        lists = (self.curvature, self.centre, *self.noises)
        self.numbers = [[shard(self.spread(i, x, dtype)) for i, x in enumerate(xs)] for xs in lists]
        return [torch.nn.Parameter(self.spread(i, x, dtype)) for i, x in enumerate(self.start)]

    def set_gradients(self, step: int, parameters: list[Any]) -> None:
        # In the shards: DTensor's own arithmetic takes most of the time.
        h, c, *noises = self.numbers
        for i, p in enumerate(parameters):
            here = shard(p.detach())
            g = h[i] * (here - c[i]) + noises[step][i]
            p.grad = None if self.missing(step, i) else like(g, p)


def shard(x: torch.Tensor) -> torch.Tensor:
    return x.to_local() if isinstance(x, DTensor) else x


def like(here: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """A tensor that is spread as `p` is, from what this process has of it."""
    if not isinstance(p, DTensor):
        return here
    return DTensor.from_local(here, p.device_mesh, p.placements, shape=p.shape, stride=p.stride())


def whole(params: list[Any]) -> list[torch.Tensor]:
    return [p.detach().full_tensor() if isinstance(p, DTensor) else p.detach() for p in params]


def by_first_dimension(mesh: Any) -> Any:
    """FSDP2's layout: everything is divided along its first dimension, also what has fewer rows than processes."""
    return lambda index, x: distribute_tensor(x, mesh, [Shard(0) if x.dim() else Replicate()])


def drive(problem: Problem, name: str, dtype: torch.dtype, options: dict[str, Any]) -> tuple[list[Any], Any, Any]:
    """All steps; and the numbers of collectives in train() and in step(), for the steps in `COUNTED`."""
    params = problem.parameters(dtype)
    optimizer = cls(name)(groups_of(params, GROUPS), **options)
    counts = {}
    for step in range(problem.steps):
        count = collectives if step in COUNTED else nullcontext
        with count() as ahead:
            optimizer.train()
        problem.set_gradients(step, params)
        with count() as update:
            optimizer.step()
        if step in COUNTED:
            counts[step] = (*ahead, *update)
    return params, optimizer, counts


def missing(step: int, index: int) -> bool:
    return index == 1 and step % 5 == 2


def compare(layout: Any, cases: list[Any], dtype: torch.dtype = torch.float64, shapes: Any = SHAPES) -> Any:
    """Per case: what all processes must agree on, and in the first one the distance to the run of one process."""
    found = {}
    for label, name, given in cases:
        options = {"lr": learning_rate(name), "foreach": False, **given}
        problem = {"shapes": shapes, "steps": STEPS, "missing": missing}
        if options.get("maximize"):
            problem["concave"] = tuple(range(5))
        params, optimizer, counts = drive(Spread(**problem).lay_out(layout), name, dtype, options)
        numbers, weights = optimizer.telemetry(), whole(params)
        found[label] = {"numbers": numbers, "bits": [bits(x) for x in weights]}
        if dist.get_rank() == 0:
            alone = Problem(**problem)
            expected, single = run_tamft(name, alone, dtype=dtype, drive="train", **options)
            theirs = single.telemetry()
            assert set(numbers) == set(theirs)
            found[label] |= {
                "apart": apart(weights, expected, alone.start),
                "collectives": counts,
                "telemetry": max(abs(numbers[key] - theirs[key]) for key in theirs),
                "backend": optimizer.backend,
            }
    return found


def strided(mesh: Any) -> Any:
    """FSDP2 over tensor parallelism: both divide the first dimension, the shards lie in strides."""

    def layout(index: int, x: torch.Tensor) -> torch.Tensor:
        module = torch.nn.Module()
        module.p = torch.nn.Parameter(distribute_tensor(x, mesh["tp"], [Shard(0)]))
        fully_shard(module, mesh=mesh["dp"])
        return module.p.detach()

    return layout


def main() -> None:
    part = sys.argv[1]
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    check_that_it_counts(mesh)
    layout = by_first_dimension(mesh)
    few = [(f"{name}-{','.join(options) or 'default'}", name, options) for name, options in FEW]
    if part == "all":
        report({"float64": compare(layout, CASES)})
    elif part == "few":
        foreach = [(f"{label}, foreach", name, {**options, "foreach": True}) for label, name, options in few]
        capturable = [
            (f"{label}, capturable", name, {**options, "capturable": True}) for label, name, options in foreach
        ]
        low = {"allow_low_precision": True}
        bf16 = [(f"{label}, {key}", name, {**options, **low, key: True})
                for label, name, options in few for key in ("kahan_sum", "allow_low_precision")]  # fmt: skip
        found = {"float64": compare(layout, few + capturable), "bfloat16": compare(layout, bf16, torch.bfloat16)}
        if dist.get_world_size() == 2:
            found["float32"] = compare(layout, few + foreach, torch.float32)
        report(found)
    else:
        square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        places: dict[str, list[Any]] = {
            "replicate x shard": [(square, [Replicate(), Shard(0)])] * 5,
            "shard x shard": [(square, [Shard(0), Shard(0)])] * 5,
            "shards of columns": [(square, [Shard(0), Shard(x)]) for x in (1, 0, 0, 0, 2)],
            "several meshes": [
                (square, [Replicate(), Shard(0)]),
                (mesh, [Shard(0)]),
                None,
                (square["tp"], [Shard(0)]),
                (square, [Shard(1), Replicate()]),
            ],
        }
        some = [few[i] for i in (1, 2, 6)]  # per tensor, global, no torque; two with rho
        found = {}
        for label, rows in places.items():

            def layout(index: int, x: torch.Tensor, rows: Any = rows) -> torch.Tensor:
                return distribute_tensor(x, *rows[index]) if rows[index] and x.dim() else x

            found[label] = compare(layout, some)
        found["strided"] = compare(strided(square), some, shapes=((8, 3), (4,), (12, 2), (4, 1, 3), (4,)))
        report(found)


if __name__ == "__main__":
    main()
