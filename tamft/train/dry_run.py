"""The text that `--dry_run true` prints: options and where they come from, batches, negatives, steps, memory."""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tamft.train import config, estimate

SAMPLE = 1000  # rows whose tokens are counted


@dataclass(frozen=True)
class Work:
    """What a recipe knows when model and data are ready.

    lengths: column -> tokens of its texts (a sample), uncut. limit: tokens after which texts are cut.
    forward: a forward pass over that many copies of a row -> (the tensor that the loss reads, padded tokens).
    loss: of sentence-transformers, or None.
    """

    argv: Sequence[str]
    options: Sequence[Any]
    args: Any
    model: torch.nn.Module
    rows: int
    what: str
    lengths: Mapping[str, Sequence[int]]
    limit: int | None
    forward: Callable[[int], tuple[torch.Tensor, int]]
    loss: Any = None


def pairs(argv: Sequence[str], options: Any, args: Any, model: Any, data: Any, loss: Any) -> Work:
    """Work of a recipe that trains a SentenceTransformer on `data` (a `data.Rows`)."""
    dataset = data.dataset
    rows = dataset.select(random.Random(0).sample(range(len(dataset)), min(SAMPLE, len(dataset))))
    texts = {column: rows[column] for column in dataset.column_names if isinstance(rows[0][column], str)}
    prompts = args.prompts or {}
    first = {column: prompts if isinstance(prompts, str) else prompts.get(column, "") for column in texts}
    lengths = {
        column: [len(ids) for ids in model.tokenizer([first[column] + text for text in found])["input_ids"]]
        for column, found in texts.items()
    }
    text = max((texts[column][0] for column in texts), key=len)

    def forward(count: int) -> tuple[torch.Tensor, int]:
        inputs = model.preprocess([text] * count)
        inputs = {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in inputs.items()}
        return model(inputs)["sentence_embedding"], inputs["input_ids"].numel()

    what = f"{len(dataset)} {data.kind} from {', '.join(data.columns)}"
    return Work(argv, (options, args), args, model, len(dataset), what, lengths, model.max_seq_length, forward, loss)


def classified(argv: Sequence[str], options: Any, args: Any, model: Any, tokenizer: Any, rows: Any) -> Work:
    """Work of a plain Trainer over `rows` that are tokens already."""
    chosen = random.Random(0).sample(range(len(rows)), min(SAMPLE, len(rows)))
    lengths = [len(ids) for ids in rows.select(chosen)["input_ids"]]
    first = tokenizer.pad({key: [rows[chosen[0]][key]] for key in ("input_ids", "attention_mask")}, return_tensors="pt")

    def forward(count: int) -> tuple[torch.Tensor, int]:
        inputs = {key: value.repeat(count, 1).to(model.device) for key, value in first.items()}
        return model(**inputs).logits, inputs["input_ids"].numel()

    what = f"{len(rows)} rows, already cut"
    return Work(argv, (options, args), args, model, len(rows), what, {"text": lengths}, None, forward)


def report(work: Work) -> str:
    """The text. Raises InputError for options that the optimizer refuses; writes nothing."""
    args, model = work.args, work.model.train()
    if next(model.parameters()).device.type != args.device.type:  # 4-bit weights cannot be moved, and are there already
        model.to(args.device)
    steps = estimate.count_steps(args, work.rows)
    trained, total = estimate.parameters(model)
    lines = ["dry run: nothing is written", "", "options that are set", *_options(work), ""]
    used = estimate.reached(work.forward(1)[0])
    idle = trained - sum(p.numel() for p in used)
    note = f"; {idle:,} of them get no gradient, because the loss does not read them" if idle else ""
    lines.append(f"trained    {trained:,} of {total:,} parameters ({trained / total:.2%}){note}")
    lines.append(f"data       {work.what}")
    lines.append(f"tokens     {_tokens(work)}")
    lines.append(
        f"batch      {args.train_batch_size} rows x {args.gradient_accumulation_steps} accumulated x "
        f"{args.world_size} processes = {steps.batch} rows a step"
    )
    if work.loss is not None:
        found = estimate.count_negatives(args, work.loss, len(work.lengths))
        name = type(estimate.inner(work.loss)).__name__
        lines.append(f"loss       {name}")
        lines.append(
            f"negatives  {found.total} for each anchor: {found.hard} hard ones of its own, {found.in_batch} from its "
            f"batch, {found.across} from other processes"
            if found
            else "negatives  none: this loss reads scores"
        )
    lines.append(f"steps      {steps.total} ({steps.per_epoch} in an epoch), {steps.warmup} of them warm-up")
    return "\n".join([*lines, "", *_memory(work, used)])


def _options(work: Work) -> list[str]:
    origins = config.origins(work.argv)
    values = {key: getattr(source, key) for source in work.options for key in vars(source) if key in origins}
    width = max(map(len, values), default=0)
    texts = {key: str(getattr(value, "value", value)) for key, value in values.items()}
    wide = min(max(map(len, texts.values()), default=0), 60)
    return [f"  {key:<{width}}  {texts[key]:<{wide}}  {origins[key]}" for key in sorted(values)]


def _tokens(work: Work) -> str:
    lengths = torch.tensor([length for found in work.lengths.values() for length in found], dtype=torch.float64)
    text = f"mean {lengths.mean():.0f}, 95 % up to {lengths.quantile(0.95):.0f}"
    cut = lengths.clamp(max=work.limit) if work.limit else lengths
    if work.limit:
        text += f", {(lengths > work.limit).double().mean():.1%} cut at {work.limit}"
    sample = len(lengths) // len(work.lengths)
    whole = f"{sample} rows" if sample < work.rows else "all rows"
    return f"{text} (a text, of {whole}); {cut.mean() * len(work.lengths) * work.rows:,.0f} in an epoch"


def _memory(work: Work, used: Sequence[torch.nn.Parameter]) -> list[str]:
    args, model = work.args, work.model
    # Trainer's own flag, or accelerate's config
    sharded = args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    shards = args.world_size if sharded else 1
    exact = {
        "weights": sum(p.numel() * p.element_size() for p in model.parameters()) / shards,
        "gradients": sum(p.numel() * p.element_size() for p in used) / shards,
        "optimizer state": estimate.state_bytes(args, model, used) / shards,
    }
    found = estimate.activations(model, work.forward, args)
    if args.gradient_checkpointing:
        found = estimate.checkpointed(found, model)
    at_once = estimate.tokens_at_once(work.loss, work.lengths, args.per_device_train_batch_size, work.limit)
    rough = found.fixed + found.per_token * at_once
    lines = ["memory of each process"]
    lines += [f"  {name:<16} {_size(size)}" for name, size in exact.items()]
    lines.append(
        f"  {'activations':<16} {_size(rough)}   rough estimate: what a forward pass of two rows keeps, scaled to "
        f"{at_once:,.0f} padded tokens at once"
    )
    whole = sum(exact.values()) + rough
    lines.append(f"  {'sum':<16} {_size(whole)}   and what kernels, libraries and fragmentation take")
    if args.device.type == "cuda":
        lines.append(f"  {'this GPU':<16} {_size(torch.cuda.get_device_properties(args.device).total_memory)}")
    return lines


def _size(size: float) -> str:
    return f"{size / 2**30:8.2f} GiB" if size >= 2**30 else f"{size / 2**20:8.2f} MiB"
