"""Was anything trained, and is what was saved what was trained? Found out before a run may call itself complete.

The first complaint of everybody who fine-tunes with adapters is a model that gives exactly the base model's
embeddings: it was not trained, not saved, or not loaded. A few sentences are embedded before the first step, after the
last one, and by the saved folder, read from disk as a user would. The embedding of a text is what counts, not that some
weight moved.
"""

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tamft import probes
from tamft.errors import InputError
from tamft.train.failures import RunError

if TYPE_CHECKING:
    from tamft.train.trainer import PairsTrainer

# Distance (see probes.distance) that two computations with the same weights may have. The same device and the same
# batch give the same bits; another device sums in another order, and merging an adapter rounds each weight once more.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
TOLERANCE_HALF = 5e-2
TOLERANCE_4BIT = 0.5  # the merged model has whole weights where training had rounded ones
# Room for the second copy: weights, and what computing four sentences takes.
ROOM = 1.3


def check_trainable(model: torch.nn.Module) -> None:
    """InputError if no weight would be trained."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            "nothing can be trained: all weights of the model are frozen (requires_grad is False for all); "
            "unfreeze some, or add adapters"
        )


class Guard:
    """Compares embeddings before and after training, and with the saved model. For the main process."""

    def __init__(self, trainer: "PairsTrainer") -> None:
        """Embed the sentences with the model that training starts from; on a resume that is still the base model."""
        self.trainer = trainer
        self.base = probes.embed(trainer.model)
        self.trained: torch.Tensor | None = None
        self.facts: dict[str, Any] = {"embeddings_changed": None, "saved_apart": None, "not_checked": None}

    def after_training(self) -> None:
        """Embed again. Raises RunError if nothing has changed. Shards are not computed with: one process has a part."""
        if self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled:
            return
        # without autocast: its rounding would pass for a change
        model = self.trainer.accelerator.unwrap_model(self.trainer.model, keep_fp32_wrapper=False)
        self.trained = probes.embed(model)
        self._changed(self.trained)

    def check_saved(self, folder: Path) -> None:
        """Load `folder` from disk and compare. Raises RunError if it is not what was trained.

        Where neither the GPU nor main memory have room for a second copy nothing is compared, and `facts` says so.
        """
        device = self._room()
        try:
            saved = self._load(folder, device) if device is not None else None
            found = probes.embed(saved) if saved is not None else None
        except (torch.OutOfMemoryError, MemoryError):
            saved = found = None
        if found is None:
            self.facts["not_checked"] = f"no memory for a second copy of the model: {folder.name} was not loaded again"
            return
        self._same_settings(folder, saved)
        del saved
        gc.collect()
        if self.trained is None:
            self._changed(found)
            self.facts["not_checked"] = "sharded weights: the saved model was compared with the base, not with them"
            return
        apart = probes.distance(found, self.trained)
        self.facts["saved_apart"] = max(apart, self.facts["saved_apart"] or 0.0)
        if probes.distance(found, self.base) <= probes.SAME:
            problem = "gives the embeddings of the base model"
        elif apart > self._tolerance():
            problem = f"gives other embeddings than the trained model (they differ by {apart:.2g} of their size)"
        else:
            return
        raise RunError(
            f"what was saved is not what was trained: {folder.name} {problem}. Is base_model_name_or_path in its "
            "adapter_config.json the model that was trained, and are all its files there?"
        )

    def _changed(self, now: torch.Tensor) -> None:
        change = self.facts["embeddings_changed"] = probes.distance(now, self.base)
        if change > probes.SAME:
            return
        raise RunError(
            f"training changed nothing: after {self.trainer.state.global_step} steps the embeddings equal the base "
            f"model's. {self._reason()}"
        )

    def _reason(self) -> str:
        rates = [entry["learning_rate"] for entry in self.trainer.state.log_history if "learning_rate" in entry]
        if self.trainer.args.learning_rate == 0 or (rates and max(rates) == 0):
            return "The learning rate was 0: give --learning_rate, or more steps than --warmup_steps"
        named = dict(self.trainer.model.named_parameters())
        adapters = [value for name, value in named.items() if "lora_B" in name]
        if adapters and not any(value.any() for value in adapters):
            return "The adapters' B matrices are still zero: do they get gradients, and does --optim train them?"
        return (
            "Try a higher --learning_rate or more steps; weights in 16 bits (--dtype) lose small updates, and frozen "
            "parts get none"
        )

    def _quantization(self) -> Any:
        return getattr(self.trainer.model.transformers_model.config, "quantization_config", None)

    def _tolerance(self) -> float:
        if self._quantization():
            return TOLERANCE_4BIT
        return TOLERANCE.get(next(self.trainer.model.parameters()).dtype, TOLERANCE_HALF)

    def _room(self) -> torch.device | None:
        import psutil

        model = self.trainer.model
        need = ROOM * sum(p.numel() * p.element_size() for p in model.parameters())
        device = self.trainer.args.device
        if device.type == "cuda":
            torch.cuda.empty_cache()
            if torch.cuda.mem_get_info(device)[0] > need:
                return torch.device(device)
        return torch.device("cpu") if psutil.virtual_memory().available > need else None

    def _load(self, folder: Path, device: torch.device) -> Any:
        from sentence_transformers import SentenceTransformer

        # The type that it was trained in: a base model stored in bf16 gives other numbers than its float32 copy.
        options: dict[str, Any] = {"dtype": next(self.trainer.model.parameters()).dtype}
        if quantization := self._quantization():
            options["quantization_config"] = quantization
        try:
            return SentenceTransformer(
                str(folder), device=str(device), model_kwargs=options, local_files_only=True, trust_remote_code=False
            )
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # whatever is raised for a model that cannot be loaded
            raise RunError(f"the saved model cannot be loaded: {folder}: {type(error).__name__}: {error}") from error

    def _same_settings(self, folder: Path, saved: Any) -> None:
        """Pooling, prompts and the longest input are stored: four short sentences would not show all of that."""
        ours, theirs = settings(self.trainer.model), settings(saved)
        for key, value in ours.items():
            if theirs.get(key) != value:
                raise RunError(
                    f"what was saved is not what was trained: {folder.name} has {key} {theirs.get(key)!r}, "
                    f"the trained model {value!r}"
                )


def settings(model: Any) -> dict[str, Any]:
    """What a SentenceTransformer does to a text beside its weights."""
    return {
        "maximum length": model.max_seq_length,
        "prompts": dict(model.prompts),
        "default prompt": model.default_prompt_name,
        "similarity": str(model.similarity_fn_name),
        "modules": [(type(module).__name__, module.get_config_dict()) for module in list(model)[1:]],
        "padding side": getattr(model.tokenizer, "padding_side", None),
    }
