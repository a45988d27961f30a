"""Turn a language model (or any encoder) into an embedding model with LoRA adapters.

    accelerate launch --num_cpu_threads_per_process 2 recipes/llm_lora.py \
        --model all-MiniLM-L6-v2 --train_file pairs.jsonl --output_dir runs/lora \
        --optim adatamw --learning_rate 1e-3 --lora_r 16

The same, with the machine's cores:

    tamft train llm_lora --model all-MiniLM-L6-v2 --train_file pairs.jsonl --output_dir runs/lora --optim adatamw

Every option of sentence-transformers' SentenceTransformerTrainingArguments works, in the YAML file or on the command
line (which wins); this file's own options come first in --help. The result is <output_dir>/model, a sentence-
transformers folder with the adapter, and run.json; with --save_merged true also <output_dir>/merged, the whole model.
"""

import dataclasses
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from sentence_transformers import SentenceTransformerTrainingArguments
from transformers import set_seed

import tamft
from tamft.train import config, data, dry_run, embedder, lora, losses, models, run
from tamft.train.arguments import DataArguments, LossArguments, ModelArguments


@dataclass
class LoraArguments(LossArguments, DataArguments, ModelArguments):
    """Options of this recipe beside SentenceTransformerTrainingArguments."""

    pooling: Literal[embedder.POOLINGS] | None = field(
        default=None,
        metadata={"help": "tokens to one vector (a sentence-transformers model's own, else decoder lasttoken, mean)"},
    )
    append_eos: bool | None = field(
        default=None, metadata={"help": "end every text with the EOS token (where last-token pooling lacks one)"}
    )
    lora_r: int = field(default=16, metadata={"help": "rank of the adapters; 0 trains all weights instead"})
    lora_alpha: int = field(default=32, metadata={"help": "adapters are scaled by alpha/r (rsLoRA: alpha/sqrt(r))"})
    lora_dropout: float = field(default=0.0, metadata={"help": "dropout before the adapters, 0 to below 1"})
    lora_target_modules: list[str] = field(
        default_factory=lambda: [lora.ALL_LINEAR],
        metadata={"help": "names of linear layers that get adapters, for example q_proj v_proj"},
    )
    use_rslora: bool = field(default=False, metadata={"help": "rsLoRA: scale that suits high ranks"})
    use_dora: bool = field(default=False, metadata={"help": "DoRA: the size of each weight column is trained apart"})
    loraplus_lr_ratio: float | None = field(
        default=None, metadata={"help": "LoRA+: learning rate of the B matrices over that of the rest (off; try 16)"}
    )
    load_in_4bit: bool = field(default=False, metadata={"help": "QLoRA: base weights in 4 bits (bitsandbytes, GPU)"})
    mini_batch_tokens: int | None = field(
        default=None, metadata={"help": "cached loss: mini-batches of this many tokens, not of --mini_batch_size rows"}
    )
    save_merged: bool = field(default=False, metadata={"help": "also write the base with the adapter merged in"})


def main(argv: list[str]) -> int:
    # 1. Options: YAML < command line. Registered first, because the parser freezes the names that --optim accepts.
    tamft.register()
    args, training_args = config.parse(argv, LoraArguments, SentenceTransformerTrainingArguments)
    lora.check(args)
    checkpoint = run.prepare_output(training_args, args.overwrite_output_dir)
    set_seed(training_args.seed)

    # 2. Data: only the columns that the loss reads; the cached loss by default, whose batch is not bound by memory.
    train, evaluation = data.load_splits(args, training_args.eval_strategy)
    loss_name = losses.choose_loss(args.loss, train.kind, train.columns, cached=True)

    # 3. Model: pooling, padding, EOS and prompts are set before training and saved with the model; then the adapters.
    model = models.load_model(
        args.model,
        dtype=args.dtype,
        max_seq_length=args.max_seq_length,
        pooling=args.pooling,
        append_eos=args.append_eos,
        load_in_4bit=args.load_in_4bit,
    )
    embedder.set_prompts(model, train.texts, training_args, args.query_prompt, args.document_prompt)
    lora.add_adapters(model, args, training_args)
    run.say(f"{embedder.describe(model)}; {lora.describe(model)}\n{data.describe(train)}; loss {loss_name}")

    # 4. Loss
    loss = losses.make_loss(
        model,
        loss_name,
        mini_batch_size=args.mini_batch_size,
        mini_batch_tokens=args.mini_batch_tokens,
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

    # 6. Train, save the adapter (and the merged model), keep run.json.
    facts = {
        "config": dataclasses.asdict(args) | {"loss": loss_name, "columns": train.columns},
        "data": [part.source for part in (train, evaluation) if part],
        "base_model": models.identity(args.model, model),
    }
    also = partial(lora.save_merged, dtype=args.dtype) if args.save_merged else None
    run.say(f"saved {run.fit(trainer, facts, checkpoint, also)}")
    return 0


if __name__ == "__main__":
    sys.exit(run.command(main))
