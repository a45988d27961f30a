"""Program: torch's DistributedDataParallel and ZeroRedundancyOptimizer against one process with the same batches."""

from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from tests.distributed.counting import check_that_it_counts, collectives
from tests.distributed.model import distance, make, train, weight_bits, weights
from tests.distributed.spawn import report
from tests.optim.cases import FEW
from tests.optim.problem import cls, learning_rate

STEPS = 20


def of(name: str, params: Any, options: dict[str, Any]) -> Any:
    return torch.optim.AdamW(params, lr=1e-2) if name == "AdamW" else cls(name)(params, **options)


def parallel(name: str, options: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    model, alone = make(dtype), make(dtype)
    options = {"lr": learning_rate(name), **options}
    together = DistributedDataParallel(model)
    optimizer, single = of(name, model.parameters(), options), of(name, alone.parameters(), options)
    ours: list[int] = []

    step, ahead = optimizer.step, getattr(optimizer, "train", lambda: None)

    def counted(verb: Any) -> Any:
        def call() -> None:
            with collectives() as found:
                verb()
            ours.extend(found)

        return call

    optimizer.step = counted(step)
    optimizer.train = counted(ahead)
    train(together, optimizer, 0, STEPS)
    train(alone, single, 0, STEPS, share=False)
    assert distance(weights(alone), weights(make(dtype))) > 0.02
    return {
        "apart": distance(weights(model), weights(alone)),
        "bits": weight_bits(model),
        "collectives": sum(ours),
        "verbs": len(ours),
    }


def zero_redundancy(name: str, options: dict[str, Any]) -> Any:
    """torch's own ZeRO gives every process whole tensors, but only some."""
    model, alone = make(), make()
    options = {"lr": learning_rate(name), **options}
    together = DistributedDataParallel(model)
    with suppress(AttributeError):
        torch.distributed.optim.zero_redundancy_optimizer.logger.setLevel("ERROR")
    try:
        optimizer = ZeroRedundancyOptimizer(model.parameters(), cls(name), **options)
    except RuntimeError as error:
        return str(error)
    train(together, optimizer, 0, STEPS)
    train(alone, cls(name)(alone.parameters(), **options), 0, STEPS, share=False)
    return {"apart": distance(weights(model), weights(alone)), "bits": weight_bits(model)}


def fully_sharded_1(use_orig_params: bool, kind: Any) -> str:
    model = FullyShardedDataParallel(make(), use_orig_params=use_orig_params, device_id=torch.device("cpu"))
    try:
        optimizer = kind(model.parameters(), lr=0.1)
        train(model, optimizer, 0, 1)
    except RuntimeError as error:
        return str(error)
    return "nothing"


def main() -> None:
    dist.init_process_group("gloo")
    check_that_it_counts()
    found: dict[str, Any] = {}
    for name, options in [*FEW, ("AdamW", {})]:
        label = f"{name}-{','.join(options) or 'default'}"
        found[label] = parallel(name, options, torch.float64)
        found[f"{label}, float32"] = parallel(name, options, torch.float32)
    for name, options in [*FEW, ("AdamWMSAM", {"rho": 0.0}), ("MSAM", {"rho": 0.0})]:
        found[f"zero|{name}-{','.join(options) or 'default'}"] = zero_redundancy(name, options)
    found["fsdp1|flat"] = fully_sharded_1(False, cls("AdaTAMW"))
    found["fsdp1|original"] = fully_sharded_1(True, cls("AdaTAMW"))
    found["fsdp1|AdamW"] = fully_sharded_1(True, torch.optim.AdamW)
    report(found)


if __name__ == "__main__":
    main()
