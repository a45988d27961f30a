"""Precisions through Trainer and plain loops, and clipping, which acts on the gradients at the perturbed weights."""

import pytest
import torch

from tamft.errors import InputError
from tamft.hf.callbacks import is_moved, unwrap
from tests.cases import NAMES, PERTURBING
from tests.compatibility.cell import Cell, check, train
from tests.compatibility.ways import PRECISIONS
from tests.hf import small

LOW, ALLOWED = "bf16 weights", "bf16 weights, allow_low_precision, kahan_sum"
SCALER = "GradScaler, one step skipped"


@pytest.mark.parametrize("optimizer", ["adatamw", "tam_msam", "adamw_torch"])
@pytest.mark.parametrize("trainer", ["Trainer", "Accelerate loop", "PyTorch loop"])
@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "float32"])
def test_trains_in_every_precision(tmp_path, precision, trainer, optimizer):
    if precision == LOW and optimizer in PERTURBING:
        pytest.skip("refused: see below")
    check(Cell(trainer=trainer, precision=precision, optimizer=optimizer), tmp_path)


@pytest.mark.parametrize("optimizer", PERTURBING)
def test_a_perturbation_of_bf16_weights_is_refused_before_the_first_step(tmp_path, optimizer):
    with pytest.raises(InputError, match=r"rho=0\.2 with torch\.bfloat16.*float32 weights.*allow_low_precision"):
        train(Cell(precision=LOW, optimizer=optimizer), tmp_path)
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize("optimizer", NAMES)
def test_state_of_bf16_weights_is_float32_also_after_a_resume(tmp_path, optimizer):
    cell = Cell(precision=ALLOWED if optimizer in PERTURBING else LOW, optimizer=optimizer)
    train(cell, tmp_path / "whole")
    resumed = train(cell, tmp_path / "resumed", tmp_path / "whole" / "checkpoint-2")
    assert {p.dtype for p in resumed.model.parameters()} == {torch.bfloat16}
    state = unwrap(resumed.optimizer).state
    kept = {key: value.dtype for one in state.values() for key, value in one.items()}
    assert kept.pop("compensation", torch.bfloat16) == torch.bfloat16  # Kahan's, where it is asked for
    assert set(kept.values()) == {torch.float32}


@pytest.mark.parametrize("optimizer", NAMES)
def test_a_skipped_step_counts_as_trainers_and_not_as_the_optimizers(tmp_path, optimizer):
    trainer = train(Cell(precision=SCALER, optimizer=optimizer), tmp_path)
    assert trainer.state.global_step == 4
    assert {int(state["step"]) for state in unwrap(trainer.optimizer).state.values()} == {3}
    assert trainer.accelerator.scaler.get_scale() == 2.0**9  # halved once


@pytest.mark.parametrize("optimizer", NAMES)
def test_clipping_sees_the_gradients_at_the_perturbed_weights(tmp_path, optimizer):
    """The gradients that step() gets are those of the perturbed weights, scaled down to max_grad_norm."""
    seen = []

    class Look(small.Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            copy = small.model()
            copy.load_state_dict(model.state_dict())
            copy(**inputs).loss.backward()
            seen.append([p.grad for p in copy.parameters()])
            return super().compute_loss(model, inputs, *args, **kwargs)

    def compare(model, optimizer, **kwargs):
        norm = torch.nn.utils.get_total_norm(seen[-1])
        assert norm > 0.01
        for p, there in zip(model.parameters(), seen[-1], strict=True):
            torch.testing.assert_close(p.grad, there * (0.01 / (norm + 1e-6)), rtol=1e-4, atol=1e-9)
        seen.append(is_moved(optimizer))

    callbacks = [small.At("on_pre_optimizer_step", step, compare) for step in range(3)]
    small.trainer(tmp_path, optimizer, cls=Look, callbacks=callbacks, max_grad_norm=0.01, max_steps=3).train()
    assert seen[1::2] == [False, *[optimizer in PERTURBING] * 2]
