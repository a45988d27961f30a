"""Saving a model whose weights are divided over processes (FSDP2).

sentence-transformers gets the gathered weights from Trainer, saves the module with its shards instead, and fails; its
model card would compute embeddings in one process while the others wait elsewhere.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def whole(model: Any, weights: dict[str, torch.Tensor]) -> Iterator[None]:
    """The SentenceTransformer `model` with `weights`, its gathered state dict, where its shards are; to save it."""
    kept: list[tuple[dict[str, Any], str, Any]] = []
    model.model_card_data.run_usage_snippet = lambda: None  # an example without numbers
    try:
        for key, value in weights.items():
            path, _, name = key.rpartition(".")
            parameters = model.get_submodule(path)._parameters
            if name in parameters:
                kept.append((parameters, name, parameters[name]))
                parameters[name] = torch.nn.Parameter(value, requires_grad=False)
        yield
    finally:
        for parameters, name, shard in kept:
            parameters[name] = shard
        del model.model_card_data.run_usage_snippet
