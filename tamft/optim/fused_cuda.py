"""The fused path on CUDA: what is to be done by the kernels of `triton_kernels.py`, and their launches.

A step is one memset of a small workspace and one launch, whatever the number of tensors; the way to the perturbed point
is one launch more. The host never waits for the device: it compares addresses and hyper-parameters with those it sent
last, and sends a table again only where something changed.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from tamft.optim import cuda_tables as tables
from tamft.optim import triton_kernels as kernels
from tamft.optim import updates
from tamft.optim.bucket import compensated
from tamft.optim.cuda_tables import PLAIN, WAITING, Groups, Known, Rows, State, options_of
from tamft.optim.options import LOW_PRECISION

# Fixed, never tuned by trial: a trial launch would update the weights.
BLOCK = 512  # elements that a program updates at once: 4, or 16 bytes, per thread; it reduces twice as many
SUM = 512  # partial sums that a program adds up at once
WARPS = 4
REGISTERS = 64  # per thread: more would let fewer programs hide each other's waiting; 64-100 bytes of scalars spill
RESIDENT = 8  # programs per multiprocessor

OLDEST = (3, 6)  # Triton
INTERPRETED = not isinstance(kernels.step_kernel, triton.runtime.JITFunction)


def refusal(groups: Groups, moment: str) -> str | None:
    """Why these parameters cannot take this path, in words, or None. Both values of `moment` can."""
    if tuple(int(number) for number in triton.__version__.split(".")[:2]) < OLDEST:
        return f"the kernels were not tried with Triton {triton.__version__}, only from 3.6 on"
    if groups[0]["differentiable"]:
        return "autograd cannot run through fused kernels (differentiable=True)"
    if any(compensated(p, group) for group in groups for p in group["params"]):
        return "these kernels do not know kahan_sum of 16-bit weights"
    params = [p for group in groups for p in group["params"]]
    for p in params:
        if type(p) not in (Tensor, torch.nn.Parameter):
            return f"a parameter is a {type(p).__name__}, whose memory is not one plain block"
        if p.layout != torch.strided or p.dtype not in tables.CODES:
            return f"a parameter is {p.dtype} ({p.layout}); the kernels know float32, bfloat16 and float16"
        if not (p.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(p)):
            return "a parameter is a view with gaps in memory"
        if p.device != params[0].device:
            return f"the parameters are on several devices ({params[0].device} and {p.device})"
    device = params[0].device if params else torch.device("cpu")
    if INTERPRETED:
        return None if device.type == "cpu" else "Triton runs in its interpreter (TRITON_INTERPRET=1)"
    if device.type != "cuda" or torch.version.hip is not None:
        return "the kernels are for NVIDIA GPUs"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the kernels need a GPU of compute capability 8.0 or above"
    return None


class Engine:
    """The fused path of one optimizer: caches only, nothing that a checkpoint needs."""

    def __init__(self, moment: str, decoupled: bool) -> None:
        self.moment, self.decoupled = moment, decoupled
        self._tables = tables.Tables()
        self.forget()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.moment, self.decoupled)  # a copy starts without caches: they are addresses

    def forget(self) -> None:
        """The state was replaced: drop every cache."""
        self._tables.forget()
        self._known: dict[int, Known] = {}
        self._places: dict[int, int] = {}
        self._squares: Tensor | None = None  # |m|² of each parameter, by place
        self._summed: dict[int, tuple[int, int]] = {}  # of which m (address and version), by place
        self._products: Tensor | None = None

    def settle(self) -> None:
        """The state is as every path keeps it (`step` counts on the device). Only |m|² is added up anew, as it is in a
        run that is resumed from here: so both go on with the same bits."""
        self._summed.clear()

    def square(self, groups: Groups, state: State) -> None:
        """None: |m|² is to be had from the state, where m is as it is."""

    @property
    def applied(self) -> Tensor | None:
        """Cosine between applied and intended perturbation of the 16-bit weights at the last `ahead()`, if any."""
        return None if self._products is None else updates.cosine(self._products.sum(1))

    # ---- the three verbs ----------------------------------------------------------------------------------------

    def step(
        self,
        groups: Groups,
        state: State,
        scales: list[Tensor | None],
        *,
        grad_scale: Tensor | None = None,
        found_inf: Tensor | None = None,
    ) -> None:
        """One update of every parameter that has a gradient; `scales[i]`: ρ/|m| where group i is at θ̃, else None.

        `found_inf` (one number) of 1: only the way back is done. Gradients are divided by `grad_scale` (one number),
        but not overwritten.
        """
        shared = groups[0].get("alignment") == "global" and any(group.get("torque") for group in groups)
        restored = tables.restore([g for g, scale in zip(groups, scales, strict=True) if scale is not None], state)
        rows, written = Rows(), []
        copies: list[Tensor] = []  # alive until the launch is queued
        for i, group in enumerate(groups):
            moved, options = scales[i] is not None, options_of(group)
            kind = WAITING if shared or options[0] else PLAIN
            for p in group["params"]:
                grad = p.grad
                if grad is None and not moved:
                    continue
                known = self._look(p, state, group, options, new=grad is not None)
                if known is None:
                    continue
                back = moved and id(p) not in restored
                if grad is None:
                    rows.add(known, i, PLAIN, back=back, summed=False)
                    continue
                if grad.dtype not in (p.dtype, torch.float32) or not tables.alike(grad, p):
                    dtype = p.dtype if grad.dtype == p.dtype else torch.float32
                    grad = torch.empty_like(p, dtype=dtype).copy_(grad)
                    copies.append(grad)
                rows.add(known, i, kind, grad=grad, back=back)
                written.append(known)
        if not rows.sizes:
            return

        device, norm = self._begin(groups), any(group["rho"] > 0 for group in groups)
        squares, count = self._square_buffer(device), len(rows.sizes)
        refs, hyper, used = self._group_tables(groups, scales, device)
        layout = (rows.sizes, rows.kinds, shared)
        items = self._tables.send("items", layout, lambda: tables.queue(*layout))
        work = self._tables.make("work", count, lambda: torch.zeros(32 + 3 * count, dtype=torch.int32, device=device))
        size = 4 * rows.slots + count
        shares = self._tables.make("shares", size, lambda: torch.empty(size, dtype=torch.float64, device=device))
        scaler = [x if x is None else x.to(device, torch.float32, non_blocking=True) for x in (grad_scale, found_inf)]
        work.zero_()
        self._launch(
            kernels.step_kernel, items.numel(),
            items, self._table("rows", rows.rows, torch.int64), self._table("grads", rows.grads, torch.int64),
            refs, hyper, work, shares, squares, *scaler,
            items.numel(), rows.slots, count, groups[0].get("torque_steps") or 0,
            ADAM=self.moment == "exp_avg",
            EMA=self.moment == "exp_avg" and groups[0].get("first_moment", "ema") == "ema",
            GLOBAL=shared,
            NORM=norm,
            KINDS=rows.codes,
        )  # fmt: skip
        self._tables.keep(*used, *copies, *(x for x in scaler if x is not None))
        self._note(written, norm=norm, certain=found_inf is None)

    def ahead(self, groups: Groups, state: State, started: Tensor | bool) -> None:
        """Move the groups with rho > 0 that are not moved to θ̃ and set their `scale` = ρ/|m|, over all of the groups.

        `started` False (or a tensor that holds it): the scale is 0.
        """
        groups = [group for group in groups if group["rho"] > 0]
        rows, exact, place = Rows(), [], []
        stale: list[Known] = []
        for i, group in enumerate(groups):
            for known in self._moving(group, state):
                place.append(known.place)
                if self._summed.get(known.place) != (known.row[1], known.m._version):
                    stale.append(known)
                if not group["moved"]:
                    rows.add(known, i, PLAIN, summed=False)
                    if known.param.dtype in LOW_PRECISION:
                        exact.append(known)
        if not rows.sizes or started is False:
            for group in groups:
                if not group["moved"]:
                    group["scale"] = torch.zeros((), device=tables.device_of(groups))
            return
        device = self._begin(groups)
        self._sum_squares(stale, device)
        clean = [torch.empty_like(known.param) for known in exact]
        if exact:
            torch._foreach_copy_(clean, [known.param.detach() for known in exact])
        for known, copy in zip(exact, clean, strict=True):
            known.own["clean"] = copy
        for group in groups:
            # The same tensor every time: its address is in a table, and in captured graphs.
            if not group["moved"] and group["scale"].device != device:
                group["scale"] = torch.zeros((), device=device)
        products = self._displace(groups, rows, device, place=place, started=None if started is True else started)
        self._products = products if exact else None

    def back(self, groups: Groups, state: State) -> None:
        """Bring the parameters of these groups back to θ."""
        restored = tables.restore(groups, state)
        rows = Rows()
        for i, group in enumerate(groups):
            for known in self._moving(group, state):
                if id(known.param) not in restored:
                    rows.add(known, i, PLAIN, summed=False)
        if rows.sizes:
            self._displace(groups, rows, self._begin(groups))

    # ---- what they share ----------------------------------------------------------------------------------------

    def _begin(self, groups: Groups) -> torch.device:
        device = tables.device_of(groups)
        self._tables.begin(device, capturable=groups[0]["capturable"])
        return device

    def _look(
        self, p: Tensor, state: State, group: dict[str, Any], options: tuple[bool, bool], *, new: bool
    ) -> Known | None:
        """What is known of p. None for one without momentum, unless it is `new`: then its state is made."""
        own = state.get(p)
        known = self._known.get(id(p))
        if known is not None and known.holds(own, options):
            return known
        if not new and (own is None or self.moment not in own):
            return None
        place = self._places.setdefault(id(p), len(self._places))
        known = self._known[id(p)] = tables.learn(p, state[p], group, self.moment, place)
        return known

    def _moving(self, group: dict[str, Any], state: State) -> Iterator[Known]:
        options = options_of(group)
        for p in group["params"]:
            known = self._look(p, state, group, options, new=False)
            if known is not None:
                yield known

    def _table(self, name: str, values: list[Any], dtype: torch.dtype) -> Tensor:
        return self._tables.send(name, values, lambda: torch.tensor(values, dtype=dtype))

    def _group_tables(
        self, groups: Groups, scales: list[Tensor | None], device: torch.device, name: str = ""
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """`refs` and `hyper` of the kernels, and the tensors that `refs` points to."""
        refs: list[int] = []
        used: list[Tensor] = []
        for group, scale in zip(groups, scales, strict=True):
            lr = group["lr"] if isinstance(group["lr"], Tensor) and group["lr"].device == device else None
            for x in (scale, lr):
                if x is None:
                    refs.append(0)
                else:
                    used.append(x.to(device, torch.float32, non_blocking=True))
                    refs.append(used[-1].data_ptr())
        values = [number for group in groups for number in tables.hyper(group, self.decoupled)]
        return self._table(name + "refs", refs, torch.int64), self._table(name + "hyper", values, torch.float64), used

    def _square_buffer(self, device: torch.device) -> Tensor:
        old, size = self._squares, len(self._places)
        if old is None or old.numel() < size:
            self._squares = torch.zeros(2 * size, dtype=torch.float64, device=device)
            if old is not None:
                self._squares[: old.numel()].copy_(old)
        assert self._squares is not None
        self._tables.keep(self._squares)
        return self._squares

    def _note(self, written: list[Known], *, norm: bool, certain: bool) -> None:
        """Remember whose |m|² the step left behind. Not `certain`: it may have been skipped; what was there stays."""
        if not norm:
            self._summed.clear()
            return
        for known in written:
            now = (known.row[1], known.m._version)
            if certain or self._summed.get(known.place) == now:
                self._summed[known.place] = now
            else:
                self._summed.pop(known.place, None)

    def _sum_squares(self, stale: list[Known], device: torch.device) -> None:
        """|m|² of tensors that the step did not write last: a loaded state, or one that somebody changed."""
        squares = self._square_buffer(device)
        if not stale:
            return
        rows = Rows()
        for known in stale:
            rows.add(known, 0, PLAIN)
        count = len(stale)
        items = self._tables.send("stale", rows.sizes, lambda: tables.queue(rows.sizes, rows.kinds, False))
        work = torch.zeros(32 + 3 * count, dtype=torch.int32, device=device)
        shares = torch.empty(4 * rows.slots, dtype=torch.float64, device=device)
        table = self._table("stale rows", rows.rows, torch.int64)
        self._tables.keep(work, shares)
        self._launch(kernels.square_kernel, None, items, table, work, shares, squares, rows.slots, count)
        for known in stale:
            self._summed[known.place] = (known.row[1], known.m._version)

    def _displace(
        self,
        groups: Groups,
        rows: Rows,
        device: torch.device,
        *,
        place: list[int] | None = None,
        started: Tensor | None = None,
    ) -> Tensor:
        """Move by -ρ m/|m| (with `place`: whose |m|² counts) or back; returns (3, items) products, see the kernel."""
        name = "back " if place is None else "ahead "
        scales = [group["scale"] if place is None or not group["moved"] else None for group in groups]
        refs, hyper, used = self._group_tables(groups, scales, device, name)
        layout = (rows.sizes, rows.kinds, False)
        items = self._tables.send(name + "items", layout, lambda: tables.queue(*layout))
        shares = self._tables.make(
            name + "shares", items.numel(), lambda: torch.empty((3, items.numel()), dtype=torch.float64, device=device)
        )
        if started is not None:
            started = started.to(device, non_blocking=True)
        self._launch(
            kernels.move_kernel, items.numel(),
            items, self._table(name + "rows", rows.rows, torch.int64), refs, hyper, self._square_buffer(device),
            self._table(name + "places", place or [0], torch.int64), started, shares,
            items.numel(), len(place or []), len(groups),
            AHEAD=place is not None,
            KINDS=rows.codes,
        )  # fmt: skip
        self._tables.keep(*used, *([] if started is None else [started]))
        return shares

    def _launch(self, kernel: Any, items: int | None, *arguments: Any, **constants: Any) -> None:
        """Launch on the tensors' device: `items` shared by as many programs as fit; None: a program for each."""
        device = arguments[0].device
        if items is None:
            programs = arguments[0].numel()
        elif INTERPRETED:
            programs = 2
        else:
            programs = min(items, RESIDENT * torch.cuda.get_device_properties(device).multi_processor_count)
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel[(programs,)](
                *arguments,
                **constants,
                CHUNK=tables.CHUNK,
                BLOCK=BLOCK,
                SUM=SUM,
                num_warps=WARPS,
                maxnreg=REGISTERS,
            )
