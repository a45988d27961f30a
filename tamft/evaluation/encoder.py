"""Between mteb's wrapper and the SentenceTransformer: batches, the cache, memory, and a look at the embeddings.

mteb's wrapper chooses prompts and calls `encode`, `encode_query` or `encode_document` of what it takes for the model.
The `Encoder` calls the same function of the real model, with the same prompt, on the texts that have to be encoded, in
batches of its own. So nothing about prompts or pooling is written twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from numpy.typing import NDArray

from tamft.evaluation.batches import count_tokens, count_truncated, token_batches
from tamft.evaluation.embeddings import EmbeddingCache

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Vectors = NDArray[np.float32]
Function = Callable[..., Any]

# Truncation is reported from this share of a task's texts on.
TRUNCATED = 0.01
# Embeddings that differ by less than this, relative to their size, are called equal.
EQUAL = 1e-6
# In which order sentence-transformers looks for a prompt when none is given.
PROMPT_NAMES = {"encode": (), "encode_query": ("query",), "encode_document": ("document", "passage", "corpus")}


@dataclass
class Batch:
    """How much goes through the model at once: `size` tokens (padding included), or `size` texts."""

    size: int
    unit: str  # "tokens" or "texts"


class NotFiniteError(ValueError):
    """Some embeddings are NaN or infinite: no score of them means anything."""


class Encoder:
    """Looks like the SentenceTransformer `model`, and encodes texts once, in batches that fit into memory.

    Args:
        model: the real one; every attribute that is not defined here is its own.
        batch: halved, for good, when memory runs out.
        cache: None: every call encodes all of its texts, in exactly the batches that sentence-transformers makes.
        progress: called with the number of texts that were just encoded or found.
        say: called with a line for the reader.
    """

    def __init__(
        self,
        model: "SentenceTransformer",
        *,
        batch: Batch,
        cache: EmbeddingCache | None,
        progress: Callable[[int], None],
        say: Callable[[str], None],
    ) -> None:
        self._model = model
        self.batch = batch
        self.cache = cache
        self._progress = progress
        self._say = say
        self._roles = _knows_roles(model)
        self.begin()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, inputs: Any, **options: Any) -> Any:
        """As `SentenceTransformer.encode`."""
        return self._run("encode", inputs, options)

    def encode_query(self, inputs: Any, **options: Any) -> Any:
        """As `SentenceTransformer.encode_query`."""
        return self._run("encode_query", inputs, options)

    def encode_document(self, inputs: Any, **options: Any) -> Any:
        """As `SentenceTransformer.encode_document`."""
        return self._run("encode_document", inputs, options)

    # --- what is to be said about a task ---

    def begin(self) -> None:
        """Forget what was found so far: another task begins."""
        self._texts = 0
        self._truncated = 0
        self._first: Vectors | None = None
        self._vary = False

    def findings(self) -> list[str]:
        """What the reader must know about the texts and embeddings since `begin`; mostly nothing."""
        found = []
        if self._texts > 1 and not self._vary:
            found.append(f"the embeddings of all {self._texts} texts are equal: the model tells no two texts apart")
        if self._texts and self._truncated > TRUNCATED * self._texts:
            found.append(
                f"{self._truncated / self._texts:.0%} of the texts are longer than the model's "
                f"{self._model.max_seq_length} tokens and were cut off"
            )
        return found

    def _look(self, vectors: Vectors) -> None:
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise NotFiniteError(
                f"{int((~finite).sum())} of {len(vectors)} embeddings are not finite (NaN or infinite); "
                "are the weights damaged, or is the dtype too narrow (try --dtype float32 or bfloat16)?"
            )
        if not self._vary and len(vectors):
            if self._first is None:
                self._first = vectors[0].copy()
            if vectors.shape[1] == self._first.shape[0]:
                scale = float(np.abs(self._first).max())
                self._vary = bool((np.abs(vectors - self._first).max(axis=1) > EQUAL * scale).any())
            else:
                self._vary = True

    # --- encoding ---

    def _run(self, name: str, inputs: Any, options: dict[str, Any]) -> Any:
        function: Function = getattr(self._model, name)
        texts = list(inputs) if isinstance(inputs, Sequence) and not isinstance(inputs, str) else []
        plain = not set(options) - {"prompt", "prompt_name", "batch_size", "show_progress_bar"}
        if not texts or not plain or not all(isinstance(text, str) for text in texts):
            return function(inputs, **options)  # pictures, quantized embeddings: not ours to batch
        prompt = self._prompt(name, options)
        options = {key: options[key] for key in ("prompt", "prompt_name") if options.get(key) is not None}
        options["show_progress_bar"] = False

        _check_characters(texts)
        unique = list(dict.fromkeys(texts))
        self._texts += len(unique)
        if self.cache is None and self.batch.unit == "texts":
            self._truncated += count_truncated(self._model, unique, prompt)
            vectors = self._rows(function, texts, options)
            self._look(vectors)
            return vectors
        rows = self._cached(function, unique, prompt, f"{name if self._roles else ''}|{prompt}", options)
        return np.stack([rows[text] for text in texts])

    def _cached(
        self, function: Function, texts: list[str], prompt: str, context: str, options: dict[str, Any]
    ) -> dict[str, Vectors]:
        """Embeddings of distinct texts, by text: from the cache, or new."""
        cache = self.cache
        keys = dict(zip(texts, EmbeddingCache.keys(texts, context), strict=True)) if cache is not None else {}
        rows: dict[str, Vectors] = {}
        if cache is not None:
            rows = {text: row for text in texts if (row := cache.get(keys[text])) is not None}
        if rows:
            self._truncated += count_truncated(self._model, list(rows), prompt)
            self._look(np.stack(list(rows.values())))
            self._progress(len(rows))
        missing = [text for text in texts if text not in rows]
        if not missing:
            return rows
        if self.batch.unit == "tokens":
            vectors = self._tokens(function, missing, prompt, options)
        else:
            self._truncated += count_truncated(self._model, missing, prompt)
            vectors = self._rows(function, missing, options)
        self._look(vectors)
        rows |= zip(missing, vectors, strict=True)
        if cache is not None:
            for text in missing:
                cache.put(keys[text], rows[text])
        return rows

    def _rows(self, function: Function, texts: list[str], options: dict[str, Any]) -> Vectors:
        """All texts in one call, which sorts them by length and takes `batch.size` at a time."""
        while True:
            done = 0

            def count(module: Any, inputs: tuple[Any, ...]) -> None:
                nonlocal done
                now = min(self.batch.size, len(texts) - done)
                done += now
                self._progress(now)

            hook = self._model[0].register_forward_pre_hook(count)
            try:
                vectors: Vectors = np.asarray(function(texts, batch_size=self.batch.size, **options))
                return vectors
            except Exception as error:
                self._progress(-done)
                if not self._halved(error):
                    raise
            finally:
                hook.remove()

    def _tokens(self, function: Function, texts: list[str], prompt: str, options: dict[str, Any]) -> Vectors:
        """Batch after batch; after an out-of-memory only what is left is batched anew."""
        lengths = count_tokens(self._model, texts, prompt)
        limit = self._model.max_seq_length
        if limit is not None:
            self._truncated += int((lengths > limit).sum())
            lengths = np.minimum(lengths, limit)
        vectors: Vectors | None = None
        left = np.arange(len(texts))
        while len(left):
            for places in token_batches(lengths[left], self.batch.size):
                batch = left[places]
                try:
                    part = function([texts[i] for i in batch], batch_size=len(batch), **options)
                except Exception as error:
                    # The batch that failed says how much is too much: the limit may be far above it.
                    self.batch.size = min(self.batch.size, int(lengths[batch[0]]) * len(batch))
                    if len(batch) == 1 or not self._halved(error):
                        raise
                    break
                if vectors is None:
                    vectors = np.empty((len(texts), part.shape[1]), dtype=np.float32)
                vectors[batch] = part
                lengths[batch] = 0
                self._progress(len(batch))
            left = np.flatnonzero(lengths)
        return vectors if vectors is not None else np.empty((0, 0), dtype=np.float32)

    def _halved(self, error: Exception) -> bool:
        """Whether `error` says that memory ran out and the batch could be halved."""
        if self.batch.size == 1 or not should_reduce_batch_size(error):
            return False
        self.batch.size //= 2
        error.__traceback__ = None  # its frames hold the tensors that did not fit
        clear_device_cache(garbage_collection=self._model.device.type != "cpu")
        self._say(f"out of memory; going on with batches of {self.batch.size} {self.batch.unit}")
        return True

    def _prompt(self, name: str, options: dict[str, Any]) -> str:
        """The prompt that sentence-transformers will put before the texts."""
        if options.get("prompt") is not None:
            return str(options["prompt"])
        prompts = self._model.prompts
        chosen = options.get("prompt_name") or next((p for p in PROMPT_NAMES[name] if p in prompts), None)
        return prompts.get(chosen or self._model.default_prompt_name) or ""


def _check_characters(texts: list[str]) -> None:
    """A lone surrogate is half a character of UTF-16: no tokenizer takes it, and their errors do not say which text."""
    for number, text in enumerate(texts, 1):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text {number} of {len(texts)} holds half a character (lone surrogate U+{ord(text[error.start]):04X}) "
                f"at position {error.start}: {text[max(0, error.start - 20) : error.start + 20]!r}; correct the data"
            ) from None


def _knows_roles(model: "SentenceTransformer") -> bool:
    """Whether the model may treat queries and documents differently beyond the prompt."""
    from sentence_transformers.sentence_transformer.modules import Router

    return any(isinstance(module, Router) for module in model.modules())
