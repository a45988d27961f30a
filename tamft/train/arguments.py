"""Options that recipes share, beside those of TrainingArguments; a recipe's own dataclass inherits from these."""

from dataclasses import dataclass, field
from typing import Literal

from tamft.train.losses import LOSSES
from tamft.train.models import DTYPES, MINILM

# A dataclass lists the fields of its last base first: write `class MyArguments(LossArguments, DataArguments,
# ModelArguments)` for the order in which --help is read.


@dataclass
class ModelArguments:
    """The run and the model that it starts from."""

    config: str | None = field(default=None, metadata={"help": "YAML file, or name of a shipped config"})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "start anew in a folder that holds a run"})
    dry_run: bool = field(default=False, metadata={"help": "print options, steps, negatives, memory; write nothing"})
    model: str = field(default=MINILM, metadata={"help": "folder or Hub name of the model to start from"})
    dtype: Literal[DTYPES] = field(
        default="float32", metadata={"help": "of the weights; --bf16 computes in bf16 over float32 weights"}
    )
    max_seq_length: int | None = field(default=None, metadata={"help": "longest input in tokens (the model's own)"})
    query_prompt: str | None = field(
        default=None,
        metadata={"help": "put before texts of the first column, in training and by encode_query (the model's own)"},
    )
    document_prompt: str | None = field(
        default=None,
        metadata={"help": "the same for the other columns and encode_document (the model's own)"},
    )


@dataclass
class RowsArguments:
    """The rows to work on."""

    train_file: str | None = field(
        default=None, metadata={"help": ".jsonl, .csv or .parquet; used instead of --dataset"}
    )
    dataset: str | None = field(default=None, metadata={"help": "name of a dataset on the Hub"})
    dataset_config: str | None = field(default=None, metadata={"help": "its configuration"})
    train_split: str = field(default="train", metadata={"help": "its split, for example train[:10000]"})
    columns: list[str] | None = field(
        default=None,
        metadata={"help": "columns to use, in order: two texts (pairs), more (triplets), or two and a number"},
    )


@dataclass
class DataArguments(RowsArguments):
    """The rows to train on, and those for the evaluation loss."""

    eval_file: str | None = field(
        default=None, metadata={"help": "like train_file, for the evaluation loss (--eval_strategy)"}
    )
    eval_split: str | None = field(default=None, metadata={"help": "the dataset's split for the evaluation loss"})


@dataclass
class LossArguments:
    """What is minimised."""

    loss: str | None = field(default=None, metadata={"help": f"one of {', '.join(LOSSES)} (by the columns)"})
    mini_batch_size: int = field(
        default=32, metadata={"help": "rows at once in the Cached… losses: memory, not result"}
    )
    scale: float | None = field(
        default=None, metadata={"help": "factor on the similarities, 1 / temperature (the loss's own, mostly 20)"}
    )
    gather_across_devices: bool = field(
        default=False, metadata={"help": "the texts of all processes are negatives, not only those of its own batch"}
    )
    matryoshka_dims: list[int] | None = field(
        default=None, metadata={"help": "train these prefixes of the embedding as well, for example 1024 512 256"}
    )
