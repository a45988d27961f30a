"""Real architectures with random weights, small enough for a test."""

from pathlib import Path

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] how do i my the a is card account money transfer pin top up cash refund why was "
    "not can change address phone app lost stolen new order payment fee bank rate limit login what when where ? . , "
    "cat dog sits mat runs park sun rains today music plays loud soft red blue green fast slow big small"
).split()


def save_tiny_bert(folder: Path, *, seed: int = 0, hidden: int = 32, dropout: float = 0.0) -> Path:
    """Write a 2-layer BERT SentenceTransformer (about 30,000 weights) to `folder` and return it."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "source"
    source.mkdir(exist_ok=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = list(dict.fromkeys([*WORDS, *letters, *(f"##{c}" for c in letters)]))
    (source / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config).save_pretrained(source)
    BertTokenizerFast(vocab=str(source / "vocab.txt")).save_pretrained(source)
    word = Transformer(str(source), max_seq_length=32)
    model = SentenceTransformer(modules=[word, Pooling(word.get_embedding_dimension())], device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"
