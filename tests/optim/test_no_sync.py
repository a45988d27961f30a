"""On an accelerator the host must never wait for a value. Seen here without one: no tensor's value is asked for."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tamft import MSAM, TAM, AdamWMSAM, AdaTAM, AdaTAMW
from tamft.optim import ops

TORQUE = [
    {},
    {"rho": 0.1},
    {"rho": 0.1, "rho_start": 2, "alignment": "global", "rescale": True, "torque_steps": 2, "weight_decay": 0.1},
]
CASES = [(cls, options) for cls in (TAM, AdaTAM, AdaTAMW) for options in TORQUE]
CASES += [(cls, options) for cls in (MSAM, AdamWMSAM) for options in ({}, {"rho_start": 2, "maximize": True})]
IDS = [f"{cls.__name__}-{'-'.join(options) or 'default'}" for cls, options in CASES]


class Asked(TorchDispatchMode):
    """Counts how often Python asked for the value of a tensor: item(), float(), bool(), tolist()."""

    def __init__(self):
        super().__init__()
        self.times = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.times += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _as_on_an_accelerator(monkeypatch):
    """A CPU may look at a dot product for free; the code for other devices is the one under test."""
    monkeypatch.setattr(ops, "_may_ask", lambda x: False)


def asked(cls, options, *, capturable, foreach, steps=4):
    """How often a value was asked for during `steps` steps over two tensors, and the optimizer."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (5,))]
    lr = torch.tensor(0.01) if capturable else 0.01
    optimizer = cls(params, lr=lr, capturable=capturable, foreach=foreach, **options)
    with Asked() as counter:
        for _ in range(steps):
            optimizer.train()
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
    return counter.times, optimizer


@pytest.mark.parametrize("foreach", [False, True], ids=["loop", "foreach"])
@pytest.mark.parametrize(("cls", "options"), CASES, ids=IDS)
def test_capturable_asks_for_nothing(cls, options, foreach):
    times, optimizer = asked(cls, options, capturable=True, foreach=foreach)
    assert times == 0
    assert optimizer.telemetry()["momentum_norm"] > 0


@pytest.mark.parametrize("foreach", [False, True], ids=["loop", "foreach"])
@pytest.mark.parametrize(("cls", "options"), CASES, ids=IDS)
def test_otherwise_only_the_step_counts_are_read(cls, options, foreach):
    """They live on the CPU, one for each tensor; `rho_start` looks at the newest in train() and in step()."""
    times, optimizer = asked(cls, options, capturable=False, foreach=foreach)
    assert all(state["step"].is_cpu for state in optimizer.state.values())
    early = 2 * 3 if options.get("rho_start") else 0
    assert 2 * 4 <= times <= 2 * 4 + early


def test_the_counter_counts():
    with Asked() as counter:
        float(torch.ones(()))
        bool(torch.ones(()) > 0)
    assert counter.times == 2
