"""Fine-tune an embedding model on pairs, triplets or scored pairs.

    accelerate launch --num_cpu_threads_per_process 2 recipes/encoder_pairs.py \
        --config recipes/configs/encoder/minilm_banking77.yaml --optim adatamw \
        --train_file banking77_pairs.jsonl --output_dir runs/a

The same, with the machine's cores and configs by name:

    tamft train encoder_pairs --config minilm_banking77 --train_file banking77_pairs.jsonl --output_dir runs/a

Every option of sentence-transformers' SentenceTransformerTrainingArguments works, in the YAML file or on the command
line (which wins); this file's own options come first in --help. The result is <output_dir>/model and run.json.
"""

import dataclasses
import sys
from dataclasses import dataclass, field
from typing import Literal

from sentence_transformers import SentenceTransformerTrainingArguments
from transformers import set_seed

import tamft
from tamft.errors import InputError
from tamft.train import config, data, dry_run, losses, models, run


@dataclass
class PairsArguments:
    """Options of this recipe beside SentenceTransformerTrainingArguments."""

    config: str | None = field(default=None, metadata={"help": "YAML file, or name of a shipped config"})
    model: str = field(default=models.MINILM, metadata={"help": "folder or Hub name of the model to start from"})
    dtype: Literal[models.DTYPES] = field(
        default="float32", metadata={"help": "of the weights; --bf16 computes in bf16 over float32 weights"}
    )
    max_seq_length: int | None = field(default=None, metadata={"help": "longest input in tokens (the model's own)"})
    train_file: str | None = field(
        default=None, metadata={"help": ".jsonl, .csv or .parquet; used instead of --dataset"}
    )
    eval_file: str | None = field(default=None, metadata={"help": "the same for the evaluation loss (--eval_strategy)"})
    dataset: str | None = field(default=None, metadata={"help": "name of a dataset on the Hub"})
    dataset_config: str | None = field(default=None, metadata={"help": "its configuration"})
    train_split: str = field(default="train", metadata={"help": "its split, for example train[:10000]"})
    eval_split: str | None = field(default=None, metadata={"help": "its split for the evaluation loss"})
    columns: list[str] | None = field(
        default=None,
        metadata={"help": "columns to use, in order: two texts (pairs), more (triplets), or two and a number"},
    )
    loss: str | None = field(default=None, metadata={"help": f"one of {', '.join(losses.LOSSES)} (by the columns)"})
    mini_batch_size: int = field(
        default=32, metadata={"help": "rows at once in the Cached… losses: memory, not result"}
    )
    dry_run: bool = field(default=False, metadata={"help": "print steps, negatives and memory, and stop"})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "start anew in a folder that holds a run"})


def main(argv: list[str]) -> int:
    # 1. Options: YAML < command line. Registered first, because the parser freezes the names that --optim accepts.
    tamft.register()
    args, training_args = config.parse(argv, PairsArguments, SentenceTransformerTrainingArguments)
    checkpoint = run.prepare_output(training_args, args.overwrite_output_dir)
    set_seed(training_args.seed)

    # 2. Data: only the columns that the loss reads are kept, so that a stray `label` cannot become a target.
    train = data.load_rows(args.train_file, args.dataset, args.dataset_config, args.train_split, args.columns)
    parts = [train]
    if args.eval_file or args.eval_split:
        hub = None if args.eval_file else args.dataset
        parts.append(data.load_rows(args.eval_file, hub, args.dataset_config, args.eval_split or "", args.columns))
        if parts[1].kind != train.kind:
            raise InputError(
                f"training rows are {train.kind}, evaluation rows are {parts[1].kind}: both must be the same"
            )
    elif training_args.eval_strategy != "no":
        raise InputError(f"--eval_strategy {training_args.eval_strategy.value} needs --eval_file or --eval_split")
    loss_name = losses.choose_loss(args.loss, train.kind, train.columns)
    left_out = f" (not used: {', '.join(train.unused)})" if train.unused else ""
    run.say(f"{len(train.dataset)} {train.kind} from {', '.join(train.columns)}{left_out}; loss {loss_name}")

    # 3. Model: float32 weights, whatever the checkpoint was stored in.
    model = models.load_model(args.model, dtype=args.dtype, max_seq_length=args.max_seq_length)

    # 4. Loss
    loss = losses.make_loss(model, loss_name, mini_batch_size=args.mini_batch_size)

    if args.dry_run:
        run.say(dry_run.report(dry_run.pairs(argv, args, training_args, model, train, loss)))
        return 0

    # 5. Trainer: sentence-transformers' own, plus a hash of the first batches and a stop at the first NaN.
    trainer = run.PairsTrainer(
        model=model,
        args=training_args,
        train_dataset=train.dataset,
        eval_dataset=parts[1].dataset if len(parts) > 1 else None,
        loss=loss,
    )

    # 6. Train, save the model, keep run.json.
    facts = {
        "config": dataclasses.asdict(args) | {"loss": loss_name, "columns": train.columns},
        "data": [part.source for part in parts],
        "base_model": models.identity(args.model, model),
    }
    run.say(f"saved {run.fit(trainer, facts, checkpoint)}")
    return 0


if __name__ == "__main__":
    sys.exit(run.command(main))
