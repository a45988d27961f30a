"""Every trainer with a tiny random model and data of its kind: nothing is downloaded, a step takes milliseconds.

`TRAINERS[name]()` imports what that trainer needs, and no more.
"""

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.tiny import WORDS, save_tiny_bert

ROWS = 24
SENTENCES = ["how do i pay", "card is lost", "top up", "change pin", "cash fee", "new phone"] * (ROWS // 6)
ANSWERS = ["my payment", "stolen card", "money transfer", "new pin", "fee cash", "app phone"] * (ROWS // 6)


@dataclass(frozen=True)
class Kind:
    """A trainer: its TrainingArguments (None for a plain loop), a model, and how to make one from both.

    `make(model, args, **keywords)` passes its keywords (callbacks, optimizers, model_init) on; for a loop `args` is a
    dict of Trainer's words.
    """

    arguments: type | None
    model: Callable[[], nn.Module]
    make: Callable[..., Any]
    settings: dict[str, Any]


def plain() -> Kind:
    from transformers import Trainer, TrainingArguments

    from tests.hf import small

    def make(model, args, **keywords):
        return Trainer(model=model, args=args, train_dataset=small.data(ROWS), eval_dataset=small.data(4), **keywords)

    return Kind(TrainingArguments, small.model, make, {})


def seq2seq() -> Kind:
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, T5Config, T5ForConditionalGeneration

    def model():
        torch.manual_seed(0)
        sizes = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        return T5ForConditionalGeneration(
            T5Config(**sizes, dropout_rate=0.0, decoder_start_token_id=0, tie_word_embeddings=False)
        )

    ids = torch.randint(1, 50, (ROWS, 2, 6), generator=torch.Generator().manual_seed(1))
    data = [{"input_ids": source, "labels": target} for source, target in ids]

    def make(model, args, **keywords):
        return Seq2SeqTrainer(model=model, args=args, train_dataset=data, eval_dataset=data[:4], **keywords)

    return Kind(Seq2SeqTrainingArguments, model, make, {})


@functools.cache
def _bert() -> Path:
    """A saved sentence-transformers model; one per process."""
    return save_tiny_bert(Path(tempfile.mkdtemp(prefix="compatibility-")))


def sentences() -> Kind:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    pairs = Dataset.from_dict({"anchor": SENTENCES, "positive": ANSWERS})

    def make(model, args, **keywords):
        # model_init makes the model later, and then the loss too
        loss = MultipleNegativesRankingLoss if model is None else MultipleNegativesRankingLoss(model)
        return SentenceTransformerTrainer(
            model=model, args=args, train_dataset=pairs, eval_dataset=pairs.select(range(4)), loss=loss, **keywords
        )

    def model():
        return SentenceTransformer(str(_bert()), device="cpu")

    return Kind(SentenceTransformerTrainingArguments, model, make, {})


def sparse() -> Kind:
    from datasets import Dataset
    from sentence_transformers import SparseEncoder, SparseEncoderTrainer, SparseEncoderTrainingArguments
    from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss
    from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    source = _bert().parent / "masked"
    if not source.exists():
        torch.manual_seed(0)
        config = BertConfig.from_pretrained(_bert().parent / "source", tie_word_embeddings=False)
        BertForMaskedLM(config).save_pretrained(source)
        AutoTokenizer.from_pretrained(_bert().parent / "source").save_pretrained(source)
    pairs = Dataset.from_dict({"anchor": SENTENCES, "positive": ANSWERS})

    def model():
        return SparseEncoder(modules=[MLMTransformer(str(source)), SpladePooling("max")], device="cpu")

    def loss(model):
        return SpladeLoss(model, SparseMultipleNegativesRankingLoss(model), document_regularizer_weight=1e-3)

    def make(model, args, **keywords):
        return SparseEncoderTrainer(
            model=model,
            args=args,
            train_dataset=pairs,
            eval_dataset=pairs.select(range(4)),
            loss=loss if model is None else loss(model),
            **keywords,
        )

    return Kind(SparseEncoderTrainingArguments, model, make, {})


def cross() -> Kind:
    from datasets import Dataset
    from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    data = Dataset.from_dict({"one": SENTENCES, "other": ANSWERS, "label": [float(i % 2) for i in range(ROWS)]})

    def model():
        torch.manual_seed(0)  # the head is new
        return CrossEncoder(str(_bert().parent / "source"), num_labels=1, device="cpu")

    def make(model, args, **keywords):
        loss = BinaryCrossEntropyLoss if model is None else BinaryCrossEntropyLoss(model)
        return CrossEncoderTrainer(
            model=model, args=args, train_dataset=data, eval_dataset=data.select(range(4)), loss=loss, **keywords
        )

    # Under DDP Trainer looks for unused parameters in everything that is no PreTrainedModel, and a cross-encoder's
    # backward pass then stops ("marked ready twice"), with torch's AdamW too.
    return Kind(CrossEncoderTrainingArguments, model, make, {"ddp_find_unused_parameters": False})


@functools.cache
def tokenizer() -> Any:
    """Whole words, split at blanks."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *dict.fromkeys(WORDS)]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, padding_side="left", **special)


def _llama(cls: Any, **more: Any) -> Any:
    from transformers import LlamaConfig

    torch.manual_seed(0)
    return cls(
        LlamaConfig(
            vocab_size=len(tokenizer()),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            **more,
        )
    )


def _trl(trainer: str, config: str, columns: dict[str, Any], *, where: str = "trl", **settings: Any) -> Kind:
    """One of TRL's trainers over a Llama of 5,000 weights. `make` leaves out what the trainer does not take."""
    import importlib
    import inspect

    from datasets import Dataset
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    module = importlib.import_module(where)
    cls, data = getattr(module, trainer), Dataset.from_dict(columns)
    rewarding = trainer == "RewardTrainer"

    def model():
        return _llama(LlamaForSequenceClassification, num_labels=1) if rewarding else _llama(LlamaForCausalLM)

    def make(model, args, **keywords):
        if "reward_funcs" in inspect.signature(cls).parameters:
            keywords["reward_funcs"] = length
        if trainer in ("DPOTrainer", "KTOTrainer") and not hasattr(model, "peft_config"):
            keywords["ref_model"] = _llama(LlamaForCausalLM)  # by itself it would be loaded by the model's name
        return cls(
            model=model,
            args=args,
            train_dataset=data,
            eval_dataset=data.select(range(4)),
            processing_class=tokenizer(),
            **keywords,
        )

    return Kind(getattr(module, config), model, make, {"gradient_checkpointing": False, "bf16": False, **settings})


def length(completions: list[str], **_: Any) -> list[float]:
    """A reward for the online trainers."""
    return [float(len(text)) for text in completions]


def _loop(cls: str) -> Kind:
    from tests.compatibility import loops
    from tests.hf import small

    return Kind(None, small.model, getattr(loops, cls), {})


_PREFERENCES = {"prompt": SENTENCES, "chosen": ANSWERS, "rejected": ANSWERS[1:] + ANSWERS[:1]}
_ONLINE = {"max_completion_length": 4, "temperature": 1.0}

TRAINERS: dict[str, Callable[[], Kind]] = {
    "Trainer": plain,
    "Seq2SeqTrainer": seq2seq,
    "SentenceTransformerTrainer": sentences,
    "SparseEncoderTrainer": sparse,
    "CrossEncoderTrainer": cross,
    "SFTTrainer": lambda: _trl("SFTTrainer", "SFTConfig", {"text": SENTENCES}, max_length=16),
    "DPOTrainer": lambda: _trl("DPOTrainer", "DPOConfig", _PREFERENCES),
    "KTOTrainer": lambda: _trl(
        "KTOTrainer",
        "KTOConfig",
        {"prompt": SENTENCES, "completion": ANSWERS, "label": [i % 2 == 0 for i in range(ROWS)]},
    ),
    "RewardTrainer": lambda: _trl(
        "RewardTrainer", "RewardConfig", {key: _PREFERENCES[key] for key in ("chosen", "rejected")}
    ),
    "GRPOTrainer": lambda: _trl("GRPOTrainer", "GRPOConfig", {"prompt": SENTENCES}, num_generations=2, **_ONLINE),
    "OnlineDPOTrainer": lambda: _trl(
        "OnlineDPOTrainer",
        "OnlineDPOConfig",
        {"prompt": SENTENCES},
        where="trl.experimental.online_dpo",
        max_new_tokens=4,
    ),
    "Accelerate loop": lambda: _loop("Accelerated"),
    "PyTorch loop": lambda: _loop("Plain"),
    "PyTorch loop, closure": lambda: _loop("Closure"),
}
