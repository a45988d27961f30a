"""Find hard negatives for pairs: texts that look like the right answer and are not.

    tamft train mine_negatives --train_file pairs.jsonl --output_file triplets.jsonl
    tamft train encoder_pairs --config minilm_banking77 --train_file triplets.jsonl --output_dir runs/a

A thin program over sentence-transformers' mine_hard_negatives, whose options have their own names here. Input: pairs,
as the other recipes read them. Output: JSON lines with anchor, positive and negative (or negative_1 …), in the order of
the input, which the other recipes read as triplets.
"""

import inspect
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.util import mine_hard_negatives
from transformers import set_seed

from tamft.atomic import write_atomically
from tamft.errors import InputError
from tamft.train import config, data, losses, models, record, run
from tamft.train.arguments import RowsArguments

# The miner's arguments that are read or loaded here; its others are handed on as they are.
LOADED = {"dataset", "model", "corpus", "cross_encoder"}


@dataclass
class MiningArguments(RowsArguments):
    """Options of this recipe; from `num_negatives` on they are mine_hard_negatives' own."""

    config: str | None = field(default=None, metadata={"help": "YAML file, or name of a shipped config"})
    output_file: str = field(default="triplets.jsonl", metadata={"help": "the result, .jsonl"})
    overwrite: bool = field(default=False, metadata={"help": "replace an output file that is there"})
    model: str = field(default=models.MINILM, metadata={"help": "folder or Hub name of the model that searches"})
    dtype: Literal[models.DTYPES] = field(default="float32", metadata={"help": "of the model's weights"})
    max_seq_length: int | None = field(default=None, metadata={"help": "longest input in tokens (the model's own)"})
    corpus: str | None = field(default=None, metadata={"help": "more candidates beside the positives: a text per line"})
    cross_encoder: str | None = field(default=None, metadata={"help": "model that scores the candidates again"})
    seed: int = field(default=42, metadata={"help": "for sampling_strategy random"})
    num_negatives: int = field(default=1, metadata={"help": "for each pair"})
    output_format: Literal["triplet", "n-tuple"] = field(
        default="n-tuple", metadata={"help": "n-tuple: all negatives of a pair in a row; triplet: a row for each"}
    )
    range_min: int = field(default=0, metadata={"help": "skip so many of the nearest texts: some may be right answers"})
    range_max: int | None = field(default=None, metadata={"help": "look at so many of the nearest texts"})
    min_score: float | None = field(default=None, metadata={"help": "similarity below which a text is too easy"})
    max_score: float | None = field(default=None, metadata={"help": "similarity above which a text may be right"})
    absolute_margin: float | None = field(
        default=None, metadata={"help": "a negative is at least this much less similar than the positive"}
    )
    relative_margin: float | None = field(
        default=None, metadata={"help": "the same as a share of the positive's similarity; 0.05 is a good start"}
    )
    sampling_strategy: Literal["top", "random"] = field(
        default="top", metadata={"help": "the nearest candidates, or a random choice of them"}
    )
    query_prompt: str | None = field(default=None, metadata={"help": "before anchors (the model's own)"})
    corpus_prompt: str | None = field(default=None, metadata={"help": "before candidates (the model's own)"})
    batch_size: int = field(default=32, metadata={"help": "texts encoded at once"})
    faiss_batch_size: int = field(default=16384, metadata={"help": "anchors searched at once: memory"})
    use_faiss: bool = field(default=False, metadata={"help": "search with faiss (installed apart): large data"})
    use_multi_process: bool = field(default=False, metadata={"help": "encode on all GPUs"})
    cache_folder: str | None = field(default=None, metadata={"help": "keep embeddings there for the next call"})


def main(argv: list[str]) -> int:
    # 1. Options, and everything that can be wrong with the output.
    (args,) = config.parse(argv, MiningArguments)
    output = Path(args.output_file).expanduser()
    check(args, output)
    set_seed(args.seed)

    # 2. Data: pairs, with their texts checked.
    rows = data.load_rows(args.train_file, args.dataset, args.dataset_config, args.train_split, args.columns)
    if rows.kind != losses.PAIRS:
        raise InputError(f"{', '.join(rows.columns)} are {rows.kind}: name an anchor and a positive with --columns")
    corpus = read_lines(args.corpus) if args.corpus else None

    # 3. Models: the one that searches, with its own prompts unless told, and perhaps one that scores again.
    model = models.load_model(args.model, dtype=args.dtype, max_seq_length=args.max_seq_length)
    if args.query_prompt is None:
        args.query_prompt = model.prompts.get("query") or None
    if args.corpus_prompt is None:
        args.corpus_prompt = model.prompts.get("document") or None
    prompts = f"prompts {args.query_prompt or ''!r} and {args.corpus_prompt or ''!r}"
    run.say(f"{data.describe(rows)}; {args.model} searches, {prompts}")

    # 4. Mine. The miner checks its own options before it encodes anything.
    known = inspect.signature(mine_hard_negatives).parameters.keys() - LOADED
    own = {key: value for key, value in vars(args).items() if key in known}
    try:
        scorer = CrossEncoder(args.cross_encoder, trust_remote_code=False) if args.cross_encoder else None
        found = mine_hard_negatives(rows.dataset, model, corpus=corpus, cross_encoder=scorer, **own)
    except (ValueError, ImportError, OSError) as error:
        raise InputError(" ".join(str(error).split())) from error

    # 5. Write, whole or not at all.
    return write(found, rows, output)


def check(args: MiningArguments, output: Path) -> None:
    """Refuse an output that is there or cannot be written, and several processes, before anything is loaded."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("mining runs in one process: --num_processes 1; --use_multi_process true takes all GPUs")
    if output.suffix != ".jsonl":
        raise InputError(f"--output_file {output}: has to end in .jsonl")
    if output.exists() and not args.overwrite:
        raise InputError(f"--output_file {output} is there already: name another, or replace it with --overwrite true")
    record.check_writable(output.parent)


def read_lines(name: str) -> list[str]:
    """The texts of a file with a text per line; empty lines are no texts."""
    try:
        lines = Path(name).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--corpus {name}: cannot be read: {error}") from error
    return [line for line in lines if line.strip()]


def write(found: Dataset, rows: data.Rows, output: Path) -> int:
    """Write the rows that were found, and say what to do with them."""
    # Where a text is an anchor here and a positive there, the nearest text to an anchor is itself.
    negatives = found.column_names[2:]
    kept = [i for i, row in enumerate(found) if row["anchor"] not in [row[name] for name in negatives]]
    if len(kept) < len(found):
        run.say(
            f"left out {len(found) - len(kept)} rows whose negative is the anchor itself; --max_score 0.99 finds others"
        )
    found = found.select(kept)
    if not len(found):
        raise run.RunError("no negatives were found: widen range_max, or loosen the margins and scores")
    if found.column_names[2:] == ["negative_1"]:
        found = found.rename_column("negative_1", "negative")  # what the recipes find without --columns
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
    run.say(f"saved {output}: {len(found)} rows for {len(rows.dataset)} pairs, columns {', '.join(found.column_names)}")
    columns = f" --columns {' '.join(found.column_names)}" if len(found.column_names) > 3 else ""
    run.say(f"next: tamft train encoder_pairs --train_file {output}{columns} --output_dir runs/mined")
    return 0


if __name__ == "__main__":
    sys.exit(run.command(main))
