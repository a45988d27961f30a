"""What the CUDA kernels read: tables of addresses and hyper-parameters, the queue of work, and how they get there."""

import math
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tamft.optim.bucket import init_state
from tamft.optim.options import LOW_PRECISION

Groups = list[dict[str, Any]]
State = MutableMapping[Tensor, dict[str, Any]]

CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
REDUCE, WHOLE, WAITING, PLAIN = range(4)  # kinds of items, as in triton_kernels.py
# Elements of an item: large against its overhead (a ticket, a row of addresses), small against the L2.
CHUNK = 4096
# Elements that are reduced before they are updated: m and g of two such batches (18 MB each in float32) are found
# again in a large L2 (50 MB on Hopper).
BATCH = 2_250_000
_SPARES = 4  # uploads that graph captures may need before the host can allocate again


@dataclass(slots=True)
class Known:
    """What was found out about a parameter, and what must still be so for it to hold."""

    param: Tensor  # held, so that its id stays its own
    own: dict[str, Any]  # its state
    options: tuple[bool, bool]  # torque, rescale
    tensors: dict[str, Tensor]  # the entries of the state that the kernels use
    m: Tensor
    row: tuple[int, ...]  # P, M, V, S, D, STEP, N of triton_kernels.py
    place: int  # of |m|² among those of all parameters

    def holds(self, own: dict[str, Any] | None, options: tuple[bool, bool]) -> bool:
        return (
            own is self.own
            and options == self.options
            and self.param.data_ptr() == self.row[0]
            and self.m.data_ptr() == self.row[1]
            and all(own.get(key) is tensor for key, tensor in self.tensors.items())
        )


def device_of(groups: Groups) -> torch.device:
    params: list[Tensor] = [p for group in groups for p in group["params"][:1]]
    return params[0].device


def restore(groups: Groups, state: State) -> set[int]:
    """16-bit weights come back as the exact copies that `ahead()` made; returns their ids."""
    params = [
        p for group in groups for p in group["params"] if p.dtype in LOW_PRECISION and "clean" in state.get(p, ())
    ]
    if params:
        torch._foreach_copy_([p.detach() for p in params], [state[p].pop("clean") for p in params])
    return {id(p) for p in params}


def options_of(group: dict[str, Any]) -> tuple[bool, bool]:
    """Whether the group's state has ŝ, and D."""
    torque = bool(group.get("torque"))
    return torque, torque and group["rescale"]


def learn(p: Tensor, own: dict[str, Any], group: dict[str, Any], moment: str, place: int) -> Known:
    """Make the state of p complete and fit for the kernels: on p's device, float32, m and v laid out as p."""
    init_state(own, p, group, moment)
    torque, rescale = options_of(group)
    second = "exp_avg_sq" if moment == "exp_avg" else None
    keys = [moment, second, "alignment" if torque else None, "damping" if rescale else None, "step"]
    tensors = {}
    for key in filter(None, keys):
        x = own[key]
        fit = x.device == p.device and x.dtype == torch.float32
        if key in (moment, second):
            if not (fit and alike(x, p)):
                own[key] = torch.empty_like(p, dtype=torch.float32).copy_(x)
        elif not fit:
            own[key] = x.to(device=p.device, dtype=torch.float32, non_blocking=True)
        tensors[key] = own[key]
    row = (p.data_ptr(), *(tensors[key].data_ptr() if key else 0 for key in keys), p.numel())
    return Known(p, own, (torque, rescale), tensors, own[moment], row, place)


def alike(x: Tensor, p: Tensor) -> bool:
    """Whether element i of x's memory belongs to element i of p's. The strides of a dimension of 1 mean nothing."""
    if x.stride() == p.stride():
        return True
    return all(a == b or n == 1 for a, b, n in zip(x.stride(), p.stride(), p.shape, strict=True))


@dataclass(slots=True)
class Rows:
    """The tensors of one launch, in the order of the groups."""

    rows: list[int] = field(default_factory=list)
    grads: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    slots: int = 0
    codes: int = 0

    def add(
        self,
        known: Known,
        group: int,
        kind: int,
        *,
        grad: Tensor | None = None,
        back: bool = False,
        summed: bool = True,
    ) -> None:
        """Another tensor. `back`: the kernel brings it back to θ. `summed`: its pieces leave shares of a sum."""
        code = 3 * CODES[known.param.dtype] + (0 if grad is None else CODES[grad.dtype])
        size = known.row[-1]
        self.rows += known.row
        self.rows += (group, code, self.slots, pieces(size), known.place, back)
        # An empty tensor has no address, but it counts its steps: any number but 0 will do.
        self.grads.append(0 if grad is None else grad.data_ptr() or 16)
        self.sizes.append(size)
        self.kinds.append(kind)
        self.slots += pieces(size) if summed else 0
        self.codes |= 1 << code


def pieces(size: int) -> int:
    return max(1, -(-size // CHUNK))


def queue(sizes: list[int], kinds: list[int], shared: bool) -> Tensor:
    """The items of a launch in the order in which programs take them, int64.

    A batch is updated one batch after it was reduced, when its m and g are still in the L2 but its last reduction is
    done; backwards, because of a tensor larger than the L2 the end was read last. `shared`: one cosine, so one batch.
    """

    def items(tensor: int, kind: int) -> Tensor:
        return torch.arange(pieces(sizes[tensor])) * 2**32 + (4 * tensor + kind)

    batches: list[list[int]] = [[]]
    filled = 0
    for tensor, size in enumerate(sizes):
        if batches[-1] and filled + size > BATCH and not shared:
            batches.append([])
            filled = 0
        batches[-1].append(tensor)
        filled += size

    def whole(tensor: int) -> bool:
        return kinds[tensor] == WAITING and pieces(sizes[tensor]) == 1 and not shared

    reductions = [[items(t, REDUCE) for t in batch if kinds[t] == WAITING and not whole(t)] for batch in batches]
    updates = [[items(t, WHOLE if whole(t) else kinds[t]).flip(0) for t in reversed(batch)] for batch in batches]
    order = reductions[0]
    for i, update in enumerate(updates):
        order = order + (reductions[i + 1] if i + 1 < len(batches) else []) + update
    return torch.cat(order)


def hyper(group: dict[str, Any], decoupled: bool) -> list[float]:
    """A row of `hyper` in triton_kernels.py: LR … RHO."""
    beta1, beta2 = group["betas"] if "betas" in group else (group["momentum"], 0.0)
    rate, decay = group["lr"], float(group["weight_decay"])
    # A learning rate on the device is read there; one on the host may be looked at.
    lr = 0.0 if isinstance(rate, Tensor) and rate.is_cuda else float(rate)
    return [
        lr,
        beta1,
        beta2,
        *(math.log(beta) if beta > 0 else -math.inf for beta in (beta1, beta2)),
        group.get("eps", 0.0),
        decay if decoupled else 0.0,
        0.0 if decoupled else decay,
        group.get("gamma", 0.0),
        group.get("torque_eps", 0.0),
        -1.0 if group["maximize"] else 1.0,
        float(group["rho"]),
    ]


class Tables:
    """Device tensors by name, made again only when their key changed, always in new memory.

    While a CUDA graph is captured nothing that is made enters the cache (it is filled only by a replay), and all that
    is used is kept for ever: replays read it.
    """

    def __init__(self) -> None:
        self._made: dict[str, tuple[Any, Tensor]] = {}
        self._spares: dict[str, list[Tensor]] = {}
        self._kept: list[Tensor] = []
        self._device = torch.device("cpu")
        self._capturable = self._capturing = False
        self._stream: int | None = None

    def begin(self, device: torch.device, *, capturable: bool) -> None:
        """Before every launch: look where we are."""
        self._device, self._capturable = device, capturable
        if device.type != "cuda":
            return
        with torch.cuda.device(device):
            self._capturing = torch.cuda.is_current_stream_capturing()
        if not self._capturing:
            stream = torch.cuda.current_stream(device).cuda_stream
            if stream != self._stream:  # memory that goes back to its stream must not be read on another
                self._made.clear()
                self._stream = stream

    def make(self, name: str, key: Any, maker: Callable[[], Tensor]) -> Tensor:
        """maker() on the device, or what it gave when the key was the same."""
        made = self._made.get(name)
        if made is None or made[0] != key:
            made = (key, maker())
            if not self._capturing:
                self._made[name] = made
        if self._capturing:
            self._kept.append(made[1])
        return made[1]

    def send(self, name: str, key: Any, maker: Callable[[], Tensor]) -> Tensor:
        """As `make`, for a maker that works on the host."""
        return self.make(name, key, lambda: self._upload(name, maker()))

    def keep(self, *tensors: Tensor) -> None:
        """Tensors from elsewhere that the next launch uses."""
        if self._capturing:
            self._kept += tensors

    def forget(self) -> None:
        self._made.clear()

    def _upload(self, name: str, host: Tensor) -> Tensor:
        if self._device.type != "cuda":
            return host
        spares = self._spares.setdefault(name, [])
        if self._capturing and spares and spares[-1].numel() >= host.numel():
            pinned = spares.pop()[: host.numel()]
            pinned.copy_(host)
        else:
            pinned = host.pin_memory()
        # Pinned memory cannot be allocated while a graph is captured, so it is laid in before.
        while self._capturable and not self._capturing and len(spares) < _SPARES:
            spares.append(torch.empty_like(host).pin_memory())
        if self._capturing:
            self._kept.append(pinned)
        return pinned.to(self._device, non_blocking=True)
