"""Which loss fits which columns."""

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


def choose_loss(name: str | None, kind: str, columns: list[str]) -> str:
    """The loss's class name: `name` (in any case of letters) if it fits rows of this kind; None: the kind's default.

    Raises InputError for an unknown name (with the nearest one) and for a loss that does not fit the columns.
    """
    if name is None:
        return DEFAULT[kind]
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


def make_loss(model: Any, name: str, *, mini_batch_size: int = 32) -> Any:
    """The loss called `name` over `model`.

    `mini_batch_size` (1 or more, else InputError): rows at once in the cached losses; memory, not result.
    """
    from sentence_transformers.sentence_transformer import losses

    if mini_batch_size < 1:
        raise InputError(f"--mini_batch_size {mini_batch_size}: has to be 1 or more")
    cls = getattr(losses, name)
    if name.startswith("Cached"):
        return cls(model, mini_batch_size=mini_batch_size)
    return cls(model)
