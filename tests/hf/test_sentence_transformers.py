"""sentence-transformers' trainer overrides the hooks and calls super(): it gets everything Trainer gets."""

import pytest
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from tamft import registry
from tamft.errors import InputError
from tamft.hf.callbacks import is_moved, unwrap
from tests.hf import small

PAIRS = {
    "anchor": ["how do i pay", "card is lost", "top up", "change pin", "cash fee", "new phone"] * 4,
    "positive": ["my payment", "stolen card", "money transfer", "new pin", "fee cash", "app phone"] * 4,
}


def arguments(folder, optim, **kwargs):
    settings = {**small.QUIET, "max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-2, **kwargs}
    return SentenceTransformerTrainingArguments(output_dir=str(folder), optim=optim, **settings)


@pytest.mark.parametrize("name", ["adatamw", "tam_msam"])
def test_a_real_training(tmp_path, tiny_model, name):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    args = arguments(
        tmp_path,
        name,
        optim_args="gamma=0.5,rho=0.1",
        weight_decay=0.01,
        learning_rate_mapping={"embeddings": 1e-3},
        logging_strategy="steps",
        logging_steps=2,
        save_strategy="steps",
        save_steps=4,
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=args, train_dataset=Dataset.from_dict(PAIRS), loss=MultipleNegativesRankingLoss(model)
    )
    before = small.weights(model)
    trainer.train()
    optimizer = unwrap(trainer.optimizer)
    assert type(optimizer) is registry.get(name).cls
    groups = optimizer.param_groups
    assert {group["initial_lr"] for group in groups} == {1e-2, 1e-3}
    assert {group["weight_decay"] for group in groups} == {0.01, 0.0}
    assert {(group["gamma"], group["rho"]) for group in groups} == {(0.5, 0.1)}
    assert [row["tamft/rho"] for row in trainer.state.log_history if "loss" in row] == [0.1, 0.1]
    assert not is_moved(optimizer)
    assert small.distance(small.weights(model), before) > 1e-3
    again = SentenceTransformer(str(tmp_path / "checkpoint-4"), device="cpu")
    assert small.distance(small.weights(again), small.weights(model)) == 0


def test_bad_optim_args_stop_at_the_arguments(tmp_path):
    with pytest.raises(InputError, match="adatamw has no option 'gama'"):
        arguments(tmp_path, "adatamw", optim_args="gama=0.5")
