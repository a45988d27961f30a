"""torch.compile of train() and step(): one graph, no recompilation after step 2, the eager loop's numbers."""

import os
import shutil
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from tests.optim.cases import FEW
from tests.optim.problem import LINE, Problem, assert_follows, bits, cls, learning_rate, state_bits

# torch 2.6 compiles most of it too, but breaks the graph for some options.
pytestmark = pytest.mark.skipif(
    torch.__version__ < "2.13", reason="compiled steps are promised from torch 2.13 on, where they were measured"
)
PROBLEM = Problem(shapes=((5, 3), (7,), ()))
MORE = [
    ("AdaTAMW", {"torque": False, "weight_decay": 0.1}),
    ("TAM", {"alignment": "global"}),
    ("AdaTAMW", {"torque_steps": 9, "rho": 0.1, "maximize": True}),
]
# A number with the loop, a 0-d tensor with foreach: both kinds of learning rate, both paths.
KINDS: dict[str, dict[str, Any]] = {"loop": {"foreach": False}, "foreach": {"foreach": True, "capturable": True}}
kinds = pytest.mark.parametrize("kind", KINDS)
# Compiling takes seconds: every case on one path, in turns, so that each class and each option meets a compiler.
CASES = [(name, options, list(KINDS)[i % 2]) for i, (name, options) in enumerate(FEW + MORE)]
IDS = [f"{name}-{','.join(options) or 'default'}-{kind}" for name, options, kind in CASES]
# What a torch.compile with no backend of its own needs on a CPU.
needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")),
    reason="torch's inductor needs a C++ compiler (g++), and none is here",
)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def inductor(tmp_path, monkeypatch):
    """torch's own backend, with an empty cache and in this process alone."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with torch._inductor.config.patch(compile_threads=1):
        yield "inductor"


def rate(name: str, options: dict[str, Any], step: int) -> float:
    """A learning rate that is new at every step."""
    return options.get("lr", learning_rate(name)) * (1 - step / 100)


def run(name, options, kind, *, steps=50, backend=None, compile_train=False, dtype=torch.float32, compiles=None):
    """`steps` steps, compiled with `backend`, eagerly without; returns parameters and optimizer.

    Appends to `compiles` how often the compiler had run after each step.
    """
    params = PROBLEM.parameters(dtype)
    as_tensor = kind == "foreach"
    lr = torch.tensor(rate(name, options, 0)) if as_tensor else rate(name, options, 0)
    optimizer = cls(name)(
        [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.05}], **{**options, "lr": lr}, **KINDS[kind]
    )
    train, step = optimizer.train, optimizer.step
    counter = None
    if backend is not None:
        counter = CompileCounterWithBackend(backend)
        step = torch.compile(optimizer.step, backend=counter, fullgraph=True)
        if compile_train:
            train = torch.compile(optimizer.train, backend=backend, fullgraph=True)
    for i in range(steps):
        for group in optimizer.param_groups:
            if as_tensor:
                group["lr"].fill_(rate(name, options, i))
            else:
                group["lr"] = rate(name, options, i)
        train()
        PROBLEM.set_gradients(i, params)
        step()
        if compiles is not None:
            compiles.append(counter.frame_count)
    return params, optimizer


@pytest.mark.parametrize(("name", "options", "kind"), CASES, ids=IDS)
def test_one_graph_few_compilations_the_same_numbers(name, options, kind):
    options = {"lr": 2e-3, **options} if options.get("first_moment") == "sum" else options
    compiles: list[int] = []
    params, optimizer = run(name, options, kind, backend="aot_eager", compiles=compiles)
    # The first step makes the state, the second finds it: no other difference may cost a compilation.
    assert compiles == [1] + [2] * 49
    assert not counters["graph_break"]
    expected, eager = run(name, options, "loop")
    assert_follows(params, expected, PROBLEM.start, LINE)
    capturable = KINDS[kind].get("capturable", False)
    assert all(group["capturable"] is capturable and not group["moved"] for group in optimizer.param_groups)
    state = optimizer.state_dict()["state"]
    assert {index: set(entry) for index, entry in state.items()} == {
        index: set(entry) for index, entry in eager.state_dict()["state"].items()
    }
    assert all(entry["step"] == 50 for entry in state.values())


@pytest.mark.parametrize(("rho_start", "kind"), [(0, "foreach"), (4, "loop")])
def test_train_compiles_too(kind, rho_start):
    options = {"rho": 0.3, "rho_start": rho_start}
    params, optimizer = run("AdaTAMW", options, kind, backend="aot_eager", compile_train=True)
    expected, _ = run("AdaTAMW", options, "loop")
    assert_follows(params, expected, PROBLEM.start, LINE)
    optimizer.train()
    assert all(group["moved"] and group["scale"] > 0 for group in optimizer.param_groups)
    assert not counters["graph_break"]


@kinds
def test_the_end_of_rho_start_costs_at_most_one_compilation(kind):
    compiles: list[int] = []
    options = {"rho": 0.3, "rho_start": 4}
    params, _ = run("AdamWMSAM", options, kind, backend="aot_eager", compiles=compiles)
    assert compiles[1] == 2 and compiles[-1] == (2 if KINDS[kind].get("capturable") else 3)
    assert_follows(params, run("AdamWMSAM", options, "loop")[0], PROBLEM.start, LINE)


@pytest.mark.parametrize(("name", "kind"), [("TAM", "foreach"), ("AdaTAMW", "loop")])
def test_bitwise_reproducible(name, kind):
    runs = []
    for _ in range(2):
        torch._dynamo.reset()
        params, optimizer = run(name, {"rho": 0.1}, kind, steps=8, backend="aot_eager")
        runs.append(([bits(p) for p in params], state_bits(optimizer)))
    assert runs[0] == runs[1]


def test_16_bit_weights():
    options = {"rho": 0.3, "allow_low_precision": True}
    compiles: list[int] = []
    params, optimizer = run(
        "AdaTAMW", options, "loop", steps=10, backend="aot_eager", dtype=torch.bfloat16, compiles=compiles
    )
    expected, _ = run("AdaTAMW", options, "loop", steps=10, dtype=torch.bfloat16)
    assert compiles[1] == compiles[-1]
    assert all("clean" not in state for state in optimizer.state.values())
    for got, want in zip(params, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=2e-2, atol=2e-2)


def test_a_scheduler_and_a_checkpoint_in_between():
    """Compiled, saved, loaded into an eager optimizer and back: the eager run's numbers."""

    def drive(compiled: tuple[bool, bool]) -> list[torch.nn.Parameter]:
        params, state = PROBLEM.parameters(torch.float32), None
        for part, compiles in enumerate(compiled):
            optimizer = cls("AdaTAMW")(params, lr=learning_rate("AdaTAMW"), rescale=True)
            if state is not None:
                optimizer.load_state_dict(state)
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
            # The scheduler wraps `step` in a function of torch that is never compiled: what it calls is, as one graph.
            counter = CompileCounterWithBackend("aot_eager")
            step = torch.compile(optimizer.step, backend=counter) if compiles else optimizer.step
            for i in range(25 * part, 25 * part + 25):
                PROBLEM.set_gradients(i, params)
                step()
                scheduler.step()
                assert not compiles or counter.frame_count <= 2
            assert not compiles or counter.frame_count > 0
            state = optimizer.state_dict()
        return params

    expected = drive((False, False))
    for compiled in ((True, False), (False, True)):
        assert_follows(drive(compiled), expected, PROBLEM.start, LINE)


@pytest.mark.parametrize("first", [0, 3], ids=["from the start", "after fused steps"])
@pytest.mark.parametrize(("name", "options"), [("TAM", {"rescale": True}), ("AdaTAMW", {"rho": 0.3})])
def test_compiled_steps_leave_the_fused_path(name, options, first):
    """The first compiled step settles what fused steps left; train(), which is not compiled here, follows it."""
    results = []
    for compiled in (True, False):
        params = PROBLEM.parameters(torch.float32)
        optimizer = cls(name)(params, lr=learning_rate(name), **options)
        step = torch.compile(optimizer.step, backend="aot_eager", fullgraph=first == 0) if compiled else optimizer.step
        for i in range(50):
            optimizer.train()
            PROBLEM.set_gradients(i, params)
            optimizer.step() if i < first else step()
        assert optimizer.backend == ("loop" if compiled else "fused")
        assert len(optimizer.telemetry()) > 5
        results.append(params)
    assert_follows(*results, PROBLEM.start, LINE)


@pytest.mark.parametrize("name", ["TAM", "AdaTAMW"])
def test_fused_true_is_obeyed_and_not_compiled(name):
    results = []
    for compiled in (True, False):
        params = PROBLEM.parameters(torch.float32)
        optimizer = cls(name)(params, lr=learning_rate(name), fused=True)
        step = torch.compile(optimizer.step, backend="aot_eager") if compiled else optimizer.step
        for i in range(3):
            PROBLEM.set_gradients(i, params)
            step()
        assert optimizer.backend == "fused"
        results.append([bits(p) for p in params])
    assert results[0] == results[1]


def test_a_gradient_at_the_wrong_place_is_still_refused():
    params = PROBLEM.parameters(torch.float32)
    optimizer = cls("MSAM")(params, rho=0.3)
    step = torch.compile(optimizer.step, backend="aot_eager")
    PROBLEM.set_gradients(0, params)
    step()
    with pytest.raises(RuntimeError, match=r"optimizer\.train\(\)"):
        step()


@needs_compiler
@pytest.mark.slow
def test_inductor_keeps_what_rounding_took(inductor):
    """Left to itself, it would use the float32 weights that it has at hand in place of the rounded ones."""
    options = {"lr": 1e-4, "kahan_sum": True}
    runs = [run("AdaTAMW", options, "loop", steps=9, backend=name, dtype=torch.bfloat16) for name in (inductor, None)]
    (params, compiled), (expected, eager) = runs
    for p, q in zip(params, expected, strict=True):
        kept, wanted = compiled.state[p]["compensation"], eager.state[q]["compensation"]
        assert wanted.any()
        torch.testing.assert_close(p.float() + kept.float(), q.float() + wanted.float(), rtol=0, atol=2e-6)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "kind"), [("TAM", {"rescale": True}, "loop"), ("AdaTAMW", {"rho": 0.3}, "foreach")]
)
def test_inductor(name, options, kind, inductor):
    compiles: list[int] = []
    params, _ = run(name, options, kind, backend=inductor, compiles=compiles)
    assert compiles == [1] + [2] * 49
    assert_follows(params, run(name, options, "loop")[0], PROBLEM.start, LINE)
