"""How many collectives something costs, whoever starts them. (torch's CommDebugMode also counts, ten times slower.)"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode


class _Counter(TorchDispatchMode):
    times = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # so that DTensor starts its collectives where they are seen
        around = ("wait_tensor", "_wrap_tensor_autograd")  # DTensor's, to each of its collectives
        self.times += func.namespace in ("c10d", "_c10d_functional") and func.overloadpacket.__name__ not in around
        return func(*args, **(kwargs or {}))


@contextmanager
def collectives() -> Iterator[list[int]]:
    """A list that holds, afterwards, the number of collectives in between: ours and those of DTensor."""
    found: list[int] = []
    with _Counter() as counter:
        yield found
    found.append(counter.times)


def check_that_it_counts(mesh: Any = None) -> None:
    with collectives() as found:
        dist.all_reduce(torch.ones(1))
    assert found == [1], found
    if mesh is not None:
        spread = distribute_tensor(torch.ones(4), mesh, [Shard(0)])
        with collectives() as found:
            spread.full_tensor()
            (spread.sum() * 2).full_tensor()
        assert found == [2], found
