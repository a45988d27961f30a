"""Bucket: tensors that are updated together, and the formulas of `updates.py` applied to their state."""

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from tamft.optim import updates
from tamft.optim.ops import Foreach, Ops, gram, wide
from tamft.optim.options import LOW_PRECISION
from tamft.optim.sharded import add_up, gradient, local

State = MutableMapping[Tensor, dict[str, Any]]
Moving = tuple[Tensor, dict[str, Any], Tensor]  # a parameter, its state, what is here of its momentum


@dataclass
class Bucket:
    """Parameters of one group, device and dtype that have a gradient (a single one on the loop path).

    Attributes:
        group: the parameter group: options and hyper-parameters.
        ops: the dialect, `Loop` or `Foreach`.
        params, grads, states: equally long; a state holds `step`, m (under the key `moment`), and where the options ask
            for them `exp_avg_sq`, `alignment` (ŝ), `damping` (D), `compensation` (θ - p of 16-bit p).
        moment: state key of m.
        decoupled: True if weight decay shrinks the weights instead of joining the gradient.
        scale: ρ/|m| of the perturbed point at which the gradients were taken (0-d), None for the real weights.
    """

    group: dict[str, Any]
    ops: Ops
    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Any]]
    moment: str
    decoupled: bool
    scale: Tensor | None

    @property
    def device(self) -> torch.device:
        return self.params[0].device

    def column(self, key: str) -> list[Tensor]:
        """One state entry of every parameter; complex ones as real views."""
        return [here(state[key]) for state in self.states]

    def weights(self) -> list[Tensor]:
        """θ as the update sees it: a view, or a float32 copy of 16-bit weights, with what rounding took from them."""
        weights = [_widened(here(p), m) for p, m in zip(self.params, self.column(self.moment), strict=True)]
        if compensated(self.params[0], self.group):
            weights = self.ops.plus(weights, self.column("compensation"), 1.0)
        return weights

    def gradient(self) -> list[Tensor]:
        """g_t in the state's precision; the weights are back at θ."""
        m = self.column(self.moment)
        decay = 0.0 if self.decoupled else self.group["weight_decay"]
        return updates.gradient(
            self.ops,
            [_widened(here(g), x) for g, x in zip(self.grads, m, strict=True)],
            self.weights() if decay != 0 else [],
            m,
            maximize=self.group["maximize"],
            weight_decay=decay,
            scale=self.scale,
        )

    def gram(self, g: list[Tensor]) -> Tensor:
        """<m,g>, <m,m>, <g,g> of each tensor: (3, n)."""
        m = self.column(self.moment)
        # Autograd will need the m that was multiplied here; the update overwrites it.
        return gram([x.clone() for x in m] if self.group["differentiable"] else m, g)

    def aligns(self) -> bool:
        """Whether this step reads the cosine: not without torque, not with gamma=1, not after `torque_steps`."""
        group = self.group
        if not group.get("torque") or group["gamma"] == 1:
            return False
        last = group["torque_steps"]
        return last is None or on_device(group) or any(state["step"].item() < last for state in self.states)

    def update(self, shared: Tensor | None) -> None:
        """One step of every parameter. `shared`: their cosine (0-d or one each) where it is known, see `cosines`."""
        group, ops, g = self.group, self.ops, self.gradient()
        steps = self.column("step")
        ops.count_(steps)
        aboard, dtype = on_device(group), wide(self.params[0])
        t = [n.to(self.device, dtype) for n in steps] if aboard else [n.item() for n in steps]
        factor, d_hat = self._torque(g, shared, t) if group.get("torque") else (None, None)

        m, params = self.column(self.moment), self.weights()
        lr, keep = group["lr"], group["differentiable"]
        aboard = aboard or (isinstance(lr, Tensor) and lr.requires_grad)
        if isinstance(lr, Tensor) and aboard:
            lr = lr.to(self.device, non_blocking=True)
        elif torch.compiler.is_compiling():
            # A number would become a constant of the compiled step, and every new learning rate another compilation.
            lr = torch.ones((), dtype=dtype, device=self.device) * lr
        if self.moment == "exp_avg":
            updates.adam(
                ops,
                params,
                g,
                m,
                self.column("exp_avg_sq"),
                t,
                lr=lr,
                betas=group["betas"],
                eps=group["eps"],
                decay=group["weight_decay"] if self.decoupled else 0.0,
                factor=factor,
                d_hat=d_hat,
                first_moment=group.get("first_moment", "ema"),
                on_device=aboard,
                keep=keep,
            )
        else:
            beta = group["momentum"]
            if isinstance(lr, Tensor) and not aboard:
                lr = lr.item()
            updates.heavy_ball(ops, params, g, m, lr=lr, beta=beta, factor=factor, d_hat=d_hat, keep=keep)
        if here(self.params[0]).dtype != params[0].dtype:
            rounded = [here(p) for p in self.params]
            ops.assign_(rounded, params)
            if compensated(self.params[0], group):
                ops.assign_(self.column("compensation"), ops.plus(params, _rounded(rounded), -1.0))

    def _torque(
        self, g: list[Tensor], shared: Tensor | None, t: list[float] | list[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """ε + d of each tensor and, with rescale, D̂, each (n,); ŝ and D in the state move on by one step."""
        group, last = self.group, self.group["torque_steps"]
        # As a rule all tensors have taken equally many steps: then no vector of counts has to reach the device.
        equal = isinstance(t[0], float) and all(n == t[0] for n in t)
        dtype = wide(self.params[0])
        count: float | Tensor = (
            t[0] if equal else torch.stack([torch.as_tensor(n, dtype=dtype) for n in t]).to(self.device)
        )
        live = None if last is None else count <= last

        alignment = self.column("alignment")
        s_hat, s = torch.stack(alignment), None
        if live is not False and group["gamma"] < 1:  # gamma=1 never looks
            s = updates.cosine(self.gram(g)) if shared is None else shared.to(self.device).expand_as(s_hat)
        s_hat, d = updates.torque(s, s_hat, gamma=group["gamma"], live=live if isinstance(live, Tensor) else None)
        self.ops.assign_(alignment, s_hat.unbind())
        factor = group["torque_eps"] + d
        if not group["rescale"]:
            return factor, None
        damping = self.column("damping")
        beta = group["betas"][0] if "betas" in group else group["momentum"]
        d_mean, d_hat = updates.rescaling(factor, torch.stack(damping), beta=beta, t=count)
        self.ops.assign_(damping, d_mean.unbind())
        return factor, d_hat


def parted(group: dict[str, Any], state: State, ops: Ops, moment: str, decoupled: bool,
           scale: Tensor | None) -> list[Bucket]:  # fmt: skip
    """The parameters of a group that have a gradient, in buckets; makes what is missing of their state."""
    params = [p for p in group["params"] if p.grad is not None]
    for p in params:
        init_state(state[p], p, group, moment)
    parts = [[p] for p in params]
    if isinstance(ops, Foreach):
        keyed: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for p in params:
            keyed.setdefault((p.device, p.dtype), []).append(p)
        parts = list(keyed.values())
    return [
        Bucket(group, ops, part, [gradient(p) for p in part], [state[p] for p in part], moment, decoupled, scale)
        for part in parts
    ]


def cosines(buckets: list[Bucket], *, sharded: bool) -> list[Tensor | None]:
    """What each bucket cannot know by itself: the model's cosine, 0-d, with alignment="global"; those of its tensors,
    (n,), where they are `sharded`. None where each finds its own, or none is read.
    """
    nothing: list[Tensor | None] = [None] * len(buckets)
    together = len(buckets) > 0 and buckets[0].group.get("alignment") == "global"
    if not (together or sharded) or not any(bucket.group.get("torque") for bucket in buckets):
        return nothing
    if sharded and not any(bucket.aligns() for bucket in buckets):
        return nothing
    home = buckets[0].device
    grams = [bucket.gram(bucket.gradient()) for bucket in buckets if together or bucket.group["torque"]]
    if sharded:
        owners = [bucket for bucket in buckets if together or bucket.group["torque"]]
        parts = add_up([x for gram in grams for x in gram.unbind(1)], [p for bucket in owners for p in bucket.params])
        ends = accumulate(len(bucket.params) for bucket in owners)
        grams = [torch.stack(parts[end - len(b.params) : end], dim=1) for b, end in zip(owners, ends, strict=True)]
    if together:
        sums = [gram.sum(1).to(home, non_blocking=True) for gram in grams]
        return [updates.cosine(torch.stack(sums).sum(0))] * len(buckets)
    found = iter(grams)
    return [updates.cosine(next(found)) if bucket.group["torque"] else None for bucket in buckets]


def compensated(p: Tensor, group: dict[str, Any]) -> bool:
    """Whether the state of `p` keeps what rounding took from it (Kahan's summation): `compensation`, in its dtype."""
    return bool(group["kahan_sum"]) and p.dtype in LOW_PRECISION


def init_state(state: dict[str, Any], p: Tensor, group: dict[str, Any], moment: str) -> None:
    """Make what is missing of a state: m, v, ŝ, D in float32 (float64 for float64), `step` as torch has it."""
    if moment not in state:
        dtype = torch.float32 if p.dtype in LOW_PRECISION else p.dtype
        count = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
        state["step"] = torch.zeros((), dtype=count, device=p.device if on_device(group) else "cpu")
        state[moment] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
        if moment == "exp_avg":
            state["exp_avg_sq"] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
    if compensated(p, group) and "compensation" not in state:
        state["compensation"] = torch.zeros_like(p, memory_format=torch.preserve_format)
    if group.get("torque"):
        for key in ("alignment", "damping") if group["rescale"] else ("alignment",):
            if key not in state:
                state[key] = torch.zeros((), dtype=real(state[moment]).dtype, device=p.device)


def displace(ops: Ops, items: Sequence[Moving], scale: Tensor, *, ahead: bool) -> list[tuple[Tensor, Tensor]]:
    """Move parameters to p - scale·m, or with the same scale back. Returns what `displace_16_bit` does."""
    exact: list[Moving] = []
    buckets: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for p, state, m in items:
        if p.dtype in LOW_PRECISION and (ahead or "clean" in state):
            exact.append((p, state, m))
        else:
            ps, ms = buckets.setdefault((p.device, p.dtype), ([], []))
            ps.append(here(p))
            ms.append(m)
    for ps, ms in buckets.values():
        updates.ascend(ops, ps, ms, scale if ahead else -scale)
    return displace_16_bit(exact, scale, ahead=ahead)


def displace_16_bit(items: Sequence[Moving], scale: Tensor, *, ahead: bool) -> list[tuple[Tensor, Tensor]]:
    """Move 16-bit weights to p - scale·m, or back: a clean copy waits in the state meanwhile.

    Their arithmetic is too coarse to come back by adding. On the way out returns each p with the products, (3,), of the
    applied and the intended displacement: see `updates.cosine`.
    """
    products = []
    for p, state, m in items:
        weights = local(p)
        if ahead:
            state["clean"] = p.detach().clone(memory_format=torch.preserve_format)
            weights.sub_(m * scale.to(p.device))
            products.append((p, gram([local(state["clean"]).float() - weights.float()], [m])[:, 0]))
        else:
            weights.copy_(local(state.pop("clean")))
    return products


def applied_cosine(products: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
    """The cosine of all the products that `displace_16_bit` returned, over all processes; None without any."""
    if not products:
        return None
    parts = add_up([x for _, x in products], [p for p, _ in products])
    return updates.cosine(torch.stack([x.to(parts[0].device) for x in parts]).sum(0))


def on_device(group: dict[str, Any]) -> bool:
    """Whether step counts and learning rate stay tensors: CUDA graphs and compiled steps read no number on the host."""
    return bool(group["capturable"]) or torch.compiler.is_compiling()


def here(x: Tensor) -> Tensor:
    """The numbers of a tensor that this process has, as a real view: a shard's, or all of them."""
    return real(local(x))


def real(x: Tensor) -> Tensor:
    """A complex tensor as a real view with a last dimension of 2; any other as it is."""
    return torch.view_as_real(x) if x.is_complex() else x


def _widened(x: Tensor, like: Tensor) -> Tensor:
    return x if x.dtype == like.dtype else x.to(like.dtype)


def _rounded(params: list[Tensor]) -> list[Tensor]:
    """16-bit parameters as memory holds them.

    Reading them back after a write, a compiler would use the wider value that it still has at hand, and what rounding
    took would be 0. An operation on the bits leaves it no choice.
    """
    if not torch.compiler.is_compiling():
        return params
    return [p.view(torch.int16).bitwise_or(0).view(p.dtype) for p in params]
