"""From token vectors to a sentence's: pooling, padding, EOS, prompts, set before training and saved with the model."""

from collections.abc import Sequence
from typing import Any

from tamft.errors import InputError

POOLINGS = ("lasttoken", "mean", "cls")
QUERY, DOCUMENT_NAMES = "query", ("document", "passage", "corpus")  # as encode_query and encode_document look for them


def prepare(model: Any, name: str, *, plain: bool, pooling: str | None = None, append_eos: bool | None = None) -> None:
    """Give a SentenceTransformer the pooling asked for, and the padding, pad token and EOS token that it needs.

    Args:
        model: changed in place.
        name: how the user called it, for errors.
        plain: it comes from plain transformers, so pooling and padding are ours to choose; a sentence-transformers
            model keeps what it was trained with.
        pooling: one of POOLINGS; None: the model's own, for a plain decoder the last token, else the mean.
        append_eos: end every text with the EOS token, also a truncated one. None: where a last-token pooling that was
            chosen here would otherwise read whatever word comes last. False: leave the tokenizer as it is.

    Raises InputError for pooling or EOS that this model cannot have.
    """
    from sentence_transformers.sentence_transformer.modules import Pooling

    places = [key for key, module in model.named_children() if isinstance(module, Pooling)]
    if not places:
        if pooling or append_eos:
            raise InputError(
                f"model {name}: has no pooling that could be changed; leave --pooling and --append_eos away"
            )
        return
    old = model.get_submodule(places[0])
    decoder = is_decoder(model[0].auto_model.config)
    mode = pooling or (("lasttoken" if decoder else "mean") if plain else old.pooling_mode)
    if mode != old.pooling_mode:
        new = Pooling(old.embedding_dimension, mode, include_prompt=old.include_prompt)
        if new.pooling_output_dimension != old.pooling_output_dimension:
            raise InputError(f"model {name}: pools by {' and '.join(old.pooling_mode)} together; leave --pooling away")
        model.set_submodule(places[0], new)
    tokenizer = model.tokenizer
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise InputError(f"model {name}: its tokenizer has neither a pad nor an EOS token; add a pad token to it")
        tokenizer.pad_token = tokenizer.eos_token  # the attention mask, not the token, says what is padding
    if plain and decoder:
        # Right for every position embedding: with causal attention no text sees what comes after it. (Padding on the
        # left moves absolute positions, and the cached loss cuts off only what is padded on the right.)
        tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "right"  # only the latter is sure to be saved
    wanted = mode == "lasttoken" and (plain or pooling is not None) and tokenizer.eos_token is not None
    if wanted if append_eos is None else append_eos:
        _append_eos(tokenizer, name)


def is_decoder(config: Any) -> bool:
    """Whether a transformers config describes a decoder: tokens see only what stands before them."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if getattr(config, "use_bidirectional_attention", False) or getattr(config, "is_causal", True) is False:
        return False
    kind = config.model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def set_prompts(
    model: Any, columns: Sequence[str], training_args: Any, query: str | None = None, document: str | None = None
) -> None:
    """Store the prompts in the model, and have training put them before the texts of the columns.

    Args:
        columns: of texts: the first holds queries, the others documents.
        training_args: its `prompts` are set; what encode_query and encode_document will do is what training sees.
        query, document: None keeps the model's own prompt, so that a model with prompts trains with them; "" is none.

    Raises InputError where --prompts of sentence-transformers is given as well.
    """
    if training_args.prompts:
        if query is not None or document is not None:
            raise InputError("--prompts cannot be combined with --query_prompt and --document_prompt: give one of them")
        return
    for name, prompt in ((QUERY, query), (DOCUMENT_NAMES[0], document)):
        if prompt is not None:
            model.prompts[name] = prompt
    first, *others = columns
    document = next((model.prompts[name] for name in DOCUMENT_NAMES if model.prompts.get(name) is not None), None)
    prompts = {first: model.prompts.get(QUERY), **dict.fromkeys(others, document)}
    training_args.prompts = {column: prompt for column, prompt in prompts.items() if prompt} or None


def describe(model: Any) -> str:
    """One line for people: pooling, where texts are padded, how they end, how long they may be, their prompts."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    parts = [f"pooling {module.pooling_mode}" for module in model.children() if isinstance(module, Pooling)]
    tokenizer = model.tokenizer
    parts += [f"padding {tokenizer.padding_side}"] if hasattr(tokenizer, "padding_side") else []
    parts += [f"ends with {tokenizer.decode(end)}"] if parts and (end := _ending(tokenizer)) else []
    parts += [f"at most {model.max_seq_length} tokens"] if model.max_seq_length else []
    parts += [f"{name} prompt {text!r}" for name, text in model.prompts.items() if text]
    return ", ".join(parts) or type(model[0]).__name__


def _ending(tokenizer: Any) -> list[int]:
    """The special token that the tokenizer puts after every text, [] if it puts none."""
    last = tokenizer("a").input_ids[-1:]
    return last if set(last) <= set(tokenizer.all_special_ids) else []


def _append_eos(tokenizer: Any, name: str) -> None:
    """Make the tokenizer's post-processor, which is saved with it and counts when texts are truncated, add EOS."""
    if _ending(tokenizer):
        return
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.eos_token is None:
        raise InputError(f"--append_eos: the tokenizer of {name} has no EOS token to append")
    from tokenizers.processors import Sequence as Processors
    from tokenizers.processors import TemplateProcessing

    eos = tokenizer.eos_token
    end = TemplateProcessing(single=["$A", eos], pair=["$A", "$B", eos], special_tokens=[(eos, tokenizer.eos_token_id)])
    before = backend.post_processor
    backend.post_processor = Processors([before, end]) if before is not None else end
