"""Classify texts or pairs of texts, as in GLUE: an ordinary script for transformers' Trainer.

    tamft train text_classification --config glue_sst2 --optim adatamw --output_dir runs/sst2
    tamft train text_classification --model answerdotai/ModernBERT-base --train_file train.jsonl --eval_file dev.jsonl \
        --text_columns text --output_dir runs/mine --optim adatamw

Two lines are tamft's own, `tamft.register()` and the parser that reads a YAML file as well: after the first, `--optim`
knows tamft's optimizers wherever Trainer is used. The result is <output_dir>/model; accuracy and F1 are in
eval_results.json.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, load_dataset
from datasets.exceptions import DatasetsError
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

import tamft
from tamft.errors import InputError
from tamft.train import config, dry_run, models, run

KINDS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass
class ClassificationArguments:
    """Options of this recipe beside TrainingArguments."""

    config: str | None = field(default=None, metadata={"help": "YAML file, or name of a shipped config"})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "start anew in a folder that holds a run"})
    dry_run: bool = field(default=False, metadata={"help": "print options, steps and memory; write nothing"})
    model: str = field(default="google-bert/bert-base-uncased", metadata={"help": "folder or Hub name"})
    max_seq_length: int = field(default=128, metadata={"help": "longest input in tokens"})
    train_file: str | None = field(default=None, metadata={"help": ".jsonl, .csv or .parquet; instead of --dataset"})
    eval_file: str | None = field(default=None, metadata={"help": "the same, for accuracy and F1"})
    dataset: str | None = field(default=None, metadata={"help": "name of a dataset on the Hub"})
    dataset_config: str | None = field(default=None, metadata={"help": "its configuration"})
    train_split: str = field(default="train", metadata={"help": "its split, for example train[:10000]"})
    eval_split: str | None = field(default=None, metadata={"help": "its split for accuracy and F1"})
    text_columns: list[str] = field(
        default_factory=lambda: ["text"], metadata={"help": "one column, or two for pairs of texts"}
    )
    label_column: str = field(default="label", metadata={"help": "classes, as numbers or words"})


def main(argv: list[str]) -> int:
    # 1. Options: YAML < command line. Registered first, because the parser freezes the names that --optim accepts.
    tamft.register()
    args, training_args = config.parse(argv, ClassificationArguments, TrainingArguments)
    resume = training_args.resume_from_checkpoint
    resume = {"true": True, "false": None}.get(str(resume).lower(), resume)
    if not resume:
        run.prepare_output(training_args, args.overwrite_output_dir)
    set_seed(training_args.seed)

    # 2. Data: the classes are those of the training rows.
    train = load(args.train_file, args, args.train_split)
    test = load(args.eval_file, args, args.eval_split) if args.eval_file or args.eval_split else None
    if test is None and training_args.eval_strategy != "no":
        raise InputError(f"--eval_strategy {training_args.eval_strategy.value} needs --eval_file or --eval_split")
    names = classes(train, args.label_column)
    numbers = {name: number for number, name in enumerate(names)}

    # 3. Model and tokenizer
    source = models.resolve(args.model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_pretrained(
            source,
            num_labels=len(names),
            id2label={number: str(name) for name, number in numbers.items()},
            label2id={str(name): number for name, number in numbers.items()},
            dtype="float32",
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        raise InputError(f"model {args.model}: cannot be loaded: {error}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id

    # 4. Texts become tokens.
    def encode(rows: dict[str, list]) -> dict[str, list]:
        encoded = tokenizer(
            *[rows[name] for name in args.text_columns], truncation=True, max_length=args.max_seq_length
        )
        try:
            return {**encoded, "labels": [numbers[name] for name in rows[args.label_column]]}
        except KeyError as error:
            raise InputError(f"the class {error} is in the evaluation rows and not in the training rows") from error

    train_rows = train.map(encode, batched=True, remove_columns=train.column_names)
    test_rows = test.map(encode, batched=True, remove_columns=test.column_names) if test else None
    run.say(f"{len(train_rows)} rows in {len(names)} classes from {', '.join(args.text_columns)}")
    if args.dry_run:
        run.say(dry_run.report(dry_run.classified(argv, args, training_args, model, tokenizer, train_rows)))
        return 0

    # 5. Trainer, as it is.
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_rows,
        eval_dataset=test_rows,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=metrics,
    )

    # 6. Train, save, evaluate.
    if not resume:
        run.remove_checkpoints(Path(training_args.output_dir))
    result = trainer.train(resume_from_checkpoint=resume)
    trainer.save_metrics("train", result.metrics)
    if test_rows is not None:
        scores = trainer.evaluate()
        trainer.save_metrics("eval", scores)
        run.say(f"accuracy {scores['eval_accuracy']:.4f}, F1 {scores['eval_f1']:.4f} on {len(test_rows)} rows")
    trainer.save_model(str(Path(training_args.output_dir) / "model"))
    run.say(f"saved {training_args.output_dir}/model")
    return 0


def load(file: str | None, args: ClassificationArguments, split: str) -> Dataset:
    """Rows of a local file, else of the Hub's dataset; InputError for what is missing or broken."""
    name = file or args.dataset
    if name is None:
        raise InputError("no data: give --train_file FILE (.jsonl, .csv, .parquet) or --dataset NAME")
    if file and Path(file).suffix not in KINDS:
        raise InputError(f"{file}: unknown kind of file; use {', '.join(KINDS)}")
    if file and not Path(file).is_file():
        raise InputError(f"{file}: there is no such file")
    try:
        if file:
            rows = load_dataset(KINDS[Path(file).suffix], data_files=file, split="train")
        else:
            rows = load_dataset(name, args.dataset_config, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        raise InputError(f"{name}: cannot be loaded: {' '.join(str(error.__cause__ or error).split())}") from error
    for column in (*args.text_columns, args.label_column):
        if column not in rows.column_names:
            raise InputError(f"{name}: has no column {column!r}. Its columns: {', '.join(rows.column_names)}")
    return rows


def classes(rows: Dataset, column: str) -> list:
    """The classes of the rows, in order: a number's place is its own where the data names its classes."""
    found = sorted(set(rows[column]), key=lambda label: (isinstance(label, str), label))
    if len(found) < 2 or found[0] in (-1, None):
        raise InputError(f"column {column!r} has to hold two classes or more in every row, it holds {found[:5]}")
    feature = rows.features[column]
    return list(range(feature.num_classes)) if isinstance(feature, ClassLabel) else found


def metrics(prediction: tuple[Any, Any]) -> dict[str, float]:
    """Accuracy, and F1: of class 1 where there are two, else the mean over the classes."""
    logits, labels = prediction
    guesses = logits.argmax(-1)
    count = logits.shape[-1]
    scores = []
    for label in [1] if count == 2 else range(count):
        hits = ((guesses == label) & (labels == label)).sum()
        total = (guesses == label).sum() + (labels == label).sum()
        scores.append(2 * float(hits) / float(total) if total else 0.0)
    return {"accuracy": float((guesses == labels).mean()), "f1": sum(scores) / len(scores)}


if __name__ == "__main__":
    sys.exit(run.command(main))
