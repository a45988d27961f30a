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
from dataclasses import dataclass

from sentence_transformers import SentenceTransformerTrainingArguments
from transformers import set_seed

import tamft
from tamft.train import config, data, dry_run, embedder, losses, models, run
from tamft.train.arguments import DataArguments, LossArguments, ModelArguments


@dataclass
class PairsArguments(LossArguments, DataArguments, ModelArguments):
    """Options of this recipe beside SentenceTransformerTrainingArguments."""


def main(argv: list[str]) -> int:
    # 1. Options: YAML < command line. Registered first, because the parser freezes the names that --optim accepts.
    tamft.register()
    args, training_args = config.parse(argv, PairsArguments, SentenceTransformerTrainingArguments)
    checkpoint = run.prepare_output(training_args, args.overwrite_output_dir)
    set_seed(training_args.seed)

    # 2. Data: only the columns that the loss reads are kept, so that a stray `label` cannot become a target.
    train, evaluation = data.load_splits(args, training_args.eval_strategy)
    loss_name = losses.choose_loss(args.loss, train.kind, train.columns)

    # 3. Model: float32 weights, whatever the checkpoint was stored in.
    model = models.load_model(args.model, dtype=args.dtype, max_seq_length=args.max_seq_length)
    embedder.set_prompts(model, train.texts, training_args, args.query_prompt, args.document_prompt)
    run.say(f"{embedder.describe(model)}\n{data.describe(train)}; loss {loss_name}")

    # 4. Loss
    loss = losses.make_loss(
        model,
        loss_name,
        mini_batch_size=args.mini_batch_size,
        scale=args.scale,
        gather_across_devices=args.gather_across_devices,
        matryoshka_dims=args.matryoshka_dims,
    )

    if args.dry_run:
        run.say(dry_run.report(dry_run.pairs(argv, args, training_args, model, train, loss)))
        return 0

    # 5. Trainer: sentence-transformers' own, plus a hash of the first batches and a stop at the first NaN.
    trainer = run.PairsTrainer(
        model=model,
        args=training_args,
        train_dataset=train.dataset,
        eval_dataset=evaluation.dataset if evaluation else None,
        loss=loss,
    )

    # 6. Train, save the model, keep run.json.
    facts = {
        "config": dataclasses.asdict(args) | {"loss": loss_name, "columns": train.columns},
        "data": [part.source for part in (train, evaluation) if part],
        "base_model": models.identity(args.model, model),
    }
    run.say(f"saved {run.fit(trainer, facts, checkpoint)}")
    return 0


if __name__ == "__main__":
    sys.exit(run.command(main))
