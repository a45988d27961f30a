"""Whatever is saved, pushed or left behind is the model itself, not the perturbed point where gradients are taken.

Clean weights come from a float64 reference that shares no code with tamft, replaying the batches that Trainer saw.
"""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from tamft import registry
from tamft.hf.callbacks import TamftCallback, is_moved
from tests.cases import NAMES, PERTURBING
from tests.hf import small
from tests.reference.optimizers import Reference

RHO = 0.3  # every perturbing name's preset; the perturbed point is so far from the clean weights


class Recording(Trainer):
    """Keeps the batches of every step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.batches = []

    def training_step(self, model, inputs, *args, **kwargs):
        self.batches.append({key: value.clone() for key, value in inputs.items()})
        return super().training_step(model, inputs, *args, **kwargs)


def reference(name: str, batches) -> Reference:
    """The reference after one step per batch, from the weights of `small.model()`; gradients of a float64 model."""
    model = small.model().double()
    params = list(model.parameters())
    entry = registry.get(name)
    start = [p.detach().numpy().copy() for p in params]
    ideal = Reference(entry.cls.__name__, [{"params": start}], lr=small.rate(name), weight_decay=0.0, **entry.preset)
    for batch in batches:
        for p, point in zip(params, ideal.look(), strict=True):
            p.data = torch.from_numpy(np.array(point))
        model.zero_grad()
        model(**batch).loss.backward()
        ideal.step([None if p.grad is None else p.grad.numpy() for p in params])
    return ideal


def tensors(arrays) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(array)) for array in arrays]


def saved(folder) -> list[torch.Tensor]:
    """Weights in `folder`, in the order of the model's parameters."""
    stored = load_file(folder / "model.safetensors")
    return [stored[key] for key, _ in small.model().named_parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_hold_the_clean_weights_without_an_evaluation_before(tmp_path, name):
    trainer = small.trainer(tmp_path, name, cls=Recording, save_strategy="steps", save_steps=3)
    trainer.train()
    assert len(trainer.batches) == 6
    ideal = reference(name, trainer.batches[:3])
    found = saved(tmp_path / "checkpoint-3")
    assert small.distance(found, tensors(ideal.weights)) < 2e-4
    assert small.distance(found, small.weights(small.model())) > 0.05
    if name in PERTURBING:
        # the error that this test is there to see
        assert small.distance(found, tensors(ideal.look())) == pytest.approx(RHO, abs=1e-3)
    assert small.distance(small.weights(trainer.model), tensors(reference(name, trainer.batches).weights)) < 5e-4


@pytest.mark.parametrize("name", NAMES)
def test_resume_is_bitwise(tmp_path, name):
    settings = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "linear", "max_grad_norm": 1.0}
    whole = small.trainer(tmp_path / "a", name, **settings)
    whole.train()
    resumed = small.trainer(tmp_path / "b", name, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    assert small.distance(small.weights(resumed.model), small.weights(whole.model)) == 0
    first, second = saved(tmp_path / "a" / "checkpoint-4"), saved(tmp_path / "a" / "checkpoint-6")
    assert small.distance(first, second) > 0.003
    for one, other in zip(
        whole.optimizer.state_dict()["state"].values(), resumed.optimizer.state_dict()["state"].values(), strict=True
    ):
        assert all(torch.equal(one[key], other[key]) for key in one)


def moving(trainer) -> bool:
    return is_moved(trainer.optimizer)


@pytest.mark.parametrize("error", [RuntimeError("no disk"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("name", PERTURBING)
def test_an_exception_or_ctrl_c_in_the_middle_of_a_step(tmp_path, name, error):
    seen = {}

    def stop(model, **kwargs):
        seen["moved"], seen["weights"] = moving(trainer), small.weights(model)
        raise error

    trainer = small.trainer(tmp_path, name, cls=Recording, callbacks=[small.At("on_pre_optimizer_step", 3, stop)])
    with pytest.raises(type(error)):
        trainer.train()
    assert seen["moved"]
    clean = tensors(reference(name, trainer.batches[:3]).weights)
    assert small.distance(seen["weights"], clean) == pytest.approx(RHO, abs=1e-3)
    assert not moving(trainer)
    assert small.distance(small.weights(trainer.model), clean) < 2e-4
    trainer.save_model(str(tmp_path / "rescued"))
    assert small.distance(saved(tmp_path / "rescued"), clean) < 2e-4


@pytest.mark.parametrize("name", PERTURBING)
def test_a_save_in_the_middle_of_a_step_is_clean_and_training_goes_on(tmp_path, name):
    """Trainer's just-in-time checkpoint (SIGTERM) saves between backward and step."""
    seen = []

    def save(**kwargs):
        seen.append(moving(trainer))
        trainer._save_checkpoint(trainer.model, trial=None)
        trainer.save_model(str(tmp_path / "model"))
        seen.append(moving(trainer))

    trainer = small.trainer(tmp_path, name, cls=Recording, callbacks=[small.At("on_pre_optimizer_step", 3, save)])
    trainer.train()
    assert seen == [True, True]
    clean = tensors(reference(name, trainer.batches[:3]).weights)
    assert small.distance(saved(tmp_path / "model"), clean) < 2e-4
    assert small.distance(saved(tmp_path / "checkpoint-3"), clean) < 2e-4
    state = torch.load(tmp_path / "checkpoint-3" / "optimizer.pt", weights_only=True)
    assert [group["moved"] for group in state["param_groups"]] == [False, False]
    assert small.distance(small.weights(trainer.model), tensors(reference(name, trainer.batches).weights)) < 5e-4


class Overflowing(Recording):
    """Uses torch's own GradScaler; the loss of the fourth step is too large for it, so that step is skipped."""

    def create_optimizer(self, *args, **kwargs):
        # transformers offers fp16 on accelerators only; the scaler and accelerate's wrapper work on CPU as well
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        return super().create_optimizer(*args, **kwargs)

    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs) * (1e38 if len(self.batches) == 4 else 1.0)


@pytest.mark.parametrize("name", PERTURBING)
def test_a_step_that_gradscaler_skips(tmp_path, name):
    trainer = small.trainer(tmp_path, name, cls=Overflowing, save_strategy="steps", save_steps=4)
    skipped = []
    trainer.add_callback(small.At("on_step_end", 3, lambda **kw: skipped.append(trainer.optimizer.step_was_skipped)))
    trainer.add_callback(small.At("on_step_end", 4, lambda **kw: skipped.append(trainer.optimizer.step_was_skipped)))
    trainer.train()
    assert skipped == [False, True]
    clean = tensors(reference(name, trainer.batches[:3]).weights)
    assert small.distance(saved(tmp_path / "checkpoint-4"), clean) < 2e-4
    # and training went on from there, without the skipped batch
    ideal = reference(name, [batch for i, batch in enumerate(trainer.batches) if i != 3])
    assert small.distance(small.weights(trainer.model), tensors(ideal.weights)) < 5e-4


def test_without_the_callback_a_skipped_step_leaves_the_weights_perturbed(tmp_path):
    """What the callback is for: this control fails as soon as it is no longer needed."""
    trainer = small.trainer(tmp_path, "adamw_msam", cls=Overflowing)
    trainer.remove_callback(TamftCallback)
    moved = []
    trainer.add_callback(small.At("on_step_end", 4, lambda **kw: moved.append(moving(trainer))))
    trainer.train()
    assert moved == [True]


@pytest.mark.parametrize("name", PERTURBING)
def test_the_search_for_a_batch_size_starts_again_from_clean_weights(tmp_path, name):
    seen = []

    class OutOfMemory(Recording):
        def get_train_dataloader(self):
            seen.append((moving(self), small.weights(self.model)))
            return super().get_train_dataloader()

        def compute_loss(self, *args, **kwargs):
            if len(self.batches) == 4 and len(seen) == 1:
                seen.append(moving(self))
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return super().compute_loss(*args, **kwargs)

    trainer = small.trainer(tmp_path, name, cls=OutOfMemory, auto_find_batch_size=True)
    trainer.train()
    (_, begin), moved_at_failure, (moved, again) = seen
    assert moved_at_failure
    assert not moved
    clean = tensors(reference(name, trainer.batches[:3]).weights)
    assert small.distance(begin, clean) > 0.01
    assert small.distance(again, clean) < 2e-4


@pytest.mark.parametrize("name", PERTURBING)
def test_gradient_accumulation_is_one_perturbation_per_step(tmp_path, name):
    points = []

    class Double(Recording):
        def compute_loss(self, model, *args, **kwargs):
            points.append(small.weights(model))
            return super().compute_loss(model, *args, **kwargs)

    trainer = small.trainer(tmp_path, name, cls=Double, gradient_accumulation_steps=2, max_steps=3)
    trainer.train()
    assert len(trainer.batches) == 6
    for i in (0, 2, 4):
        assert small.distance(points[i], points[i + 1]) == 0
    assert small.distance(points[3], points[4]) > 0
    assert not moving(trainer)


def test_a_trainer_that_never_perturbs_is_told_so(tmp_path):
    """Some trainers override training_step and leave out optimizer.train(): never a silent AdamW."""

    class Forgetful(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = self.compute_loss(model, inputs)
            self.accelerator.backward(loss)
            return loss.detach()

    trainer = small.trainer(tmp_path, "adamw_msam", cls=Forgetful)
    with pytest.raises(RuntimeError, match=r"optimizer\.train\(\) before the forward pass"):
        trainer.train()


def test_other_peoples_eval_is_never_called(tmp_path, monkeypatch):
    """Schedule-free optimizers have train() and eval() too, and mean something else by them."""
    calls = []
    monkeypatch.setattr(torch.optim.AdamW, "eval", lambda self: calls.append("eval"), raising=False)
    monkeypatch.setattr(torch.optim.AdamW, "train", lambda self: calls.append("train"), raising=False)
    trainer = small.trainer(tmp_path, "adamw_torch", save_strategy="steps", save_steps=2)
    trainer.train()
    assert calls == ["train"] * 6
