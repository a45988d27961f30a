"""torch's own table of optimizers (OptimizerInfo), with our five entries, driven through what torch asks of its own.

Perturbing classes run twice: with rho = 0 by bare `step()`, as torch's tests do, and with their rho by closure.
"""

import copy
import pickle
import warnings
from io import BytesIO

import pytest
import torch
from torch.optim import lr_scheduler as schedulers

from tests.optim.info import DRIVES, INFOS, Task, common, rho, settings
from tests.optim.problem import state_bits

each = pytest.mark.parametrize("info", INFOS, ids=lambda info: info.optim_cls.__name__)
drives = pytest.mark.parametrize("drive", DRIVES)
impls = pytest.mark.parametrize("impl", [{"foreach": False}, {"foreach": True}, {"capturable": True}], ids=str)


@each
def test_error_inputs(info):
    for entry in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
        given = entry.optimizer_error_input
        params = [torch.nn.Parameter(torch.randn(1, 1))] if given.params is None else given.params
        assert entry.error_on is common.OptimizerErrorEnum.CONSTRUCTION_ERROR
        if issubclass(entry.error_type, Warning):
            with pytest.warns(entry.error_type, match=entry.error_regex):
                info.optim_cls(params, **given.kwargs)
        else:
            with pytest.raises(entry.error_type, match=entry.error_regex):
                info.optim_cls(params, **given.kwargs)


@each
@drives
@impls
def test_goes_in_the_right_direction(info, drive, impl):
    for options in settings(info, drive):
        if isinstance(options["lr"], torch.Tensor) and impl.get("foreach"):
            continue
        task = Task()
        before = task.closure().item()
        task.run(info.optim_cls(task.params, **options, **impl), drive, 20)
        after = task.closure().item()
        assert after > before if options.get("maximize") else after < before


@each
@drives
def test_goes_in_the_right_direction_under_schedulers(info, drive):
    for scheduler_inputs in info.scheduler_inputs:
        for groups in (False, True):
            task = Task()
            params = [{"params": [task.weight]}, {"params": [task.bias], "lr": 5e-3}] if groups else task.params
            optimizer = info.optim_cls(params, lr=1e-2, **rho(info, drive))
            made = [make(optimizer) for make in scheduler_inputs]
            before = task.closure().item()

            def advance(loss, made=made):
                for scheduler in made:
                    on_plateau = isinstance(scheduler, schedulers.ReduceLROnPlateau)
                    scheduler.step(loss.item()) if on_plateau else scheduler.step()

            task.run(optimizer, drive, 20, advance)
            assert task.closure().item() < before


@each
@drives
def test_foreach_matches_the_loop(info, drive):
    for options in settings(info, drive):
        options["lr"] = float(options["lr"])
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 5e-6)):
            tasks = [Task(dtype), Task(dtype)]
            for task, foreach in zip(tasks, (False, True), strict=True):
                task.run(info.optim_cls(task.params, foreach=foreach, **options), drive, 7)
            for a, b in zip(tasks[0].params, tasks[1].params, strict=True):
                torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@each
@drives
def test_a_tensor_learning_rate_is_the_number(info, drive):
    for impl in ({"foreach": False}, {"foreach": False, "capturable": True}, {"foreach": True, "capturable": True}):
        tasks = [Task(), Task()]
        rate = 0.01171875  # exact in float32
        for task, lr in zip(tasks, (rate, torch.tensor(rate)), strict=True):
            optimizer = info.optim_cls(task.params, lr=lr, **rho(info, drive), **impl)
            task.run(optimizer, drive, 5)
            assert type(optimizer.param_groups[0]["lr"]) is type(lr)
        for a, b in zip(tasks[0].params, tasks[1].params, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


@each
@drives
def test_a_tensor_learning_rate_follows_its_scheduler(info, drive):
    tasks = [Task(), Task()]
    for task, lr in zip(tasks, (0.0078125, torch.tensor(0.0078125)), strict=True):
        optimizer = info.optim_cls(task.params, lr=lr, foreach=False, **rho(info, drive))
        scheduler = schedulers.StepLR(optimizer, step_size=2, gamma=0.5)
        task.run(optimizer, drive, 6, lambda loss, scheduler=scheduler: scheduler.step())
    for a, b in zip(tasks[0].params, tasks[1].params, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


@each
@drives
@impls
def test_state_dict_round_trip_with_weights_only(info, drive, impl):
    for options in settings(info, drive):
        options["lr"] = float(options["lr"])
        task = Task(torch.float32)
        optimizer = info.optim_cls(task.params, **options, **impl)
        task.run(optimizer, drive, 3)
        stream = BytesIO()
        torch.save(optimizer.state_dict(), stream)
        stream.seek(0)
        other_task = copy.deepcopy(task)
        other = info.optim_cls(other_task.params, **options, **impl)
        with warnings.catch_warnings(action="error"):
            other.load_state_dict(torch.load(stream, weights_only=True))
        for o, t in ((optimizer, task), (other, other_task)):
            t.run(o, drive, 3)
        assert other_task.bits() == task.bits() and state_bits(other) == state_bits(optimizer)


@each
@drives
@pytest.mark.parametrize("how", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["copy", "pickle"])
def test_deepcopy_and_pickle(info, drive, how):
    task = Task()
    optimizer = info.optim_cls(task.params, lr=1e-2, **rho(info, drive))
    task.run(optimizer, drive, 3)
    task_copy, optimizer_copy = how((task, optimizer))
    public = {key for key in vars(optimizer) if not key.startswith("_")}
    assert public == {key for key in vars(optimizer_copy) if not key.startswith("_")}
    assert repr(optimizer_copy) == repr(optimizer)
    for t, o in ((task, optimizer), (task_copy, optimizer_copy)):
        t.run(o, drive, 3)
    assert task_copy.bits() == task.bits() and state_bits(optimizer_copy) == state_bits(optimizer)


@each
@drives
def test_state_dict_and_step_hooks(info, drive):
    task = Task()
    optimizer = info.optim_cls(task.params, lr=1e-2, **rho(info, drive))
    calls: list[str] = []

    def change(o, state_dict):
        calls.append("post")
        return {**state_dict, "param_groups": [{**g, "lr": 0.5} for g in state_dict["param_groups"]]}

    hooks = [
        optimizer.register_state_dict_pre_hook(lambda o: calls.append("pre")),
        optimizer.register_state_dict_post_hook(change),
        optimizer.register_step_pre_hook(lambda o, args, kwargs: calls.append("step pre")),
        optimizer.register_step_post_hook(lambda o, args, kwargs: calls.append("step post")),
        optimizer.register_load_state_dict_pre_hook(lambda o, state_dict: calls.append("load pre")),
        optimizer.register_load_state_dict_post_hook(lambda o: calls.append("load post")),
    ]
    task.run(optimizer, drive, 1)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["lr"] == 0.5 and optimizer.param_groups[0]["lr"] == 1e-2
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert calls == ["step pre", "step post", "pre", "post", "load pre", "load post"]
    for hook in hooks:
        hook.remove()
    task.run(optimizer, drive, 1)
    assert len(calls) == 6
    # a pre-hook may hand over another state; prepend and append keep their order
    replaced = copy.deepcopy(saved)
    for group in replaced["param_groups"]:
        group["lr"] = 0.25
    optimizer.register_load_state_dict_pre_hook(lambda o, state_dict: replaced)
    optimizer.register_load_state_dict_pre_hook(lambda o, state_dict: calls.append("first"), prepend=True)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.25 and calls[-1] == "first"


@each
@drives
def test_a_state_without_the_newer_flags_loads(info, drive):
    task = Task()
    optimizer = info.optim_cls(task.params, lr=1e-2, **rho(info, drive))
    task.run(optimizer, drive, 2)
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        for flag in info.not_og_supported_flags:
            del group[flag]
    optimizer.load_state_dict(saved)
    before = task.bits()
    task.run(optimizer, drive, 2)
    assert task.bits() != before


@each
@drives
@impls
def test_complex_parameters(info, drive, impl):
    for dtype in (torch.complex64, torch.complex128):
        for options in settings(info, drive):
            if isinstance(options["lr"], torch.Tensor):
                continue
            task = Task(dtype)
            before = task.closure().item()
            task.run(info.optim_cls(task.params, **options, **impl), drive, 8)
            after = task.closure().item()
            assert after > before if options.get("maximize") else after < before


@each
@drives
def test_groups_have_their_own_rate_and_decay(info, drive):
    task = Task()
    start = task.bits()
    groups = [{"params": [task.weight], "lr": 0.0}, {"params": [task.bias]}]
    optimizer = info.optim_cls(groups, lr=1e-2, **rho(info, drive))
    task.run(optimizer, drive, 1)  # one: later ones go to the perturbed point and back, which rounds
    assert task.bits()[0] == start[0] and task.bits()[1] != start[1]
    norms = []
    for decay in (0.0, 5.0):
        task = Task()
        groups = [{"params": [task.weight], "weight_decay": decay}, {"params": [task.bias], "weight_decay": 0.0}]
        task.run(info.optim_cls(groups, lr=1e-2, **rho(info, drive)), drive, 10)
        norms.append(task.weight.norm().item())
    assert norms[1] < norms[0]


@each
@drives
def test_named_parameters_keep_their_names(info, drive):
    task = Task()
    optimizer = info.optim_cls([("weight", task.weight), ("bias", task.bias)], lr=1e-2, **rho(info, drive))
    task.run(optimizer, drive, 2)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["param_names"] == ["weight", "bias"]
    optimizer.load_state_dict(saved)
    task.run(optimizer, drive, 1)


@each
@drives
def test_maximize_is_minimizing_the_negative(info, drive):
    tasks = [Task(), Task()]
    for task, maximize in zip(tasks, (False, True), strict=True):
        if maximize:
            plain = task.closure

            def negative(task=task, plain=plain):
                loss = plain()
                for p in task.params:
                    p.grad.neg_()
                return loss

            task.closure = negative
        task.run(info.optim_cls(task.params, lr=1e-2, maximize=maximize, **rho(info, drive)), drive, 4)
    assert tasks[0].bits() == tasks[1].bits()


@each
def test_differentiable_steps_pass_gradcheck(info):
    """Through three steps, the first of which starts with m = 0, where a norm has no derivative."""
    for options in settings(info, "bare"):
        options["lr"] = float(options["lr"])
        if options.get("gamma") == 1.0:
            continue
        generator = torch.Generator().manual_seed(1)
        start = torch.rand(4, dtype=torch.float64, generator=generator, requires_grad=True)
        grads = [torch.rand(4, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(3)]

        def unrolled(start, *grads, options=options):
            p = start.clone()
            optimizer = info.optim_cls([p], differentiable=True, **options)
            for g in grads:
                p.grad = g
                optimizer.step()
            return p

        assert torch.autograd.gradcheck(unrolled, (start, *grads))
        plain = torch.nn.Parameter(start.detach().clone())
        optimizer = info.optim_cls([plain], foreach=False, **options)
        for g in grads:
            plain.grad = g.detach().clone()
            optimizer.step()
        torch.testing.assert_close(unrolled(start, *grads).detach(), plain.detach(), rtol=1e-7, atol=1e-7)
