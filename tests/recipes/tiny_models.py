"""Tiny random models of the architectures that the configs name: real config and tokenizer classes, real modules."""

from dataclasses import dataclass, field
from pathlib import Path

from tests.tiny import WORDS

POSITIONS = 512
QWEN_PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


@dataclass(frozen=True)
class Kind:
    """What the Hub's model is: its architecture, and the sentence-transformers modules on top (none: plain)."""

    architecture: str
    pooling: str | None = None
    dense: bool = False
    prompts: dict[str, str] = field(default_factory=dict)


# Every model that a config names; tests/recipes/test_configs.py fails for one that is missing here.
MODELS = {
    "all-MiniLM-L6-v2": Kind("bert", "mean"),
    "google-bert/bert-base-uncased": Kind("bert"),
    "answerdotai/ModernBERT-base": Kind("modernbert"),
    "answerdotai/ModernBERT-large": Kind("modernbert"),
    "BAAI/bge-base-en-v1.5": Kind("bert", "cls"),
    "intfloat/e5-base-v2": Kind("bert", "mean"),
    "intfloat/multilingual-e5-base": Kind("xlm-roberta", "mean"),
    "Qwen/Qwen3-Embedding-0.6B": Kind("qwen3", "lasttoken", prompts={"query": QWEN_PROMPT, "document": ""}),
    "Qwen/Qwen3-Embedding-4B": Kind("qwen3", "lasttoken", prompts={"query": QWEN_PROMPT, "document": ""}),
    "mistralai/Mistral-7B-v0.1": Kind("mistral"),
    "meta-llama/Llama-3.2-1B": Kind("llama"),
    "google/embeddinggemma-300m": Kind(
        "gemma3_text",
        "mean",
        dense=True,
        prompts={"query": "task: search result | query: ", "document": "title: none | text: "},
    ),
}


def save(kind: Kind, folder: Path) -> Path:
    """Write a model of this kind to `folder`, some 30,000 weights, as the Hub's folder would be; returns the folder."""
    import torch

    torch.manual_seed(0)
    tokenizer = TOKENIZERS[kind.architecture]()
    plain = folder / "plain" if kind.pooling else folder
    _transformer(kind.architecture, tokenizer).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    if kind.pooling:
        _sentence_transformer(kind, plain).save_pretrained(str(folder / "model"))
        return folder / "model"
    return plain


def _transformer(architecture, tokenizer):
    import transformers

    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    grouped = {"num_key_value_heads": 1, "head_dim": 16}
    windows = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
    config, model, more = {
        "bert": ("BertConfig", "BertModel", {}),
        "modernbert": (
            "ModernBertConfig",
            "ModernBertModel",
            {"global_attn_every_n_layers": 2, "local_attention": 16}
            | {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id},
        ),
        # its positions start behind the padding id
        "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaModel", {"max_position_embeddings": POSITIONS + 2}),
        "qwen3": ("Qwen3Config", "Qwen3Model", grouped),
        "mistral": ("MistralConfig", "MistralModel", grouped | {"sliding_window": 16}),
        "llama": ("LlamaConfig", "LlamaModel", grouped),
        "gemma3_text": (
            "Gemma3TextConfig",
            "Gemma3TextModel",
            grouped | windows | {"query_pre_attn_scalar": 16, "use_bidirectional_attention": True},
        ),
    }[architecture]
    return getattr(transformers, model)(getattr(transformers, config)(**sizes | more))


def _sentence_transformer(kind, folder):
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    word = Transformer(str(folder), max_seq_length=POSITIONS)
    modules = [word, Pooling(32, kind.pooling)]
    if kind.dense:
        options = {"bias": False, "activation_function": torch.nn.Identity()}
        modules += [Dense(32, 64, **options), Dense(64, 32, **options)]
    return SentenceTransformer(modules=[*modules, Normalize()], prompts=dict(kind.prompts), device="cpu")


def _words():
    return [" ".join(WORDS[5 + i : 12 + i]) for i in range(0, len(WORDS) - 5, 3)]


def _bert():
    import tempfile

    from transformers import BertTokenizerFast

    vocabulary = list(dict.fromkeys([*WORDS, *"abcdefghijklmnopqrstuvwxyz0123456789"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        return BertTokenizerFast(vocab=str(path))


def _byte_level(special, template, **names):
    """A byte-level BPE tokenizer as ModernBERT and Llama 3 have it: no class of its own, all in tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_words(), trainer)
    used = [(token, tokenizer.token_to_id(token)) for token in special if token in template]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS, **names)


def _modernbert():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names = {f"{token[1:-1].lower()}_token": token for token in special}
    return _byte_level(special, "[CLS] $A [SEP]", **names)


def _llama():
    # no pad token, as in the Hub's
    special = ["<|begin_of_text|>", "<|end_of_text|>"]
    return _byte_level(special, "<|begin_of_text|> $A", bos_token=special[0], eos_token=special[1])


def _trained(name, template, size=300, **changes):
    """A tokenizer of a class of transformers, trained on the tests' words, with what it puts around a text."""
    import transformers
    from tokenizers.processors import TemplateProcessing

    tokenizer = getattr(transformers, name)().train_new_from_iterator(_words(), size, show_progress=False)
    for key, value in changes.items():
        setattr(tokenizer, key, value)
        tokenizer.init_kwargs[key] = value  # what is saved
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in tokenizer.all_special_tokens]
    used = [(token, number) for token, number in special if token in template]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=used)
    return tokenizer


TOKENIZERS = {
    "bert": _bert,
    "modernbert": _modernbert,
    "xlm-roberta": lambda: _trained("XLMRobertaTokenizer", "<s> $A </s>"),
    # Qwen3-Embedding's own tokenizer pads on the left and ends every text
    "qwen3": lambda: _trained("Qwen2Tokenizer", "$A <|endoftext|>", padding_side="left"),
    "mistral": lambda: _trained("LlamaTokenizer", "<s> $A", pad_token=None),
    "llama": _llama,
    "gemma3_text": lambda: _trained("GemmaTokenizer", "<bos> $A <eos>"),
}
