"""Saving and resuming: bitwise, in every dtype, from any path to any other."""

from io import BytesIO
from typing import Any

import pytest
import torch

from tests.optim.cases import FEW, FEW_IDS
from tests.optim.problem import (
    GROUPS,
    LINE,
    NAMES,
    PATHS,
    TORQUE_NAMES,
    Problem,
    assert_follows,
    bits,
    cls,
    groups_of,
    learning_rate,
    one_step,
    run_tamft,
    state_bits,
)

PROBLEM = Problem(missing=lambda step, i: i == 1 and step < 3)
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64", "bfloat16"])
few = pytest.mark.parametrize(("name", "options"), FEW, ids=FEW_IDS)


def through_a_file(value: Any) -> Any:
    """torch.save, then torch.load with weights_only: nothing but tensors and plain Python may be inside."""
    stream = BytesIO()
    torch.save(value, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def settings(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"lr": learning_rate(name), "weight_decay": 0.05, "allow_low_precision": True, **options}


def resumed(
    params: list[torch.nn.Parameter], saved: dict[str, Any], name: str, **options: Any
) -> tuple[list[torch.nn.Parameter], Any]:
    """Copies of the parameters under a fresh optimizer that has loaded `saved`."""
    fresh = [torch.nn.Parameter(p.detach().clone()) for p in params]
    optimizer = cls(name)(groups_of(fresh, GROUPS), **options)
    optimizer.load_state_dict(saved)
    return fresh, optimizer


def go_on(params: list[Any], optimizer: Any, first: int, last: int) -> None:
    for step in range(first, last):
        one_step(optimizer, PROBLEM, params, step, "train")


@each_dtype
@pytest.mark.parametrize("path", PATHS)
@few
def test_resume_is_bitwise(name, options, path, dtype):
    options = settings(name, options) | PATHS[path]
    params, optimizer = run_tamft(name, PROBLEM, dtype=dtype, last=6, **options)
    saved = through_a_file(optimizer.state_dict())
    fresh, fresh_optimizer = resumed(params, saved, name, **options)
    assert state_bits(fresh_optimizer) == state_bits(optimizer)
    go_on(params, optimizer, 6, 12)
    go_on(fresh, fresh_optimizer, 6, 12)
    assert [bits(p) for p in fresh] == [bits(p) for p in params]
    assert state_bits(fresh_optimizer) == state_bits(optimizer)


# Every path is left once and entered once, and both dialects meet in both directions.
MOVES = [
    ("loop", "foreach"),
    ("foreach", "loop"),
    ("fused", "loop"),
    ("loop", "fused"),
    ("fused", "foreach"),
    ("loop", "loop-capturable"),
    ("loop-capturable", "foreach-capturable"),
]
MOVES += [("foreach-capturable", "loop")]


@pytest.mark.parametrize(("path", "to"), MOVES)
@few
def test_resume_on_another_path_stays_on_the_line(name, options, path, to):
    options = settings(name, options)
    straight, _ = run_tamft(name, PROBLEM, dtype=torch.float32, **options, **PATHS[path])
    params, optimizer = run_tamft(name, PROBLEM, dtype=torch.float32, last=25, **options, **PATHS[path])
    fresh, other = resumed(params, through_a_file(optimizer.state_dict()), name, **options, **PATHS[to])
    assert other.backend == to.split("-")[0]  # the flags stay the new optimizer's own
    go_on(fresh, other, 25, 50)
    assert other.backend == to.split("-")[0]
    assert_follows(fresh, straight, PROBLEM.start, LINE)


@each_dtype
@few
def test_the_loaded_state_is_the_saved_one_in_value_dtype_and_memory(name, options, dtype):
    params, optimizer = run_tamft(name, PROBLEM, dtype=dtype, last=4, **settings(name, options))
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    for source in (optimizer.state_dict(), through_a_file(optimizer.state_dict())):
        _, loaded = resumed(params, source, name, **settings(name, options))
        assert state_bits(loaded) == state_bits(optimizer)
        for p, state in loaded.state.items():
            assert all(value.dtype == expected for key, value in state.items() if key not in ("step", "clean"))
            assert state["step"].is_floating_point() and state["step"].shape == ()
            for key, value in state.items():  # an optimizer that goes on must not change the checkpoint
                theirs = [s[key].data_ptr() for s in source["state"].values() if key in s]
                assert value.numel() == 0 or value.data_ptr() not in theirs
            assert all(value.shape in ((), p.shape) for value in state.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_clean_copy_survives_a_file_bitwise(name):
    """bf16 weights, saved while moved: the copy of the real weights travels with the state."""
    options = settings(name, {"rho": 0.3})
    params, optimizer = run_tamft(name, PROBLEM, dtype=torch.bfloat16, last=4, **options)
    clean = [bits(p) for p in params]
    optimizer.train()
    fresh, loaded = resumed(params, through_a_file(optimizer.state_dict()), name, **options)
    assert [bits(p) for p in fresh] != clean
    loaded.eval()
    assert [bits(p) for p in fresh] == clean


@pytest.mark.parametrize("name", NAMES)
def test_the_state_carries_its_format(name):
    _, optimizer = run_tamft(name, PROBLEM, last=2)
    saved = optimizer.state_dict()
    assert [group["tamft_format"] for group in saved["param_groups"]] == [1, 1]
    before = state_bits(optimizer)
    for version in (2, 99):
        for group in saved["param_groups"]:
            group["tamft_format"] = version
        with pytest.raises(ValueError, match=rf"format.*{version}"):
            optimizer.load_state_dict(saved)
        assert state_bits(optimizer) == before
        assert [group["tamft_format"] for group in optimizer.param_groups] == [1, 1]


@pytest.mark.parametrize("other", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("name", NAMES)
def test_a_state_of_torchs_optimizers_is_refused(name, other):
    params, optimizer = run_tamft(name, PROBLEM, last=2)
    theirs = other(groups_of(params, GROUPS), lr=1e-3)
    for stepped in (False, True):
        if stepped:
            theirs.step()
        before = state_bits(optimizer)
        with pytest.raises(ValueError, match="tamft"):
            optimizer.load_state_dict(theirs.state_dict())
        assert state_bits(optimizer) == before


@pytest.mark.parametrize(("name", "other"), [("AdaTAMW", "TAM"), ("MSAM", "AdamWMSAM"), ("TAM", "AdaTAM")])
def test_a_state_of_the_other_family_is_refused(name, other):
    _, ours = run_tamft(name, PROBLEM, last=2)
    _, theirs = run_tamft(other, PROBLEM, last=2)
    with pytest.raises(ValueError, match=name):
        ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_groups_that_do_not_fit_are_torchs_error(name):
    _, optimizer = run_tamft(name, PROBLEM, last=2)
    with pytest.raises(ValueError, match="parameter group"):
        cls(name)([torch.nn.Parameter(torch.ones(2))]).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_options_come_from_the_checkpoint(name):
    """As in torch.optim: the learning rate and the rest resume as they were saved."""
    _, optimizer = run_tamft(name, PROBLEM, last=2, lr=0.5, weight_decay=0.25, rho=0.125)
    params = PROBLEM.parameters(torch.float64)
    other = cls(name)(groups_of(params, GROUPS))
    other.load_state_dict(optimizer.state_dict())
    assert [(g["lr"], g["weight_decay"], g["rho"]) for g in other.param_groups] == [(0.5, 0.25, 0.125)] * 2


@pytest.mark.parametrize("path", ["loop", "foreach", "fused"])
@pytest.mark.parametrize("name", NAMES)
def test_a_float64_run_goes_on_in_a_float32_model(name, path):
    options = {"lr": learning_rate(name), "rho": 0.1, **PATHS[path]}
    params, optimizer = run_tamft(name, PROBLEM, last=6, **options)
    half = [torch.nn.Parameter(p.detach().float()) for p in params]
    other = cls(name)(groups_of(half, GROUPS), **options)
    other.load_state_dict(optimizer.state_dict())
    assert {x.dtype for s in other.state.values() for key, x in s.items() if key != "step"} == {torch.float32}
    for step in range(6, 20):
        one_step(optimizer, PROBLEM, params, step, "closure")
        one_step(other, PROBLEM, half, step, "closure")
    assert_follows(half, params, PROBLEM.start, LINE)


@pytest.mark.parametrize("name", NAMES)
def test_an_unused_parameter_has_no_state(name):
    """State is made lazily, by key: an optimizer that has not stepped saves and loads an empty one."""
    params = PROBLEM.parameters(torch.float32)
    optimizer = cls(name)(groups_of(params, GROUPS))
    assert optimizer.state_dict()["state"] == {}
    cls(name)(groups_of(params, GROUPS)).load_state_dict(through_a_file(optimizer.state_dict()))
    one_step(optimizer, PROBLEM, params, 0, "step")  # parameter 1 has no gradient yet
    assert set(optimizer.state_dict()["state"]) == {0, 2, 3, 4}


@pytest.mark.parametrize("name", NAMES)
def test_foreign_keys_in_a_state_are_left_alone(name):
    """Other code (a sharding library, a hook) may put its own entries there before the first step."""
    params = PROBLEM.parameters(torch.float64)
    optimizer = cls(name)(groups_of(params, GROUPS), lr=learning_rate(name))
    optimizer.state[params[0]]["theirs"] = 7
    for step in range(6):
        one_step(optimizer, PROBLEM, params, step, "closure")
    assert optimizer.state[params[0]]["theirs"] == 7
    expected, _ = run_tamft(name, PROBLEM, last=6, lr=learning_rate(name))
    assert [bits(p) for p in params] == [bits(p) for p in expected]


@pytest.mark.parametrize("name", TORQUE_NAMES)
def test_rescale_switched_on_later_starts_its_mean_then(name):
    """A checkpoint without D resumed with rescale=True: options come from the checkpoint, so it stays off."""
    params, optimizer = run_tamft(name, PROBLEM, last=3)
    _, other = resumed(params, optimizer.state_dict(), name, rescale=True)
    assert [group["rescale"] for group in other.param_groups] == [False, False]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_a_group_added_later_joins(name, path):
    params = PROBLEM.parameters(torch.float64)
    optimizer = cls(name)([{"params": params[:1]}], rho=0.3, lr=learning_rate(name), **PATHS[path])
    PROBLEM.set_gradients(0, params)
    optimizer.step()
    optimizer.add_param_group({"params": params[1:], "lr": 1e-3})
    for step in range(4, 8):
        one_step(optimizer, PROBLEM, params, step, "train")
    steps = [float(optimizer.state[p]["step"]) for p in params]
    assert steps == [5.0, 4.0, 4.0, 4.0, 4.0]
    fresh = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = cls(name)([{"params": fresh[:1]}, {"params": fresh[1:]}], **PATHS[path])
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    for o, q in ((optimizer, params), (other, fresh)):
        go_on(q, o, 8, 10)
    assert [bits(p) for p in fresh] == [bits(p) for p in params]
