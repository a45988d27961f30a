"""Which texts go through the model together: batches of about as many tokens, padding included."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# At once: the ids of all texts of a large corpus would not fit into memory.
CHUNK = 10_000


def token_batches(lengths: NDArray[np.int64], tokens: int) -> Iterator[list[int]]:
    """Indices of texts, longest first, in batches of at most `tokens` tokens: rows x the longest row's length.

    A text that is longer than `tokens` gets a batch of its own. Longest first, so that memory runs out at once or not
    at all.
    """
    batch: list[int] = []
    for index in np.argsort(-lengths, kind="stable").tolist():
        if batch and int(lengths[batch[0]]) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def count_tokens(model: "SentenceTransformer", texts: Sequence[str], prompt: str = "") -> NDArray[np.int64]:
    """Tokens of each text with its prompt and the special tokens, before anything is cut off.

    A model without a tokenizer of the usual kind is served with a guess: four characters are a token.
    """
    from transformers import PreTrainedTokenizerBase

    tokenizer = getattr(model, "tokenizer", None)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return np.array([(len(prompt) + len(text)) // 4 + 1 for text in texts], dtype=np.int64)
    counts: list[int] = []
    for start in range(0, len(texts), CHUNK):
        part = [prompt + text for text in texts[start : start + CHUNK]]
        counts += [len(ids) for ids in _ids(tokenizer, part)]
    return np.array(counts, dtype=np.int64)


def count_truncated(model: "SentenceTransformer", texts: Sequence[str], prompt: str = "") -> int:
    """How many of the texts are longer than the model's maximum length, so that their ends are not read."""
    limit = model.max_seq_length
    if limit is None:
        return 0
    # A token is at least a byte: short texts need not be tokenized to know that they fit.
    room = limit - len(prompt) * 4
    long = [text for text in texts if len(text) * 4 > room and len(text.encode("utf-8", "replace")) > room - 8]
    return int((count_tokens(model, long, prompt) > limit).sum()) if long else 0


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids without truncation, and without the tokenizer's warning that they are many."""
    found: list[list[int]] = tokenizer(
        texts,
        truncation=False,
        padding=False,
        verbose=False,
        return_attention_mask=False,
        return_token_type_ids=False,
    )["input_ids"]
    return found
