"""A Trainer over a real BERT of 5,000 random weights: a whole training takes a tenth of a second."""

import gc

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

import tamft
from tests.cases import HEAVY_BALL

tamft.register()
# Every training starts with a full garbage collection, 0.3 s over the half million objects that the imports made.
gc.freeze()

QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
# No dropout, no clipping, no schedule: what is left is the optimizer.
PLAIN = {**QUIET, "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "per_device_train_batch_size": 4}


def model(seed: int = 0) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config)


def data(rows: int = 48) -> list[dict[str, torch.Tensor]]:
    """Six tokens each, both labels."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 50, (rows, 6), generator=generator)
    return [{"input_ids": row, "labels": torch.tensor(i % 2)} for i, row in enumerate(ids)]


def trainer(folder, optim: str, *, cls=Trainer, callbacks=(), **arguments) -> Trainer:
    """A Trainer ready to train() in `folder`."""
    arguments = {"max_steps": 6, "learning_rate": rate(optim), **PLAIN, **arguments}
    args = TrainingArguments(output_dir=str(folder), optim=optim, **arguments)
    return cls(model=model(), args=args, train_dataset=data(), eval_dataset=data(4), callbacks=list(callbacks))


def rate(optim: str) -> float:
    """A learning rate at which six steps go somewhere."""
    return 0.1 if optim in HEAVY_BALL else 1e-2


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def distance(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """|a - b| over all tensors together, in float64."""
    return sum((x.double() - y.double()).square().sum().item() for x, y in zip(a, b, strict=True)) ** 0.5


class At(TrainerCallback):
    """Call `action(**everything)` on `event`, whenever `step` steps are done."""

    def __init__(self, event: str, step: int, action) -> None:
        def call(args, state, control, **kwargs):
            if state.global_step == step:
                action(state=state, control=control, **kwargs)

        setattr(self, event, call)
