"""Embeddings that were computed a moment ago: a text that occurs in several tasks is encoded once."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# Of a digest, two objects and their places in the table, measured.
OVERHEAD = 250


class EmbeddingCache:
    """Embeddings of one model in one dtype, at most `megabytes` of them; those not used for longest go first.

    It lives and dies with the loaded model: the model's identity and dtype are not part of the key because there is no
    other in here. What else decides an embedding is: the text, its prompt, and the role (query, document, neither)
    where the model knows roles. mteb's own CachedEmbeddingWrapper keeps files for each task, without a bound, and
    shares nothing between tasks.
    """

    def __init__(self, megabytes: float) -> None:
        self.limit = int(megabytes * 1e6)
        self.size = 0
        self._rows: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    @staticmethod
    def keys(texts: Iterable[str], context: str) -> list[bytes]:
        """Keys of texts; `context` says all that decides an embedding apart from the text."""
        start = hashlib.blake2b(context.encode("utf-8", "surrogatepass") + b"\0", digest_size=16)
        keys = []
        for text in texts:
            one = start.copy()
            one.update(text.encode("utf-8", "surrogatepass"))
            keys.append(one.digest())
        return keys

    def get(self, key: bytes) -> NDArray[np.float32] | None:
        """The embedding, or None."""
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def put(self, key: bytes, row: NDArray[np.float32]) -> None:
        """Keep an embedding; what does not fit any more is forgotten."""
        if key in self._rows:
            return
        # a copy: a row that is a view would keep its whole batch alive
        self._rows[key] = row.copy()
        self.size += row.nbytes + OVERHEAD
        while self.size > self.limit and self._rows:
            _, old = self._rows.popitem(last=False)
            self.size -= old.nbytes + OVERHEAD

    def __len__(self) -> int:
        return len(self._rows)
