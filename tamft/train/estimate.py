"""`--dry_run true`: what a run would do, and what it would need, before it writes anything.

Exact: trainable weights, their gradients, optimizer state, batches, steps, negatives. Estimated, and said so: tokens
(from a sample of the rows) and activations (measured on two rows, scaled to the batch).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Trainer

from tamft.errors import InputError
from tamft.train import record

SHAPES = ((64, 64), (64, 128))  # of the two weights from whose state the whole state follows


@dataclass(frozen=True)
class Steps:
    """`batch`: rows per step over all processes; `per_epoch`, `total`, `warmup`: optimizer steps."""

    batch: int
    per_epoch: int
    total: int
    warmup: int


@dataclass(frozen=True)
class Negatives:
    """What one anchor's positive competes with, by origin."""

    hard: int
    in_batch: int
    across: int

    @property
    def total(self) -> int:
        return self.hard + self.in_batch + self.across


@dataclass(frozen=True)
class Activations:
    """Bytes that wait for the backward pass: `fixed` (16-bit copies of weights, under autocast) and by padded token."""

    fixed: float
    per_token: float


def count_steps(args: Any, rows: int) -> Steps:
    """Optimizer steps of a training over `rows` rows, as Trainer counts them."""
    processes = args.world_size
    per_process = args.train_batch_size  # already times the GPUs of one process
    mine, rest = divmod(rows, per_process * processes)
    # the rest is shared out equally (see batches.Shares), if there is a row for every process
    mine += rest >= processes and not args.dataloader_drop_last
    per_epoch = max(math.ceil(mine / args.gradient_accumulation_steps), 1)
    total = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    batch = per_process * args.gradient_accumulation_steps * processes
    return Steps(batch, per_epoch, total, args.get_warmup_steps(total))


def count_negatives(args: Any, loss: Any, columns: int) -> Negatives | None:
    """Negatives of one anchor in `loss` over rows of `columns` texts; None where a loss knows no negatives.

    Accumulated batches share none: each is a loss of its own.
    """
    loss = inner(loss)
    name = type(loss).__name__
    if name == "TripletLoss":
        return Negatives(1, 0, 0)
    if "MultipleNegatives" not in name:
        return None
    rows = args.per_device_train_batch_size
    others = (args.world_size - 1) * rows if getattr(loss, "gather_across_devices", False) else 0
    texts = columns - 1  # positive and hard negatives: each text of another row is a negative
    return Negatives(texts - 1, (rows - 1) * texts, others * texts)


def inner(loss: Any) -> Any:
    """The loss inside one that wraps another (Matryoshka); a cached loss has an inner one as well, but is the loss."""
    while not hasattr(loss, "mini_batch_size") and isinstance(getattr(loss, "loss", None), torch.nn.Module):
        loss = loss.loss
    return loss


def parameters(model: torch.nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters; a 4-bit weight counts as the packed numbers that are stored."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trainable in sizes if trainable), sum(size for size, _ in sizes)


def reached(output: torch.Tensor) -> list[torch.nn.Parameter]:
    """The weights that get a gradient from `output`; BERT's pooler, for one, gets none from a mean of its tokens."""
    found: dict[int, torch.nn.Parameter] = {}
    seen, todo = set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (weight := getattr(node, "variable", None)) is not None:
            found[id(weight)] = weight
        todo += [parent for parent, _ in node.next_functions]
    return list(found.values())


def state_bytes(args: Any, model: torch.nn.Module, weights: Sequence[torch.nn.Parameter]) -> int:
    """Bytes of the optimizer's state over `weights` of `model`: those that get a gradient.

    The optimizer takes a step over two small matrices, which tells its bytes per number and per tensor: exact where the
    state has the shape of the weights, an upper bound where it is factored (adafactor).
    Raises InputError for options that the optimizer refuses.
    """
    try:
        cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
        kwargs = {key: value for key, value in kwargs.items() if key not in ("params", "model", "optimizer_dict")}
        small, large = (_state_of(cls, kwargs, shape, args.device) for shape in SHAPES)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(" ".join(str(error).split())) from error
    counts = [math.prod(shape) for shape in SHAPES]
    per_number = (large - small) / (counts[1] - counts[0])
    per_tensor = small - per_number * counts[0]
    return round(per_number * sum(p.numel() for p in weights) + per_tensor * len(weights))


def _state_of(cls: Any, kwargs: dict[str, Any], shape: tuple[int, int], device: torch.device) -> int:
    weight = torch.nn.Parameter(torch.ones(shape, device=device))
    optimizer = cls([weight], **kwargs)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    return record.state_bytes(optimizer)


def activations(model: torch.nn.Module, run: Callable[[int], tuple[Any, int]], args: Any) -> Activations:
    """Measure what a forward pass keeps beside the weights, under the autocast of `args`, and how it grows.

    Args:
        run: makes a forward pass over as many copies of a row as it is told, returns (output, padded tokens).
    """
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    kind = next(model.parameters()).device.type
    kept, tokens = [], []
    for rows in (1, 2):
        with torch.autocast(kind, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            size, count = _kept(model, run, rows)
        kept.append(size)
        tokens.append(count)
    per_token = (kept[1] - kept[0]) / (tokens[1] - tokens[0])
    return Activations(max(kept[0] - per_token * tokens[0], 0.0), per_token)


def _kept(model: torch.nn.Module, run: Callable[[int], tuple[Any, int]], rows: int) -> tuple[int, int]:
    """Bytes that autograd holds after a forward pass, weights left out, and the pass's padded tokens."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    held: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output, tokens = run(rows)
    del output  # only now: memory that is freed in between would be counted twice, at one address
    return sum(held.values()), tokens


def checkpointed(found: Activations, model: torch.nn.Module) -> Activations:
    """With gradient checkpointing: the inputs of all layers, and all of one layer, which is computed again."""
    config = next((m.config for m in model.modules() if hasattr(getattr(m, "config", None), "num_hidden_layers")), None)
    if config is None:
        return found
    layers, hidden = config.num_hidden_layers, config.hidden_size
    size = next(model.parameters()).element_size()
    return Activations(found.fixed, found.per_token / layers + layers * hidden * size)


def longest_of(lengths: Sequence[int], rows: int) -> float:
    """Expected length of the longest of `rows` texts drawn from `lengths`: what a batch is padded to."""
    count = len(lengths)
    chances = (((i + 1) / count) ** rows - (i / count) ** rows for i in range(count))
    return sum(length * chance for length, chance in zip(sorted(lengths), chances, strict=True))


def tokens_at_once(loss: Any, lengths: Mapping[str, Sequence[int]], rows: int, limit: int | None) -> float:
    """Padded tokens whose activations are held at the same time; cached losses hold one mini-batch of one column."""
    loss = inner(loss)
    if packed := getattr(loss, "mini_batch_num_tokens", None):
        return float(packed)
    short = {column: [min(length, limit or length) for length in found] for column, found in lengths.items()}
    if piece := getattr(loss, "mini_batch_size", None):
        piece = min(piece, rows)
        return piece * max(longest_of(found, piece) for found in short.values())
    return sum(rows * longest_of(found, rows) for found in short.values())
