"""MomentumOptimizer: everything but the formulas. State, grouping, step(), train()/eval(), exact resume.

The weights are the real weights whenever `step()` has returned; `train()` moves them to the perturbed point
θ̃ = θ - ρ m/|m| and `eval()` or `step()` brings them back (Momentum-SAM, arXiv 2401.12033).
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim.optimizer import Optimizer, ParamsT, StateDict

from tamft.optim import sharded, updates
from tamft.optim.bucket import Bucket, Moving, applied_cosine, cosines, displace, here, on_device, parted
from tamft.optim.engines import choose, multi_tensor
from tamft.optim.load import exact_state, refuse_foreign
from tamft.optim.ops import Foreach, Loop, squares
from tamft.optim.options import check, check_group
from tamft.optim.telemetry import statistics

FORMAT = 1  # of the saved state; raise it when a key changes its meaning
_LOOP, _FOREACH = Loop(), Foreach()
# Where a fused path exists: the module that has it, imported when it is chosen, and whether it is chosen unasked.
ENGINES: dict[str, tuple[str, bool]] = {
    "cpu": ("tamft.optim.fused_cpu", True),
    "cuda": ("tamft.optim.fused_cuda", False),  # until it has been measured on a GPU
}


class MomentumOptimizer(Optimizer):
    """Base of all five classes. A subclass is its signature, its docstring and the declarations below.

    Attributes:
        moment: state key of m: "exp_avg" (Adam family, which also has "exp_avg_sq") or "momentum_buffer".
        decoupled: True if weight decay shrinks the weights instead of joining the gradient.
    """

    moment: ClassVar[str]
    decoupled: ClassVar[bool] = False
    # Set while load_state_dict runs: the state as it was saved, before torch casts it to the parameters' dtype.
    _incoming: StateDict | None = None
    # The fused path, once it has been chosen; whether there are DTensors; the parameters that this was found out for.
    _engine: Any = None
    _sharded: bool = False
    _chosen_for: tuple[Any, ...] | None = None
    _given: Sequence[tuple[int, int]] = ()  # sharded.signature of every group when it was added

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        check(type(self).__name__, defaults)
        sharded.refuse_zero_redundancy(type(self).__name__, defaults)
        if "betas" in defaults:
            defaults["betas"] = tuple(defaults["betas"])
        # "compiled" is set by the first compiled step: what is not compiled (train(), a log) then stays off the fused
        # path too. "applied": products of the applied and the intended perturbation of 16-bit weights, made anew by
        # every train(). A dict, because torch.compile forgets what a step assigns to an attribute of an optimizer.
        self._seen: dict[str, Any] = {"compiled": False, "applied": []}
        super().__init__(params, defaults)
        if defaults["fused"]:
            self._fused_module()  # raises where it cannot be had
            # GradScaler then leaves unscaling and skipping to step(), as it does for torch's fused optimizers.
            self._step_supports_amp_scaling = True

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch.optim does. Raises ValueError for options out of range or wrongly unequal."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_group(type(self).__name__, group, self.param_groups[0])
            sharded.refuse(type(self).__name__, [group])
        except (ValueError, RuntimeError):
            self.param_groups.pop()
            raise
        self._given = [*self._given, sharded.signature(group)]
        group.setdefault("moved", False)
        group.setdefault("scale", torch.zeros((), dtype=torch.float32))
        group.setdefault("tamft_format", FORMAT)

    @property
    def _groups(self) -> list[dict[str, Any]]:
        # torch.compile answers a plain `self.param_groups` with `capturable` set in every group, and leaves it set.
        return cast("list[dict[str, Any]]", self.__dict__["param_groups"])

    # ---- the perturbed point ------------------------------------------------------------------------------------

    @torch.no_grad()
    def train(self, mode: bool = True) -> Self:
        """Move the weights to θ̃ = θ - ρ m/|m|, where the next gradient is to be taken. `mode=False`: `eval()`.

        Call it before the forward pass (Trainer does). Idempotent; does nothing with rho = 0, before the first step
        and during the first `rho_start` steps. |m| runs over all parameters of all groups with rho > 0.
        """
        if not mode:
            self._go_back()
            return self
        if torch.compiler.is_compiling() and sharded.is_sharded(self._groups):
            return cast("Self", self._uncompiled(self.train))
        groups = [group for group in self._groups if group["rho"] > 0]
        if all(group["moved"] for group in groups):
            return self
        if not any(self._has_momentum(group) for group in groups) or self._too_early():
            return self
        started: Tensor | bool = True
        if groups[0]["rho_start"] > 0 and self._counted_there():
            started = self._steps_done() >= groups[0]["rho_start"]
        engine = self._fused_engine()
        if engine is not None:
            engine.ahead(groups, self._state, started)
            for group in groups:
                group["moved"] = True
            return self
        square = self._square(groups)
        if isinstance(started, Tensor):
            square = torch.where(started, square, 0.0)
        self._seen["applied"] = []
        for group in groups:
            if not group["moved"]:
                group["scale"] = updates.reach(square, group["rho"])
                self._displace(group, ahead=True)
                group["moved"] = True
        return self

    def eval(self) -> Self:
        """Bring the weights back to θ without updating them. Idempotent."""
        return self.train(False)

    @torch.no_grad()
    def _go_back(self) -> None:
        moved = [group for group in self._groups if group["moved"]]
        engine = self._fused_engine() if moved else None
        if engine is not None:
            engine.back(moved, self._state)
        for group in moved:
            if engine is None:
                self._displace(group, ahead=False)
            group["moved"] = False

    def _displace(self, group: dict[str, Any], *, ahead: bool) -> None:
        """Move every parameter that has momentum by scale·m, with or without a gradient this time."""
        ops = _FOREACH if multi_tensor(group) else _LOOP
        self._seen["applied"] += displace(ops, list(self._momenta(group)), group["scale"], ahead=ahead)

    def _square(self, groups: list[dict[str, Any]]) -> Tensor:
        """|m|² over the groups and over all processes, 0-d. A collective where parameters are sharded."""
        items = [(p, m) for group in groups for p, _, m in self._momenta(group)]
        if self._sharded:
            return sharded.square_of_all([p for p, _ in items], [m for _, m in items])
        return squares([m for _, m in items])

    def _momenta(self, group: dict[str, Any]) -> Iterator[Moving]:
        for p in group["params"]:
            state = self._state.get(p)
            # By key, not by length: other code may put keys of its own into the state.
            if state is not None and self.moment in state:
                yield p, state, here(state[self.moment])

    def _has_momentum(self, group: dict[str, Any]) -> bool:
        return any(self.moment in self._state.get(p, ()) for p in group["params"])

    def _steps_done(self) -> Tensor:
        steps = [state["step"] for group in self._groups for _, state, _ in self._momenta(group)]
        return torch.stack([step.to(steps[0].device, non_blocking=True) for step in steps]).max()

    def _counted_there(self) -> bool:
        """Whether the step counts are where the host must not look; the scale is made 0 there instead of here."""
        if on_device(self._groups[0]):
            return True
        steps = (state["step"] for group in self._groups for _, state, _ in self._momenta(group))
        return any(not step.is_cpu for step in steps)

    def _too_early(self) -> bool:
        start = self._groups[0]["rho_start"]
        return start > 0 and not self._counted_there() and self._steps_done().item() < start

    def _demand_moved(self) -> None:
        if torch.compiler.is_compiling() and self._groups[0]["rho_start"] > 0:
            return  # whether that many steps are over is not to be asked here
        for group in self._groups:
            if group["rho"] == 0 or group["moved"] or not self._has_momentum(group):
                continue
            if not self._too_early():
                raise RuntimeError(
                    f"{type(self).__name__}.step(): rho={group['rho']}, but the gradient was not taken at the "
                    "perturbed weights. Call optimizer.train() before the forward pass, or pass a closure: "
                    "optimizer.step(closure)"
                )

    # ---- the step -----------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update. With a closure: train(), closure (under grad), back, update; returns the closure's value.

        Raises RuntimeError where rho > 0 and the gradient was not taken at the perturbed weights, and for sparse
        gradients.
        """
        # Not torch's decorator for this: it breaks the graph that torch.compile makes of a step.
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            if torch.compiler.is_compiling() and (self._groups[0]["fused"] or sharded.is_sharded(self._groups)):
                return self._uncompiled(self._step, closure)  # fused kernels and collectives are not for a compiler
            return self._step(closure)

    def _step(self, closure: Callable[[], Any] | None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                self.train()
                loss = closure()
        self._demand_moved()
        self._refuse_sparse()
        scales = [group["scale"] if group["moved"] else None for group in self._groups]
        engine = self._fused_engine()
        if engine is not None:
            # torch's GradScaler leaves these two with an optimizer that was made with fused=True.
            scaler = {name: getattr(self, name, None) for name in ("grad_scale", "found_inf")}
            engine.step(self._groups, self._state, scales, **scaler)
            for group in self._groups:
                group["moved"] = False
            return loss
        self._go_back()

        buckets: list[Bucket] = []
        for group, scale in zip(self._groups, scales, strict=True):
            ops = _FOREACH if multi_tensor(group) else _LOOP
            buckets += parted(group, self._state, ops, self.moment, self.decoupled, scale)
        for bucket, cosine in zip(buckets, cosines(buckets, sharded=self._sharded), strict=True):
            bucket.update(cosine)
        return loss

    def _refuse_sparse(self) -> None:
        for group in self._groups:
            for p in group["params"]:
                if p.grad is not None and p.grad.layout != torch.strided:
                    raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")

    # ---- what was chosen, what is happening ---------------------------------------------------------------------

    def _fused_module(self) -> str | None:
        """The module whose fused path step() takes; None for none. RuntimeError where fused=True cannot be had."""
        return choose(ENGINES, type(self).__name__, self.param_groups, self.moment, compiled=self._seen["compiled"])

    def _fused_engine(self) -> Any:
        """The engine of the fused path, or None. What was chosen stays until the parameters change."""
        if torch.compiler.is_compiling() and not self._groups[0]["fused"]:
            if self._engine is not None:
                self._uncompiled(self._leave_fused)
            self._seen["compiled"] = True
            return None
        firsts = ((len(group["params"]), group["params"][0]) for group in self.param_groups if group["params"])
        now = tuple((n, type(p), p.dtype, p.device) for n, p in firsts)
        if now != self._chosen_for:
            sharded.refuse(type(self).__name__, self.param_groups, self._given)
            self._sharded = sharded.is_sharded(self.param_groups)
            name = self._fused_module()
            if self._engine is not None and type(self._engine).__module__ != name:
                self._leave_fused()
            if name is not None and self._engine is None:
                self._engine = importlib.import_module(name).Engine(self.moment, self.decoupled)
            self._chosen_for = now
        return self._engine

    def _leave_fused(self) -> None:
        self._engine.settle()
        self._engine = self._chosen_for = None

    @_disable_dynamo
    def _uncompiled(self, verb: Callable[..., Any], *arguments: Any) -> Any:
        return verb(*arguments)

    @property
    def backend(self) -> str:
        """The path that `step()` takes: "fused", "foreach" or "loop" (the first group's, where devices differ)."""
        if self._fused_module() is not None:
            return "fused"
        return "foreach" if multi_tensor(self.param_groups[0]) else "loop"

    def telemetry(self) -> dict[str, float]:
        """Statistics of ŝ, d, |m| and ρ for a log: see `tamft.optim.telemetry.statistics`. Waits for the device.

        Where parameters are sharded all processes must call it, and all get the same numbers. With 16-bit weights and
        rho > 0 also `applied_cosine`: between the applied and the intended perturbation.
        """
        states = [state for group in self.param_groups for _, state, _ in self._momenta(group)]
        if not states:
            return {}
        engine = self._fused_engine()
        known = None if engine is None else engine.square(self.param_groups, self._state)
        square = self._square(self.param_groups).item() if known is None else known
        values = statistics(self.param_groups, states, square)
        applied = applied_cosine(self._seen["applied"]) if engine is None else engine.applied
        return values if applied is None else values | {"applied_cosine": applied.item()}

    # ---- exact resume -------------------------------------------------------------------------------------------

    @property
    def state(self) -> Any:
        """The state of every parameter, as in torch.optim.

        The fused path may keep m divided by a number: whoever looks (a checkpoint, a copy, a reader) sees m, and the
        run goes on from exactly what was seen, as a resumed one would.
        """
        if self._engine is not None:
            self._engine.settle()
        return self._state

    @state.setter
    def state(self, value: Any) -> None:
        self._state = value  # as the chosen path keeps it

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Load a saved state, exactly: float32 state stays float32. Touches no weights and shares no memory.

        Options come from the checkpoint, as in torch.optim; the backend flags stay this optimizer's own. Raises
        ValueError, before anything is changed, for a state of another optimizer or of a newer format.
        """

        def remember(_: Optimizer, incoming: StateDict) -> None:
            refuse_foreign(self, incoming, FORMAT)
            self._incoming = incoming

        handle = self.register_load_state_dict_pre_hook(remember)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            self._incoming = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        if self._incoming is not None:
            state = exact_state(self, self._incoming, state)
        super().__setstate__({key: value for key, value in state.items() if key != "state"})
        self.state = state["state"]
        self.__dict__.setdefault("_seen", {"compiled": False, "applied": []})
        if self._engine is not None:
            self._engine.forget()
        self._chosen_for = None
