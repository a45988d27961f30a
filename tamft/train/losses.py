"""Which loss fits which columns."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

from tamft.errors import InputError
from tamft.registry import nearest

PAIRS, TRIPLETS, SCORED = "pairs", "triplets", "scored pairs"
SHAPES = {PAIRS: "two texts", TRIPLETS: "three texts or more", SCORED: "two texts and a number"}
# sentence-transformers' class -> the kinds of rows that it takes.
LOSSES: Mapping[str, tuple[str, ...]] = {
    "MultipleNegativesRankingLoss": (PAIRS, TRIPLETS),
    "CachedMultipleNegativesRankingLoss": (PAIRS, TRIPLETS),
    "TripletLoss": (TRIPLETS,),
    "CoSENTLoss": (SCORED,),
    "AnglELoss": (SCORED,),
    "CosineSimilarityLoss": (SCORED,),
}
DEFAULT = {
    PAIRS: "MultipleNegativesRankingLoss",
    TRIPLETS: "MultipleNegativesRankingLoss",
    SCORED: "CoSENTLoss",
}


def choose_loss(name: str | None, kind: str, columns: list[str], *, cached: bool = False) -> str:
    """The loss's class name: `name` (in any case of letters) if it fits rows of this kind; None: the kind's default.

    `cached`: the default is the loss's Cached… form where there is one. Raises InputError for an unknown name (with the
    nearest one) and for a loss that does not fit the columns.
    """
    if name is None:
        default = DEFAULT[kind]
        return f"Cached{default}" if cached and f"Cached{default}" in LOSSES else default
    spellings = {known.lower(): known for known in LOSSES}
    if name.lower() not in spellings:
        raise InputError(f"--loss {name!r} is not known{nearest(name, spellings)} Known: {', '.join(LOSSES)}")
    name = spellings[name.lower()]
    if name == "TripletLoss" and len(columns) > 3:
        raise InputError(f"--loss TripletLoss takes three columns, here are {len(columns)}: name three with --columns")
    if kind not in LOSSES[name]:
        fits = " or ".join(f"{kind} ({SHAPES[kind]})" for kind in LOSSES[name])
        raise InputError(
            f"--loss {name} takes {fits}; the columns {', '.join(columns)} are {kind} ({SHAPES[kind]}): "
            f"choose other --columns, or leave --loss away for {DEFAULT[kind]}"
        )
    return name


def make_loss(
    model: Any,
    name: str,
    *,
    mini_batch_size: int = 32,
    mini_batch_tokens: int | None = None,
    scale: float | None = None,
    gather_across_devices: bool = False,
    matryoshka_dims: list[int] | None = None,
) -> Any:
    """The loss called `name` over `model`, inside MatryoshkaLoss where `matryoshka_dims` are given.

    Args:
        mini_batch_size: rows at once in the cached losses, 1 or more: memory and speed, not result.
        mini_batch_tokens: tokens at once in the cached losses, padding not counted, instead of rows; 1 or more.
        scale: factor on the similarities (1 / temperature), above 0; None: the loss's own.
        gather_across_devices: the texts of all processes are negatives (losses with negatives from the batch).
        matryoshka_dims: lengths of the embedding's prefixes that the loss is added up over, each once, at most the
            embedding's length; which is added, so that the whole embedding is trained as well.

    Raises InputError for a value out of range and for an option that this loss does not have.
    """
    from sentence_transformers.sentence_transformer import losses

    cls = getattr(losses, name)
    known = inspect.signature(cls).parameters
    options: dict[str, Any] = {}
    if scale is not None:
        if not 0 < scale < math.inf:
            raise InputError(f"--scale {scale}: has to be a number above 0")
        options["scale"] = scale
    if gather_across_devices:
        options["gather_across_devices"] = True
    for flag, size in (("mini_batch_size", mini_batch_size), ("mini_batch_tokens", mini_batch_tokens)):
        if size is not None and size < 1:
            raise InputError(f"--{flag} {size}: has to be 1 or more")
    if mini_batch_tokens is not None:
        options["mini_batch_num_tokens"] = mini_batch_tokens
    if missing := sorted(set(options) - set(known)):
        flags = " ".join("--mini_batch_tokens" if key == "mini_batch_num_tokens" else f"--{key}" for key in missing)
        raise InputError(f"{flags}: {name} has no such option; leave it away or choose another --loss")
    if "mini_batch_size" in known:
        options["mini_batch_size"] = mini_batch_size
    loss = cls(model, **options)
    return loss if matryoshka_dims is None else losses.MatryoshkaLoss(model, loss, _dims(model, matryoshka_dims))


def _dims(model: Any, dims: list[int]) -> list[int]:
    size = model.get_embedding_dimension()
    bad = [dim for dim in dims if not 1 <= dim <= size]
    if bad or len(set(dims)) < len(dims):
        raise InputError(f"--matryoshka_dims {' '.join(map(str, dims))}: name lengths from 1 to {size}, each once")
    return sorted({*dims, size}, reverse=True)
