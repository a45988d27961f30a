"""Program: torch's distributed checkpoints. Words: "save", "load", "hop" or "end", and the folder."""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from tests.distributed.model import make, sharded, train, weight_bits, weights
from tests.distributed.spawn import report
from tests.optim.problem import cls

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "TAM": ("TAM", {"rho": 0.2, "rescale": True, "lr": 0.05}),
    "AdaTAM": ("AdaTAM", {"alignment": "global", "torque_steps": 8}),
    "AdaTAMW": ("AdaTAMW", {"rho": 0.1, "rho_start": 2, "weight_decay": 0.1}),
    "AdamWMSAM": ("AdamWMSAM", {"maximize": False}),
    "AdamW": ("AdamW", {}),
}
FIRST, MIDDLE, LAST = 6, 8, 10
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def of(case: str, model: Any, **options: Any) -> Any:
    name, given = CASES[case]
    decay, rest = [p for p in model.parameters() if p.dim() > 1], [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay}, {"params": rest, "weight_decay": 0.0}]
    return (
        torch.optim.AdamW(groups, lr=1e-2) if name == "AdamW" else cls(name)(groups, **{"lr": 1e-2, **given, **options})
    )


def ways(case: str) -> list[str]:
    """How the checkpoint of a case was written."""
    return ["", "-flat", "-moved", "whole"] if case in ("TAM", "AdaTAMW") else [""]


def go_on(model: Any, optimizer: Any, first: int = FIRST) -> dict[str, Any]:
    train(model, optimizer, first, LAST)
    kept = {key: value for key, value in optimizer.param_groups[1].items() if key not in ("params", "scale")}
    kept["scale"] = float(optimizer.param_groups[1].get("scale", 0.0))
    scalars = [
        {key: value.item() for key, value in state.items() if value.dim() == 0} for state in optimizer.state.values()
    ]
    return {"weights": weights(model), "bits": weight_bits(model), "group": kept, "scalars": scalars}


def save(folder: Path) -> dict[str, Any]:
    found = {}
    for case in CASES:
        model = sharded(make())
        optimizer = of(case, model)
        train(model, optimizer, 0, FIRST)
        states = dict(zip(("model", "optim"), get_state_dict(model, optimizer), strict=True))
        dcp.save(states, checkpoint_id=folder / case)
        if len(ways(case)) == 1:
            found[case] = go_on(model, optimizer)
            continue
        flat = get_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True))
        dcp.save(dict(zip(("model", "optim"), flat, strict=True)), checkpoint_id=folder / f"{case}-flat")
        both = get_state_dict(model, optimizer, options=WHOLE)
        if dist.get_rank() == 0:
            torch.save(both, folder / f"{case}.pt")
        optimizer.train()  # as a signal handler would save it: with the weights at the perturbed point
        states = dict(zip(("model", "optim"), get_state_dict(model, optimizer), strict=True))
        dcp.save(states, checkpoint_id=folder / f"{case}-moved")
        optimizer.eval()
        found[case] = go_on(model, optimizer)
    return found


def hop(folder: Path) -> dict[str, Any]:
    """Two steps from the checkpoints in `folder`, and checkpoints of these."""
    for case in CASES:
        model, optimizer = load(folder, case, "")
        train(model, optimizer, FIRST, MIDDLE)
        states = dict(zip(("model", "optim"), get_state_dict(model, optimizer), strict=True))
        dcp.save(states, checkpoint_id=folder / f"{case}-hop")
    return {}


def end(folder: Path) -> dict[str, Any]:
    """The rest of the steps from what `hop` wrote."""
    return {case: go_on(*load(folder, case, "-hop"), first=MIDDLE) for case in CASES}


def load(folder: Path, case: str, suffix: str) -> tuple[Any, Any]:
    """Model and optimizer as a checkpoint has them."""
    model = sharded(make())
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    optimizer = of(case, model)
    if suffix == "whole":
        model_state, state = torch.load(folder / f"{case}.pt", weights_only=True)
        set_state_dict(model, optimizer, model_state_dict=model_state, optim_state_dict=state, options=WHOLE)
    else:
        options = StateDictOptions(flatten_optimizer_state_dict=suffix == "-flat")
        states = dict(zip(("model", "optim"), get_state_dict(model, optimizer, options=options), strict=True))
        dcp.load(states, checkpoint_id=folder / f"{case}{suffix}")
        set_state_dict(
            model, optimizer, model_state_dict=states["model"], optim_state_dict=states["optim"], options=options
        )
    if suffix == "-moved":
        assert all(group["moved"] for group in optimizer.param_groups)
        optimizer.eval()
    return model, optimizer


def unsharded(folder: Path, case: str) -> dict[str, Any]:
    """The whole state, loaded by a plain optimizer of a plain model."""
    model = make()
    optimizer = of(case, model)
    model_state, state = torch.load(folder / f"{case}.pt", weights_only=True)
    set_state_dict(model, optimizer, model_state_dict=model_state, optim_state_dict=state)
    return go_on(model, optimizer)


def refused(case: str) -> list[str]:
    """A plain optimizer's state_dict() put straight into a sharded one, and the other way round."""
    found = []
    for whole_first in (True, False):
        models = [make(), sharded(make())]
        optimizers = [of(case, model) for model in models]
        for model, optimizer in zip(models, optimizers, strict=True):
            train(model, optimizer, 0, 1)
        source, target = optimizers if whole_first else reversed(optimizers)
        try:
            target.load_state_dict(source.state_dict())
            found.append("nothing")
        except ValueError as error:
            found.append(str(error))
    return found


def main() -> None:
    dist.init_process_group("gloo")
    folder = Path(sys.argv[2])
    if sys.argv[1] != "load":
        report({"save": save, "hop": hop, "end": end}[sys.argv[1]](folder))
        return
    found: dict[str, Any] = {}
    for case in CASES:
        for suffix in ways(case):
            found[f"{case}|{suffix}"] = go_on(*load(folder, case, suffix))
        if dist.get_world_size() == 1 and "whole" in ways(case):
            found[f"{case}|unsharded"] = unsharded(folder, case)
    found["refused"] = refused("TAM")
    report(found)


if __name__ == "__main__":
    main()
