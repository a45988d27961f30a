"""How fast a model is here: a few seconds of encoding at several text lengths."""

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tamft.evaluation.batches import count_tokens
from tamft.evaluation.encoder import Batch, Encoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

WORDS = (
    "the committee will publish its findings next week and nobody knows yet whether a refund for the failed transfer "
    "is part of them because protein folding on the street with a guitar was never measured before by a man playing "
).split()
LENGTHS = (8, 32, 128, 512, 2048)  # tokens
ENOUGH = 0.4  # seconds for each length, once warm
TOO_LONG = 15.0  # seconds that the next length may be expected to take


class Speed:
    """Seconds that a model needs for a text of so many tokens, between and beyond the lengths that were measured."""

    def __init__(self, lengths: list[float], seconds: list[float]) -> None:
        self.lengths = lengths
        self.seconds_at = seconds

    def seconds(self, tokens: NDArray[np.float64]) -> NDArray[np.float64]:
        """Seconds for one text of each length."""
        inside = np.interp(tokens, self.lengths, self.seconds_at)
        return np.asarray(inside * np.maximum(1.0, tokens / self.lengths[-1]))


def measure(model: "SentenceTransformer", batch: Batch) -> Speed:
    """Encode texts of growing length, as they would be encoded in batches of this size, until it is clear."""
    encoder = Encoder(model, batch=batch, cache=None, progress=lambda number: None, say=lambda line: None)
    lengths: list[float] = []
    seconds: list[float] = []
    for target in LENGTHS:
        if lengths and target > (model.max_seq_length or target):
            target = int(model.max_seq_length or target)
            if target <= lengths[-1]:
                break
        text, tokens = _text(model, target)
        number = batch.size if batch.unit == "texts" else max(1, batch.size // tokens)
        if seconds and number * seconds[-1] * tokens / lengths[-1] > TOO_LONG:
            number = max(1, int(TOO_LONG * lengths[-1] / (seconds[-1] * tokens)))
            if number * seconds[-1] * tokens / lengths[-1] > 2 * TOO_LONG:
                break  # one such text alone takes too long; from here on time grows with the tokens
        texts = [f"{i} {text}" for i in range(number)]  # equal ones would be encoded once
        if not lengths:
            encoder.encode(texts)  # the first call pays for more than encoding
        lengths.append(float(np.mean(np.minimum(count_tokens(model, texts), model.max_seq_length or 10**9))))
        seconds.append(_time(encoder, texts) / number)
    return Speed(lengths, seconds)


def _time(encoder: Encoder, texts: list[str]) -> float:
    """The fastest of a few calls: what disturbs the machine now is not the model's."""
    best, start = float("inf"), time.monotonic()
    while True:
        before = time.perf_counter()
        encoder.encode(texts)
        best = min(best, time.perf_counter() - before)
        if time.monotonic() - start > ENOUGH:
            return best


def _text(model: "SentenceTransformer", tokens: int) -> tuple[str, int]:
    """A text of about so many tokens, and how many it has."""
    per_word = max(1.0, count_tokens(model, [" ".join(WORDS)])[0] / len(WORDS))
    words = max(1, int((tokens - 4) / per_word))
    text = " ".join(WORDS[i % len(WORDS)] for i in range(words))
    return text, int(count_tokens(model, [text])[0])
