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


def save_tiny_decoder(
    folder: Path, kind: str, texts: list[str], *, vocabulary: int = 400, hidden: int = 32, layers: int = 2
) -> Path:
    """Write a plain transformers decoder with random weights to `folder` and return it.

    kind: "qwen3" (a byte-level BPE tokenizer that adds nothing to a text) or "llama" (one that begins it with a BOS
    token). The tokenizer is trained on `texts`; neither has a pad token or ends a text with EOS, as on the Hub.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

    bytelevel = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = bytelevel, decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=bytelevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    names = {"eos_token": "<|endoftext|>"}
    if kind == "llama":
        begin = processors.TemplateProcessing(
            single=["<|begin_of_text|>", "$A"], special_tokens=[("<|begin_of_text|>", 0)]
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), begin])
        names["bos_token"] = "<|begin_of_text|>"
    torch.manual_seed(0)
    config, model = {"qwen3": (Qwen3Config, Qwen3Model), "llama": (LlamaConfig, LlamaModel)}[kind]
    sizes = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    model(config(**sizes)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder
