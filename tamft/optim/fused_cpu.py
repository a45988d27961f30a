"""The fused path on a CPU: dot products on flat memory, then torch's own fused Adam and SGD kernels.

Those kernels are C++ and touch every number once, but they know no torque. Two facts make them fit exactly:

    SGD:   m = β m + (1 - dampening) g     is TAM with dampening = 1 - (ε + d), chosen per tensor.
    Adam:  m = β1 m + (1 - β1) g           has one coefficient too few, so m is kept divided by a number σ per tensor:
           m = σ m',  σ_t = β1 σ_{t-1} + c  with c = (1-β1)(ε + d) ("ema") or ε + d ("sum"), and β1' = β1 σ_{t-1} / σ_t
           give  σ_t (β1' m' + (1-β1') g) = β1 m_{t-1} + c g = m_t.  The learning rate takes up σ and the corrections.

σ lives in this engine and never in a checkpoint: `settle()` multiplies it back into m before the state is read. |m|² is
not read from memory either: |β m + c g|² = β²|m|² + 2βc<m,g> + c²|g|², from the products that the cosine needs anyway.
"""

from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor

from tamft.optim import cpu_kernels as kernels
from tamft.optim import updates
from tamft.optim.bucket import applied_cosine, compensated, displace_16_bit, init_state
from tamft.optim.cpu_kernels import Slot
from tamft.optim.ops import Loop
from tamft.optim.options import LOW_PRECISION

Groups = list[dict[str, Any]]
State = MutableMapping[Tensor, dict[str, Any]]

_LOOP = Loop()
_WANTED = {"alignment": "torque", "damping": "rescale", "compensation": "kahan_sum"}  # state keys and their options
_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128, *LOW_PRECISION)


def refusal(groups: Groups, moment: str) -> str | None:
    """Why these parameters cannot take this path, in words, or None."""
    if groups[0]["capturable"]:
        return "capturable=True keeps the step count from the host, and these kernels are driven by the host"
    for group in groups:
        for p in group["params"]:
            if type(p) not in (Tensor, torch.nn.Parameter):
                return f"a parameter is a {type(p).__name__}, whose memory is not one plain block"
            if p.device.type != "cpu" or p.dtype not in _DTYPES or p.layout != torch.strided:
                return f"a parameter is {p.dtype} on {p.device.type} ({p.layout})"
            if not (p.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(p)):
                return "a parameter is a view with gaps in memory"
    return kernels.kernels_differ()


class Engine:
    """The fused path of one optimizer. Holds nothing that must be saved: see `settle`.

    Args:
        moment: state key of m.
        decoupled: whether weight decay shrinks the weights instead of joining the gradient.
    """

    def __init__(self, moment: str, decoupled: bool) -> None:
        self.moment, self.decoupled = moment, decoupled
        adam = torch._fused_adamw_ if decoupled else torch._fused_adam_
        self._adam: Callable[..., None] | None = adam if moment == "exp_avg" else None
        self._compiled: Any = None  # the module of compiled kernels, in steps that take them
        self.slots: dict[Tensor, Slot] = {}
        self.applied: Tensor | None = None  # cosine between applied and intended perturbation of 16-bit weights

    # ---- the perturbed point ------------------------------------------------------------------------------------

    def square(self, groups: Groups, state: State) -> float:
        """|m|² over the groups."""
        return sum(slot.sigma**2 * slot.norm_square() for group in groups for slot in self._moving(group, state))

    def ahead(self, groups: Groups, state: State, started: Tensor | bool) -> None:
        """Move the groups that are not moved yet to θ̃ = θ - ρ m/|m|, with |m| over all the groups."""
        moving = [self._moving(group, state) for group in groups]
        total = sum(slot.sigma**2 * slot.norm_square() for slots in moving for slot in slots) if started else 0.0
        square = torch.tensor(total, dtype=torch.float64)
        for group, slots in zip(groups, moving, strict=True):
            if not group["moved"]:
                group["scale"] = updates.reach(square, group["rho"])
                self._move(group, slots, ahead=True)

    def back(self, groups: Groups, state: State) -> None:
        """Bring the groups from θ̃ back to θ."""
        for group in groups:
            self._move(group, self._moving(group, state), ahead=False)

    def _move(self, group: dict[str, Any], slots: list[Slot], *, ahead: bool) -> None:
        exact = []
        scale = -group["scale"].item() if ahead else group["scale"].item()
        for slot in slots:
            if slot.param.dtype in LOW_PRECISION:
                slot.unscale()
                exact.append((slot.param.detach(), slot.own, slot.own[self.moment]))
            else:
                slot.p.add_(slot.m, alpha=scale * slot.sigma)
        applied = applied_cosine(displace_16_bit(exact, group["scale"], ahead=ahead))
        self.applied = self.applied if applied is None else applied

    def _moving(self, group: dict[str, Any], state: State) -> list[Slot]:
        owners = ((p, state.get(p)) for p in group["params"])
        return [self._slot(p, own, None) for p, own in owners if own is not None and self.moment in own]

    def _slot(self, p: Tensor, own: dict[str, Any], square: float | None) -> Slot:
        slot = self.slots.get(p)
        if slot is None or slot.own is not own:
            slot = self.slots[p] = Slot(p, own, self.moment, square)
        slot.refresh()
        return slot

    # ---- the step -----------------------------------------------------------------------------------------------

    def step(self, groups: Groups, state: State, scales: Iterable[Tensor | None], *,
             grad_scale: Tensor | None = None, found_inf: Tensor | None = None) -> None:  # fmt: skip
        """Update every parameter that has a gradient; bring all that is at θ̃ = θ - scale·m back to θ.

        `found_inf` = 1: only the way back. `grad_scale`: the gradients are divided by it first, in place.
        """
        moved = list(scales)
        if found_inf is not None and found_inf.item() != 0:
            self.back([group for group, scale in zip(groups, moved, strict=True) if scale is not None], state)
            return
        parts: list[tuple[dict[str, Any], float | None, list[Slot]]] = []
        for group, away in zip(groups, moved, strict=True):
            part: dict[Any, list[Slot]] = {}  # by dtypes
            needed = (self.moment, *(key for key, option in _WANTED.items() if group.get(option)))
            for p in group["params"]:
                g = p.grad
                if g is not None:
                    own = state[p]
                    slot = self.slots.get(p)
                    if slot is None or slot.own is not own or slot.has != needed:
                        fresh = self.moment not in own
                        init_state(own, p, group, self.moment)
                        slot = self._slot(p, own, 0.0 if fresh else None)
                        slot.has = needed
                    slot.take(g)
                    part.setdefault((slot.kinds, g.dtype), []).append(slot)
                elif away is not None:
                    self._move(group, self._moving({"params": [p]}, state), ahead=False)
            scale = None if away is None else away.item()
            parts += [(group, scale, slots) for slots in part.values()]
        stepping = [slot for *_, slots in parts for slot in slots]
        if grad_scale is not None:
            torch._foreach_div_([slot.g for slot in stepping], grad_scale)
        worth = sum(slot.n for slot in stepping) >= kernels.WORTH
        self._compiled = kernels.compiled_kernels() if worth else None
        shared = self._shared(parts) if groups[0].get("alignment") == "global" else None
        for group, distance, slots in parts:
            self._update(group, distance, slots, shared)
        for slot in stepping:
            slot.let_go()
        # Autograd does not see what these kernels write, torch's own included: an old graph would take the new weights.
        torch.autograd.graph.increment_version([slot.param for slot in stepping])

    def _coupled(self, group: dict[str, Any]) -> float:
        return 0.0 if self.decoupled else group["weight_decay"]

    def _shared(self, parts: list[tuple[dict[str, Any], float | None, list[Slot]]]) -> float | None:
        """One cosine for the whole model; None where no group has torque."""
        if not any(group["torque"] for group, _, _ in parts):
            return None
        total = [0.0, 0.0, 0.0]
        for group, _, slots in parts:
            for slot in slots:
                slot.dots = mg, mm, gg = kernels.dots(slot, self._coupled(group), group["maximize"])
                total = [total[0] + slot.sigma * mg, total[1] + slot.sigma**2 * mm, total[2] + gg]
        return kernels.cosine(*total)

    def _update(self, group: dict[str, Any], scale: float | None, slots: list[Slot], shared: float | None) -> None:
        """One step of parameters with the same dtypes. `scale`: they are at θ - scale·m."""
        # The counts and the scalars below are one small tensor each, handed out in 0-d views: an operation for each
        # of them would cost as much as a kernel.
        count = torch.stack([slot.own["step"] for slot in slots]) + 1
        steps = count.unbind()
        for slot, step in zip(slots, steps, strict=True):
            slot.own["step"] = step
        torque, coupled = bool(group.get("torque")), self._coupled(group)
        plain = not torque and group.get("first_moment") != "sum"
        whole = len({*slots[0].kinds, slots[0].g.dtype}) == 1
        compiled = self._compiled is not None and whole and slots[0].m.dtype == torch.float32
        if plain and whole and (scale is None or (coupled == 0 and not compiled)):
            self._as_torch(group, slots, scale)
            return
        s_hats = torch.stack([slot.own["alignment"] for slot in slots]).tolist() if torque else []
        means = torch.stack([slot.own["damping"] for slot in slots]).tolist() if torque and group["rescale"] else []
        if compiled:
            decay = group["weight_decay"] if self.decoupled else 0.0
            options = {"decay": decay, "coupled": coupled, "away": scale, "shared": shared}
            self._keep(slots, *self._compiled.update(group, slots, count.tolist(), s_hats, means, **options))
            return
        gamma, last, eps = group.get("gamma", 1.0), group.get("torque_steps"), group.get("torque_eps", 0.0)
        maximize, rho, plan = group["maximize"], group["rho"], kernels.planner(group, self.decoupled)
        for i, (slot, t, step) in enumerate(zip(slots, count.tolist(), steps, strict=True)):
            factor = d_hat = 1.0
            if torque:
                if gamma < 1 and (last is None or t <= last):  # gamma=1 never looks
                    if slot.dots is None:
                        slot.dots = kernels.dots(slot, coupled, maximize)
                    s = kernels.cosine(*slot.dots) if shared is None else shared
                    s_hats[i] = gamma * s_hats[i] + (1 - gamma) * s  # ŝ_t = γ ŝ_{t-1} + (1-γ) s_t
                factor = eps + (1 + s_hats[i]) / 2  # ε + d_t, d_t = (1 + ŝ_t) / 2
            if means:
                beta = group["betas"][0] if "betas" in group else group["momentum"]
                means[i] = beta * means[i] + (1 - beta) * factor  # D_t = β D_{t-1} + (1-β)(ε + d_t)
                d_hat = means[i] / (1 - beta**t) or 1.0  # D̂_t; 0 only if m = 0 too
            call, kept, weight, sigma = plan(slot, t, factor, d_hat)
            known = None
            if call is not None and whole and (scale is None or (slot.n <= kernels.BLOCK and coupled == 0)):
                if scale is not None:
                    slot.p.add_(slot.m, alpha=scale * slot.sigma)
                slot.sigma = sigma
                if self._adam is not None:
                    self._adam([slot.p], [slot.g], [slot.m], [slot.v], [], [step], **call)
                else:
                    kernels.sgd([slot.p], [slot.g], [slot.m], **call)
                if rho > 0 and slot.dots is None and slot.n <= kernels.BLOCK:
                    known = kernels.square(slot.m)  # while it is in the cache
            else:
                known = self._in_blocks(group, slot, t, call, sigma, scale, factor, d_hat)
            if slot.dots is not None and call is not None:
                known = kernels.next_square(kept, weight, *slot.dots)
            slot.wrote(known)
        self._keep(slots, s_hats, means)

    @staticmethod
    def _keep(slots: list[Slot], s_hats: list[float], means: list[float]) -> None:
        """Write ŝ and D into the states; empty where there is none."""
        for key, values in (("alignment", s_hats), ("damping", means)):
            for slot, value in zip(slots, torch.tensor(values, dtype=slots[0].m.dtype).unbind(), strict=False):
                slot.own[key] = value

    def _run(self, slot: Slot, p: Tensor, g: Tensor, m: Tensor, v: Tensor, call: dict[str, Any]) -> None:
        if self._adam is not None:
            self._adam([p], [g], [m], [v], [], [slot.own["step"]], **call)
        else:
            kernels.sgd([p], [g], [m], **call)

    def _in_blocks(self, group: dict[str, Any], slot: Slot, t: float, call: dict[str, Any] | None, sigma: float,
                   scale: float | None, factor: float, d_hat: float) -> float | None:  # fmt: skip
        """m, v and θ where more is to be done than the kernel does, block by block. Returns |m'|² where ρ wants it."""
        coupled, total = self._coupled(group), 0.0
        count = group["rho"] > 0 and slot.dots is None
        before, slot.sigma = slot.sigma, sigma
        clean = kernels.flat(slot.own.pop("clean")) if "clean" in slot.own else None
        lost = kernels.flat(slot.own["compensation"]) if compensated(slot.param, group) else None
        # From the end: that is what the dot products read last.
        for span in reversed(kernels.spans(slot.m.numel(), kernels.BLOCK)):
            _, p, g, m, v = slot.part(span)
            negate, work = group["maximize"], p
            if coupled != 0 or g.dtype != m.dtype:
                g, negate = kernels.gradient(slot, span, coupled, negate)
            if p.dtype != m.dtype:
                work = (p if clean is None else clean if span is None else clean[span]).to(m.dtype)
            if lost is not None:
                work.add_(lost if span is None else lost[span])
            if scale is not None and clean is None:
                work.add_(m, alpha=scale * before)
            if call is None:
                self._plainly(group, work, -g if negate else g, m, v, t, factor, d_hat)
            else:
                decay = call["weight_decay"] if self.decoupled else 0.0
                self._run(slot, work, g, m, v, {**call, "weight_decay": decay, "maximize": negate})
            if count:
                total += kernels.square(m)
            if work is not p:
                p.copy_(work)
            if lost is not None:
                (lost if span is None else lost[span]).copy_(work.sub_(p))
        return total if count else None

    def _plainly(self, group: dict[str, Any], p: Tensor, g: Tensor, m: Tensor, v: Tensor, t: float, factor: float,
                 d_hat: float) -> None:  # fmt: skip
        weights = torch.tensor([factor, d_hat], dtype=m.dtype)
        options = {"lr": group["lr"], "betas": group["betas"], "eps": group["eps"], "on_device": False, "keep": False}
        options |= {"decay": group["weight_decay"] if self.decoupled else 0.0, "factor": weights[:1]}
        options |= {"d_hat": weights[1:], "first_moment": group.get("first_moment", "ema")}
        updates.adam(_LOOP, [p], [g], [m], [v], [t], **options)

    def _as_torch(self, group: dict[str, Any], slots: list[Slot], scale: float | None) -> None:
        """No torque: torch's optimizer, bit for bit; on the way back from θ̃, or with ρ, in batches that stay cached."""
        for slot in slots:
            slot.unscale()
        call = {"lr": float(group["lr"]), "weight_decay": group["weight_decay"], "maximize": group["maximize"]}
        if self.moment == "exp_avg":
            call |= {"beta1": group["betas"][0], "beta2": group["betas"][1], "eps": group["eps"], "amsgrad": False}
        else:
            call |= {"beta": group["momentum"], "factor": 1.0}
        if scale is None and group["rho"] == 0:
            self._run_all([slot.part(None) for slot in slots], call)
            for slot in slots:
                slot.wrote(None)
            return
        squares = dict.fromkeys(slots, 0.0)
        for parts in kernels.batches(slots):
            if scale is not None:
                for _, p, _, m, _ in parts:
                    p.add_(m, alpha=scale)
            self._run_all(parts, call)
            for slot, _, _, m, _ in parts:
                squares[slot] += kernels.square(m)
        for slot, value in squares.items():
            slot.wrote(value)

    def _run_all(self, parts: list[kernels.Part], call: dict[str, Any]) -> None:
        slots, ps, gs, ms, vs = (list(column) for column in zip(*parts, strict=True))
        if self._adam is not None:
            self._adam(ps, gs, ms, vs, [], [slot.own["step"] for slot in slots], **call)
        else:
            kernels.sgd(ps, gs, ms, **call)

    # ---- what others may see ------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Multiply σ back into m and forget what is known of it: the run goes on as one that was resumed from here."""
        for slot in self.slots.values():
            slot.refresh()
            slot.unscale()
        self.slots.clear()

    def forget(self) -> None:
        """The state was replaced."""
        self.slots.clear()
