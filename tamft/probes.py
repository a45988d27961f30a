"""Do two models give the same embeddings? A few ordinary sentences, and what counts as the same."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# A change that none of these shows is one that nobody would notice.
PROBES = [
    "How do I get a refund for a transfer that failed?",
    "A man is playing a guitar on the street.",
    "The committee will publish its findings next week.",
    "protein folding",
]
# Largest difference over largest number, where the same weights computed twice: rounding of another batch is below it.
SAME = 1e-6


def embed(model: Any) -> "Tensor":
    """The embeddings of PROBES by a SentenceTransformer, float32 on the CPU; the model is left in evaluation mode."""
    return model.encode(PROBES, convert_to_tensor=True, show_progress_bar=False).float().cpu()


def distance(one: "Tensor", other: "Tensor") -> float:
    """Largest difference of two models' embeddings, over the largest number in `other`.

    Infinite where they have different sizes or a number is NaN.
    """
    if one.shape != other.shape:
        return float("inf")
    found = float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))
    return found if found == found else float("inf")
