"""The Adam family: AdaTAM, AdaTAMW (arXiv 2412.18790) and AdamW with Momentum-SAM (arXiv 2401.12033)."""

from typing import Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT

from tamft.optim.base import MomentumOptimizer
from tamft.optim.options import given


class AdaTAM(MomentumOptimizer):
    """Adam with Torque-Aware Momentum in its first moment (arXiv 2412.18790).

        s_t = <m_{t-1}, g_t> / (|m_{t-1}| |g_t|)     ŝ_t = γ ŝ_{t-1} + (1-γ) s_t     d_t = (1 + ŝ_t) / 2
        m_t = β1 m_{t-1} + (1-β1)(ε + d_t) g_t       v_t = β2 v_{t-1} + (1-β2) g_t²
        θ_t = θ_{t-1} - η m̂_t / (√v̂_t + eps)

    With `torque=False` and `rho=0` it is torch.optim.Adam, bit for bit.

    Args:
        params: parameters, named parameters or dicts of parameter groups, as in torch.optim.
        lr: learning rate η, >= 0; a number or a 0-d tensor (default: 1e-3)
        betas: (β1, β2), each in [0, 1) (default: (0.9, 0.999))
        eps: >= 0, added to the root of the second moment (default: 1e-8)
        weight_decay: coupled decay λ >= 0: λθ joins the gradient, where the gradient was taken (default: 0)
        gamma: γ in [0, 1], memory of the smoothed alignment ŝ; 1 freezes d = 1/2, the null control (default: 0.9)
        torque_eps: ε >= 0, smallest weight of a gradient (default: 1e-8)
        torque: False replaces the factor ε + d by exactly 1 (default: True)
        alignment: "tensor" has one cosine per parameter tensor, "global" one for the whole model (default: "tensor")
        torque_steps: ŝ is frozen after so many steps, None for never: the paper's warm-up (default: None)
        rescale: True divides m by the mean factor inside it in the update, so that the torque re-weights steps but
            leaves the learning rate's scale alone (default: False)
        first_moment: "ema": Adam's average with bias corrections, an AdamW rate carries over up to the factor 1/E[d],
            about 2 (see `transfer_lr`); "sum": m = β1 m + (ε + d) g without corrections, whose update at the same rate
            is 5 times (noise) to 10 times (aligned), early on up to 53 times AdamW's (default: "ema")
        rho: radius ρ >= 0 of the momentum perturbation, 0 for none (default: 0)
        rho_start: number of first steps without perturbation (default: 0)
        allow_low_precision: allow rho > 0 with bf16 or fp16 weights, at 2 more bytes per parameter (default: False)
        kahan_sum: bf16 and fp16 weights keep what rounding took from them, at 2 more bytes per parameter, and follow
            float32 weights closely; nothing changes for other weights (default: False)
        maximize: maximise instead of minimise (default: False)
        foreach: multi-tensor operations; None chooses, True obeys or raises (default: None)
        fused: fused kernels; None chooses, True obeys or raises (default: None)
        capturable: keep the step count on the device, for CUDA graphs (default: False)
        differentiable: let autograd run through the step; not with rho > 0 (default: False)

    Raises:
        ValueError: an option out of range, unequal in groups where it must be equal; rho > 0 with 16-bit weights.
        RuntimeError: fused=True where it cannot be had; sparse gradients; a step with rho > 0 whose gradient was taken
            at the real weights.
    """

    moment = "exp_avg"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        gamma: float = 0.9,
        torque_eps: float = 1e-8,
        torque: bool = True,
        alignment: Literal["tensor", "global"] = "tensor",
        torque_steps: int | None = None,
        rescale: bool = False,
        first_moment: Literal["ema", "sum"] = "ema",
        rho: float = 0.0,
        rho_start: int = 0,
        allow_low_precision: bool = False,
        kahan_sum: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, given(locals()))


class AdaTAMW(MomentumOptimizer):
    """AdamW with Torque-Aware Momentum in its first moment (arXiv 2412.18790): AdaTAM with decoupled decay.

        s_t = <m_{t-1}, g_t> / (|m_{t-1}| |g_t|)     ŝ_t = γ ŝ_{t-1} + (1-γ) s_t     d_t = (1 + ŝ_t) / 2
        m_t = β1 m_{t-1} + (1-β1)(ε + d_t) g_t       v_t = β2 v_{t-1} + (1-β2) g_t²
        θ_t = (1 - ηλ) θ_{t-1} - η m̂_t / (√v̂_t + eps)

    With `torque=False` and `rho=0` it is torch.optim.AdamW, bit for bit. With `rho > 0` the gradient is taken at
    θ - ρ m/|m|: call `optimizer.train()` before the forward pass, or pass a closure to `step()`.

    Args:
        params: parameters, named parameters or dicts of parameter groups, as in torch.optim.
        lr: learning rate η, >= 0; a number or a 0-d tensor (default: 1e-3)
        betas: (β1, β2), each in [0, 1) (default: (0.9, 0.999))
        eps: >= 0, added to the root of the second moment (default: 1e-8)
        weight_decay: decoupled decay λ >= 0: θ shrinks by the factor 1 - ηλ, at the real weights (default: 1e-2)
        gamma: γ in [0, 1], memory of the smoothed alignment ŝ; 1 freezes d = 1/2, the null control (default: 0.9)
        torque_eps: ε >= 0, smallest weight of a gradient (default: 1e-8)
        torque: False replaces the factor ε + d by exactly 1 (default: True)
        alignment: "tensor" has one cosine per parameter tensor, "global" one for the whole model (default: "tensor")
        torque_steps: ŝ is frozen after so many steps, None for never: the paper's warm-up (default: None)
        rescale: True divides m by the mean factor inside it in the update, so that the torque re-weights steps but
            leaves the learning rate's scale alone (default: False)
        first_moment: "ema": Adam's average with bias corrections, an AdamW rate carries over up to the factor 1/E[d],
            about 2 (see `transfer_lr`); "sum": m = β1 m + (ε + d) g without corrections, whose update at the same rate
            is 5 times (noise) to 10 times (aligned), early on up to 53 times AdamW's (default: "ema")
        rho: radius ρ >= 0 of the momentum perturbation, 0 for none (default: 0)
        rho_start: number of first steps without perturbation (default: 0)
        allow_low_precision: allow rho > 0 with bf16 or fp16 weights, at 2 more bytes per parameter (default: False)
        kahan_sum: bf16 and fp16 weights keep what rounding took from them, at 2 more bytes per parameter, and follow
            float32 weights closely; nothing changes for other weights (default: False)
        maximize: maximise instead of minimise (default: False)
        foreach: multi-tensor operations; None chooses, True obeys or raises (default: None)
        fused: fused kernels; None chooses, True obeys or raises (default: None)
        capturable: keep the step count on the device, for CUDA graphs (default: False)
        differentiable: let autograd run through the step; not with rho > 0 (default: False)

    Raises:
        ValueError: an option out of range, unequal in groups where it must be equal; rho > 0 with 16-bit weights.
        RuntimeError: fused=True where it cannot be had; sparse gradients; a step with rho > 0 whose gradient was taken
            at the real weights.
    """

    moment = "exp_avg"
    decoupled = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        gamma: float = 0.9,
        torque_eps: float = 1e-8,
        torque: bool = True,
        alignment: Literal["tensor", "global"] = "tensor",
        torque_steps: int | None = None,
        rescale: bool = False,
        first_moment: Literal["ema", "sum"] = "ema",
        rho: float = 0.0,
        rho_start: int = 0,
        allow_low_precision: bool = False,
        kahan_sum: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, given(locals()))


class AdamWMSAM(MomentumOptimizer):
    """AdamW with Momentum-SAM: the gradient is taken at θ̃ = θ - ρ m/|m|, at no extra cost (arXiv 2401.12033).

        g_t = ∇f(θ̃_{t-1})     m_t = β1 m_{t-1} + (1-β1) g_t     v_t = β2 v_{t-1} + (1-β2) g_t²
        θ_t = (1 - ηλ) θ_{t-1} - η m̂_t / (√v̂_t + eps)

    The weights are the real ones whenever `step()` has returned. Call `optimizer.train()` before the forward pass
    (Hugging Face's Trainer does), or pass a closure to `step()`. With `rho=0` it is torch.optim.AdamW, bit for bit.

    Args:
        params: parameters, named parameters or dicts of parameter groups, as in torch.optim.
        lr: learning rate η, >= 0; a number or a 0-d tensor (default: 1e-3)
        betas: (β1, β2), each in [0, 1) (default: (0.9, 0.999))
        eps: >= 0, added to the root of the second moment (default: 1e-8)
        weight_decay: decoupled decay λ >= 0: θ shrinks by the factor 1 - ηλ, at the real weights (default: 1e-2)
        rho: radius ρ >= 0 of the momentum perturbation; |m| runs over all groups with rho > 0 (default: 0.3)
        rho_start: number of first steps without perturbation (default: 0)
        allow_low_precision: allow rho > 0 with bf16 or fp16 weights, at 2 more bytes per parameter (default: False)
        kahan_sum: bf16 and fp16 weights keep what rounding took from them, at 2 more bytes per parameter, and follow
            float32 weights closely; nothing changes for other weights (default: False)
        maximize: maximise instead of minimise (default: False)
        foreach: multi-tensor operations; None chooses, True obeys or raises (default: None)
        fused: fused kernels; None chooses, True obeys or raises (default: None)
        capturable: keep the step count on the device, for CUDA graphs (default: False)
        differentiable: let autograd run through the step; not with rho > 0 (default: False)

    Raises:
        ValueError: an option out of range, unequal in groups where it must be equal; rho > 0 with 16-bit weights.
        RuntimeError: fused=True where it cannot be had; sparse gradients; a step with rho > 0 whose gradient was taken
            at the real weights.
    """

    moment = "exp_avg"
    decoupled = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        rho: float = 0.3,
        rho_start: int = 0,
        allow_low_precision: bool = False,
        kahan_sum: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, given(locals()))
