"""Optimizers that take matrices only: hidden matrices to them, everything else to AdamW, as one optimizer."""

import pytest
import torch
from torch.optim import SGD
from transformers import Trainer

import tamft
from tamft import registry
from tamft.errors import InputError
from tamft.hf.matrices import MatrixAndAdamW, hidden_matrices
from tests.hf import small
from tests.hf.test_clean_weights import Recording


@pytest.fixture(autouse=True)
def _entries(monkeypatch):
    """A registry that forgets what a test adds."""
    monkeypatch.setattr(registry, "ENTRIES", dict(registry.ENTRIES))


class OnlyMatrices(SGD):
    """A stand-in for torch.optim.Muon, which torch has from 2.9 on."""

    def __init__(self, params, lr=0.1, momentum=0.9, eps=1e-7):
        super().__init__(params, lr=lr, momentum=momentum)
        if any(p.ndim != 2 for group in self.param_groups for p in group["params"]):
            raise ValueError("only 2D parameters")


@pytest.fixture(params=["OnlyMatrices", "Muon"])
def muon(request) -> str:
    if request.param == "OnlyMatrices":
        tamft.register("only-matrices", OnlyMatrices)
        return "only-matrices"
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    return "torch.optim.Muon"


HIDDEN = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
HIDDEN = [f"bert.encoder.layer.0.{name}.weight" for name in [*HIDDEN, "intermediate.dense", "output.dense"]]


def test_which_parameters_are_hidden_matrices():
    model = small.model()
    ids = hidden_matrices(model)
    assert [name for name, p in model.named_parameters() if id(p) in ids] == HIDDEN


def test_hidden_matrices_to_one_and_the_rest_to_adamw(tmp_path, muon):
    trainer = small.trainer(
        tmp_path, muon, learning_rate=1e-3, weight_decay=0.1, adam_beta2=0.95, optim_args="momentum=0.8"
    )
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, MatrixAndAdamW)
    assert {type(part).__name__ for part in optimizer.parts.values()} >= {"AdamW"}
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    found = [([names[id(p)] for p in group["params"]], group) for group in optimizer.param_groups]
    assert [group["matrix"] for _, group in found] == [True, False, False]
    assert found[0][0] == HIDDEN
    assert sorted(name for group, _ in found for name in group) == sorted(names.values())
    assert [group["weight_decay"] for _, group in found] == [0.1, 0.1, 0.0]
    assert all(group["lr"] == 1e-3 for _, group in found)
    assert found[0][1]["momentum"] == 0.8
    assert found[1][1]["betas"] == (0.9, 0.95)


def test_one_step_is_the_step_of_each(tmp_path, muon):
    trainer = small.trainer(tmp_path, muon, cls=Recording, learning_rate=1e-2, max_steps=3, lr_scheduler_type="linear")
    trainer.train()
    model = small.model()
    ids = hidden_matrices(model)
    parts = ([p for p in model.parameters() if id(p) in ids], [p for p in model.parameters() if id(p) not in ids])
    kwargs = Trainer.get_optimizer_cls_and_kwargs(trainer.args)[1]
    pair = (registry.get(muon).cls([{"params": parts[0], "weight_decay": 0.0}], **kwargs),)
    pair = (*pair, torch.optim.AdamW(parts[1], lr=1e-2, weight_decay=0.0))
    for step, batch in enumerate(trainer.batches):
        for optimizer in pair:
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * (3 - step) / 3
            optimizer.zero_grad()
        model(**batch).loss.backward()
        for optimizer in pair:
            optimizer.step()
    assert small.distance(small.weights(model), small.weights(small.model())) > 0.01
    assert small.distance(small.weights(model), small.weights(trainer.model)) < 1e-6


def test_resume_is_bitwise(tmp_path, muon):
    settings = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "linear", "max_grad_norm": 1.0}
    whole = small.trainer(tmp_path / "a", muon, **settings)
    whole.train()
    resumed = small.trainer(tmp_path / "b", muon, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    assert small.distance(small.weights(resumed.model), small.weights(whole.model)) == 0
    assert small.distance(small.weights(whole.model), small.weights(small.model())) > 0.01
    state = whole.optimizer.state_dict()["state"]
    assert len(state) == len(list(whole.model.parameters()))


def test_a_model_without_hidden_matrices_is_refused(tmp_path, muon):
    trainer = small.trainer(tmp_path, muon)
    trainer.model = torch.nn.Linear(3, 3)
    with pytest.raises(InputError, match="takes matrices only, and Linear has none inside repeated layers"):
        trainer.create_optimizer()
