"""The fused path with the compiled kernels, which small models do not load: its laws again, and ways of their own."""

import os
from typing import Any

import pytest
import torch

from tamft.optim import cpu_kernels
from tests.optim import (
    test_fused_cpu,
    test_fused_cpu_tensors,
    test_laws,
    test_perturbation,
    test_reference,
    test_special_tensors,
    test_state,
    test_telemetry,
    test_torch_limits,
)
from tests.optim.cases import CASES, FEW, FEW_IDS, IDS
from tests.optim.problem import (
    LINE,
    Problem,
    assert_follows,
    bits,
    cls,
    groups_of,
    learning_rate,
    one_step,
    run_tamft,
)

reason = "extra `numba` is not installed"
numba_kernels = pytest.importorskip("tamft.optim.numba_kernels", reason=reason, exc_type=ImportError)
numba_step = pytest.importorskip("tamft.optim.numba_step", reason=reason, exc_type=ImportError)

LAWS = (
    test_fused_cpu, test_fused_cpu_tensors, test_laws, test_perturbation, test_reference, test_special_tensors,
    test_state, test_telemetry, test_torch_limits,
)  # fmt: skip
for module in LAWS:
    for test in [name for name in vars(module) if name.startswith("test_") and callable(vars(module)[name])]:
        globals()[f"{module.__name__.rpartition('.')[2]}_{test.removeprefix('test_')}"] = vars(module)[test]

# A tensor of two pieces and a bit, one of exactly one, one of one more, and small ones.
LARGE = Problem(
    shapes=((2 * numba_kernels.PIECE + 5,), (numba_kernels.PIECE // 8, 8), (numba_kernels.PIECE + 1,), (3,), ()),
    steps=12,
)
few = pytest.mark.parametrize(("name", "options"), FEW, ids=FEW_IDS)


@pytest.fixture(autouse=True)
def _small_models_too(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "WORTH", 0)


def run(name: str, problem: Problem = LARGE, threads: int = 1, **options: Any) -> tuple[list[Any], Any]:
    """The fused path with so many threads; asserts that the compiled kernels were there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: threads)
        patch.setattr(numba_step, "ALONE", 1)
        got = run_tamft(name, problem, **{"dtype": torch.float32, "lr": learning_rate(name), "fused": True, **options})
    assert got[1]._engine._compiled is numba_step
    return got


@pytest.mark.parametrize(("label", "name", "options"), CASES, ids=IDS)
def test_tensors_of_several_pieces(label, name, options):
    options = {"lr": learning_rate(name), **options}
    expected, _ = run_tamft(name, LARGE, dtype=torch.float32, foreach=False, **options)
    assert_follows(run(name, **options)[0], expected, LARGE.start, LINE)


@few
def test_the_number_of_threads_does_not_show(name, options):
    alone, optimizer = run(name, **options)
    for threads in (2, 3, 16):
        together, other = run(name, threads=threads, **options)
        assert [bits(p) for p in together] == [bits(p) for p in alone]
        assert other.telemetry() == optimizer.telemetry()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_steps_with_threads_of_its_own():
    before, _ = run("AdaTAMW", threads=2)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            after, _ = run("AdaTAMW", threads=2)
            code = 0 if [bits(p) for p in after] == [bits(p) for p in before] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_small_models_do_without(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "WORTH", 1000)
    for elements, module in ((999, None), (1000, numba_step)):
        p = torch.nn.Parameter(torch.ones(elements))
        optimizer = cls("AdaTAMW")([p], fused=True)
        p.grad = torch.ones(elements)
        optimizer.step()
        assert optimizer._engine._compiled is module


def test_without_numba_torchs_kernels_do_it(monkeypatch):
    expected, _ = run("AdaTAMW", rho=0.1)
    monkeypatch.setattr(cpu_kernels, "compiled_kernels", lambda: None)
    got, optimizer = run_tamft("AdaTAMW", LARGE, dtype=torch.float32, lr=learning_rate("AdaTAMW"), rho=0.1, fused=True)
    assert optimizer._engine._compiled is None and optimizer.backend == "fused"
    assert_follows(got, expected, LARGE.start, LINE)


@pytest.mark.parametrize("error", [ImportError, SystemError, OSError, NotImplementedError])
def test_a_numba_that_does_not_work_is_not_there(error, monkeypatch):
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise error("numba needs an older numpy, or room on the disk")

    assert cpu_kernels.compiled_kernels.__wrapped__() is numba_step
    with monkeypatch.context() as patch:
        patch.setattr(numba_step, "step", broken)
        assert cpu_kernels.compiled_kernels.__wrapped__() is None
    monkeypatch.setattr(cpu_kernels.importlib, "import_module", broken)
    assert cpu_kernels.compiled_kernels.__wrapped__() is None


def test_a_numba_that_computes_something_else_is_not_used(monkeypatch):
    real = numba_step.step

    def step(*args: Any, **kwargs: Any) -> Any:
        s_hats, means, squares = real(*args, **kwargs)
        return [1.01 * s for s in s_hats], means, squares

    assert numba_step.works()
    monkeypatch.setattr(numba_step, "step", step)
    assert not numba_step.works()


def test_without_threads_one_does_it_all(monkeypatch):
    """None can be started, or the interpreter is ending and gives them no work: the same bits."""
    expected, _ = run("AdaTAMW", rho=0.1)
    pool = numba_step._pool(2)
    monkeypatch.setattr(pool, "_shutdown", True)
    late, _ = run("AdaTAMW", rho=0.1, threads=3)

    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(numba_step.ThreadPoolExecutor, "_adjust_thread_count", refuse)
    assert numba_step._pool.__wrapped__(2) is None
    monkeypatch.setattr(numba_step, "_pool", lambda threads: None)
    alone, _ = run("AdaTAMW", rho=0.1, threads=3)
    assert [bits(p) for p in expected] == [bits(p) for p in late] == [bits(p) for p in alone]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", ["AdaTAMW", "TAM"])
def test_ctrl_c_in_a_step_leaves_weights_that_eval_does_not_spoil(name, threads, monkeypatch):
    """Python raises it when the kernels have done their work."""
    one_group: Any = [(list(range(5)), {})]
    expected, _ = run(name, rho=0.1, threads=threads, drive="train", groups=one_group)
    real = numba_step.step

    def interrupted(*args: Any) -> Any:
        real(*args)
        raise KeyboardInterrupt

    params = LARGE.parameters(torch.float32)
    optimizer = cls(name)(groups_of(params, one_group), lr=learning_rate(name), fused=True, rho=0.1)
    for step in range(LARGE.steps):
        if step == LARGE.steps - 1:
            monkeypatch.setattr(numba_step, "step", interrupted)
            with pytest.raises(KeyboardInterrupt):
                one_step(optimizer, LARGE, params, step, "train")
        else:
            one_step(optimizer, LARGE, params, step, "train")
    assert all(slot.square is None for slot in optimizer._engine.slots.values())
    optimizer.eval()
    assert [bits(p) for p in params] == [bits(p) for p in expected]
