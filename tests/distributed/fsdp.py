"""Program: torch's fully_shard on a model, with what surrounds an optimizer: clipping, GradScaler, frozen parts."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from tamft.optim.sharded import local
from tests.distributed.model import batch, distance, make, sharded, train, weight_bits, weights
from tests.distributed.spawn import report
from tests.optim.cases import FEW
from tests.optim.problem import cls, learning_rate

STEPS = 10


def of(name: str, params: Any, options: dict[str, Any]) -> Any:
    if name == "AdamW":
        return torch.optim.AdamW(params, lr=1e-2, weight_decay=0.1, foreach=False)
    return cls(name)(params, **{"lr": learning_rate(name), "weight_decay": 0.1, "foreach": False, **options})


def clipped(model: nn.Module) -> Any:
    return lambda step: torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)


def pair(name: str, options: dict[str, Any], prepare: Any = lambda model: model) -> list[tuple[nn.Module, Any, bool]]:
    """(model, optimizer, whether its batches are shared): one over all processes, and one on its own."""
    both = []
    for share in (True, False):
        model = prepare(make())
        model = sharded(model) if share else model
        both.append((model, of(name, [p for p in model.parameters() if p.requires_grad], options), share))
    return both


def clipping(name: str, options: dict[str, Any]) -> Any:
    both = pair(name, options)
    for model, optimizer, share in both:
        train(model, optimizer, 0, STEPS, share=share, before_step=clipped(model))
    return outcome(both)


def outcome(both: list[tuple[nn.Module, Any, bool]]) -> dict[str, Any]:
    ours, alone = weights(both[0][0]), weights(both[1][0])
    assert distance(alone, weights(make())) > 0.02, "the run hardly moved: it proves nothing"
    return {"apart": distance(ours, alone), "bits": weight_bits(both[0][0])}


def frozen(name: str, options: dict[str, Any]) -> Any:
    """A frozen layer, and one that has a gradient at every third step only."""

    def prepare(model: nn.Sequential) -> nn.Sequential:
        model[0].requires_grad_(False)
        return model

    both = pair(name, options, prepare)
    for model, optimizer, share in both:
        for step in range(STEPS):
            if hasattr(optimizer, "train"):
                optimizer.train()
            optimizer.zero_grad()
            x, y = batch(step, torch.float64, share=share)
            (model(x) - y).square().mean().backward()
            if step % 3:
                for p in model[3].parameters():
                    p.grad = None
            optimizer.step()
    return outcome(both)


def scaled(name: str, options: dict[str, Any]) -> Any:
    """GradScaler meets an infinite gradient in the shard of one process, at step 4: no process may step."""
    both = pair(name, options)
    skipped = []
    for model, optimizer, share in both:
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        for step in range(STEPS):
            if hasattr(optimizer, "train"):
                optimizer.train()
            optimizer.zero_grad()
            x, y = batch(step, torch.float64, share=share)
            scaler.scale((model(x) - y).square().mean()).backward()
            if step == 4 and (not share or dist.get_rank() == dist.get_world_size() - 1):
                local(model[0].weight.grad)[-1, 0] = float("inf")
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            skipped.append(scaler.get_scale() < before)
            if hasattr(optimizer, "eval"):
                optimizer.eval()  # a step that was skipped has left the weights perturbed
    return outcome(both) | {"skipped": skipped}


def swapped(name: str, options: dict[str, Any]) -> Any:
    """The optimizer is made first and gets the sharded parameters afterwards, as accelerate does it."""
    both = pair(name, options)
    model = make()
    optimizer = of(name, model.parameters(), {**options, "foreach": None})
    before = optimizer.backend
    sharded(model)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    both[0] = (model, optimizer, True)
    for each, its, share in both:
        train(each, its, 0, STEPS, share=share)
    return outcome(both) | {"backends": (before, optimizer.backend)}


def compiled(name: str, options: dict[str, Any]) -> Any:
    """step() and train() through torch.compile: they run as they are."""
    both = pair(name, options)
    (model, optimizer, _), (alone, its, _) = both
    step, ahead = (torch.compile(verb, backend="aot_eager") for verb in (optimizer.step, optimizer.train))
    for i in range(4):
        ahead()
        optimizer.zero_grad()
        x, y = batch(i, torch.float64)
        (model(x) - y).square().mean().backward()
        step()
    train(alone, its, 0, 4, share=False)
    return outcome(both)


def refused() -> dict[str, str]:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    spread = nn.Parameter(distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)]))
    partial = nn.Parameter(DTensor.from_local(torch.ones(4, 2), mesh, [Partial()]))
    plain = nn.Parameter(torch.ones(4, 2))

    def step_with(p: nn.Parameter, g: torch.Tensor, swap: nn.Parameter | None = None) -> Any:
        def attempt() -> None:
            optimizer = cls("TAM")([p], fused=None if swap is None else True)
            if swap is not None:
                optimizer.param_groups[0]["params"] = [swap]
            (p if swap is None else swap).grad = g
            optimizer.step()

        return attempt

    attempts = {
        "fused": lambda: cls("AdaTAMW")([spread], fused=True),
        "fused, swapped": step_with(plain, torch.zeros_like(spread), spread),
        "differentiable": lambda: cls("AdaTAMW")([spread], differentiable=True),
        "partial": lambda: cls("AdaTAMW")([partial]),
        "plain gradient": step_with(spread, torch.ones(4, 2)),
    }
    found = {}
    for key, attempt in attempts.items():
        try:
            attempt()
            found[key] = "nothing"
        except RuntimeError as error:
            found[key] = str(error)
    # Tensor parallelism leaves gradients of replicated tensors as parts.
    p = nn.Parameter(distribute_tensor(torch.zeros(3), mesh, [Replicate()]))
    p.grad = DTensor.from_local(torch.tensor([1.0, 2.0, 3.0]), mesh, [Partial()])
    cls("TAM")([p], lr=1.0, torque=False).step()
    found["parts"] = str((-p.detach().to_local() / dist.get_world_size()).tolist())
    return found


def main() -> None:
    dist.init_process_group("gloo")
    found: dict[str, Any] = {"refused": refused()}
    control = [*FEW, ("AdamW", {})]
    some = [FEW[1], FEW[2], FEW[6], ("AdamW", {})]
    for key, check, cases in (
        ("clipping", clipping, control),
        ("frozen", frozen, some),
        ("scaled", scaled, some),
        ("swapped", swapped, FEW[4:6]),
        ("compiled", compiled, FEW[4:5]),
    ):
        for name, options in cases:
            found[f"{key}-{name}-{','.join(options) or 'default'}"] = check(name, options)
    report(found)


if __name__ == "__main__":
    main()
