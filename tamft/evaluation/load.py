"""From an identity to an encoder that mteb can run, with the prompts that mteb itself would use."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tamft import probes
from tamft.evaluation.identity import Identity

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

NO_OP = (
    "the adapter changes nothing: the embeddings equal its base model's. Was it trained, saved, and are its weights "
    "the ones meant?"
)

MAGNITUDE = ".lora_magnitude_vector"

NO_MODULES = "it has no modules.json, so mean pooling is assumed, without prompts: is that how it was trained?"


def load(identity: Identity, device: str | None = None, dtype: str | None = None) -> tuple[Any, str | None]:
    """Load a model for mteb.

    Args:
        identity: which model.
        device: None: the best there is.
        dtype: "float32", "bfloat16", "float16", or None: as the weights were saved.

    Returns:
        The encoder (an mteb wrapper whose `mteb_model_meta` carries the identity; `.model` is the SentenceTransformer),
        and a warning, or None: that the adapter leaves its base model's embeddings as they are, or that the pooling had
        to be guessed.

    Raises:
        ValueError: the adapter's weights do not fit its base model; weights or the tokenizer's vocabulary are missing.
        Exception: whatever sentence-transformers raises for a model it cannot load.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # one bar per loaded model hides the progress of the scoring
    warning = None
    if identity.folder is None:
        wrapper = _load_hub(identity, device, _precision(dtype))
    else:
        wrapper, warning = _load_folder(identity, device, _precision(dtype))
    if dtype is not None:
        wrapper.model.to(getattr(torch, dtype))  # the other modules, and an adapter's weights
    _check_tokenizer(wrapper.model)
    wrapper.mteb_model_meta = wrapper.mteb_model_meta.model_copy(
        update={
            "name": identity.name,
            "revision": identity.revision,
            "experiment_kwargs": {"dtype": dtype} if dtype else None,
        }
    )
    return wrapper, warning


def _precision(dtype: str | None) -> dict[str, Any]:
    """For the weights' file: they are never held in a wider dtype than the one asked for."""
    return {"dtype": getattr(torch, dtype)} if dtype else {}


def _load_hub(identity: Identity, device: str | None, precision: dict[str, Any]) -> Any:
    """As mteb.get_model does: its registry's prompts and options if it knows the model, the model's own if not."""
    from mteb.models import ModelMeta, SentenceTransformerEncoderWrapper
    from mteb.models.model_implementations import MODEL_REGISTRY

    meta = MODEL_REGISTRY.get(identity.name)
    if meta is None:
        meta = ModelMeta.create_empty({"name": identity.name, "loader": SentenceTransformerEncoderWrapper})
    options = {**meta.loader_kwargs, "trust_remote_code": False}
    if precision:
        kept = {key: value for key, value in options.get("model_kwargs", {}).items() if key != "torch_dtype"}
        options["model_kwargs"] = kept | precision
    return meta.model_copy(update={"revision": identity.revision, "loader_kwargs": options}).load_model(device=device)


def _load_folder(identity: Identity, device: str | None, precision: dict[str, Any]) -> tuple[Any, str | None]:
    from mteb.models import SentenceTransformerEncoderWrapper
    from sentence_transformers import SentenceTransformer

    warning = None
    options: dict[str, Any] = {"device": device, "trust_remote_code": False, "model_kwargs": precision}
    if identity.base is None:
        model = SentenceTransformer(str(identity.folder), **options)
        _check_all_weights_are_there(model, identity.folder)
        warning = None if (identity.folder / "modules.json").exists() else NO_MODULES
        wrapper = SentenceTransformerEncoderWrapper(model)
    else:
        if (identity.folder / "modules.json").exists():  # saved by sentence-transformers: pooling and prompts are here
            model = SentenceTransformer(str(identity.folder), **options)
        else:  # saved by peft: pooling, normalisation, prompts and maximum length are the base model's
            base = identity.base
            revision = base.revision if base.folder is None else None
            model = SentenceTransformer(str(base.folder or base.name), revision=revision, **options)
            model.load_adapter(str(identity.folder))
        _fit_adapter(model, identity)
        warning = NO_OP if changes_nothing(model) else None
        wrapper = SentenceTransformerEncoderWrapper(model, model_prompts=_base_prompts(model, identity.base))
    return wrapper, warning


def _base_prompts(model: "SentenceTransformer", base: Identity) -> dict[str, str] | None:
    """mteb's prompts for the base model, where the adapter's model has none: base and adapter are read the same way."""
    from mteb.models.model_implementations import MODEL_REGISTRY

    if any(model.prompts.values()) or base.name not in MODEL_REGISTRY:
        return None
    prompts: dict[str, str] | None = MODEL_REGISTRY[base.name].loader_kwargs.get("model_prompts")
    return prompts


def _check_tokenizer(model: "SentenceTransformer") -> None:
    """transformers makes an empty tokenizer where it finds no file, and every word becomes the same unknown token."""
    from transformers import PreTrainedTokenizerBase

    tokenizer = getattr(model, "tokenizer", None)
    if isinstance(tokenizer, PreTrainedTokenizerBase) and len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ValueError(
            "its tokenizer knows no words: the vocabulary (tokenizer.json, or what the tokenizer has instead) is "
            "missing; copy it beside the weights, or save the model again"
        )


def _check_all_weights_are_there(model: "SentenceTransformer", folder: Path) -> None:
    """transformers only warns of weights that are not in the file, and goes on with random ones."""
    from safetensors import safe_open
    from transformers import AutoModel

    if model.transformers_model is None:
        return
    file = folder / "model.safetensors"
    if not file.exists():
        file = folder / "0_Transformer" / "model.safetensors"
    if not file.exists():  # in shards, whose index names them all, or in another form
        return
    with safe_open(file, framework="pt") as weights:
        saved = set(weights.keys())
    names = [name for name, _ in model.transformers_model.named_parameters()]
    # Names in files have prefixes, and old ones are renamed while loading: whoever looks lost is asked for.
    if all(_unused(name) or name in saved or any(key.endswith(f".{name}") for key in saved) for name in names):
        return
    _, info = AutoModel.from_pretrained(file.parent, output_loading_info=True, trust_remote_code=False)
    lost = sorted(name for name in info["missing_keys"] if not _unused(name))
    if lost:
        raise ValueError(
            f"{len(lost)} of its weights are not in {file.name}, for example {lost[0]!r}, and would be random; "
            "save the model again"
        )


def _unused(name: str) -> bool:
    """BERT's own pooler is made, is often not saved, and no embedding comes through it."""
    return name.startswith("pooler.") or ".pooler." in name


def _fit_adapter(model: "SentenceTransformer", identity: Identity) -> None:
    """peft only warns when saved weights have no place, and goes on with freshly made ones.

    DoRA's magnitudes are put in their places here: peft saves them as `…lora_magnitude_vector`, and transformers (up to
    5.23) does not find `….weight` by that name.
    """
    from safetensors import safe_open

    file = identity.folder / "adapter_model.safetensors"
    if not file.exists():
        return

    def plain(name: str) -> str:  # peft's names differ between file and model by these parts
        name = ".".join(part for part in name.split(".") if part not in ("default", "modules_to_save"))
        return name.removesuffix(".weight") if MAGNITUDE in name else name

    places = {plain(name): parameter for name, parameter in model.transformers_model.named_parameters()}
    with safe_open(file, framework="pt") as weights:
        names = {key: plain(key.removeprefix("base_model.model.")) for key in weights.keys()}  # noqa: SIM118 - no dict
        found = {key: next((place for place in places if place.endswith(name)), None) for key, name in names.items()}
        for key, place in found.items():
            if place and place.endswith(MAGNITUDE):
                places[place].data.copy_(weights.get_tensor(key))
    lost = [names[key] for key, place in found.items() if place is None]
    if lost:
        raise ValueError(
            f"the adapter does not fit its base model {identity.base.typed if identity.base else ''!r}: "
            f"{len(lost)} of its {len(names)} weights have no place there, for example {lost[0]!r}"
        )


def changes_nothing(model: "SentenceTransformer") -> bool:
    """Whether the loaded adapter leaves the base model's embeddings as they are (see `tamft.probes`)."""
    with_adapter = probes.embed(model)
    model.disable_adapters()
    without = probes.embed(model)
    model.enable_adapters()
    return probes.distance(with_adapter, without) <= probes.SAME
