"""Precisions and wrappers: what each changes in an ordinary training, in one place for the tests and the table."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

Own = Callable[[list[nn.Parameter]], torch.optim.Optimizer]  # the optimizer, as a user makes it from the class


def _same(model: nn.Module) -> nn.Module:
    return model


@dataclass(frozen=True)
class Way:
    """What is different. Everything left out stays as in an ordinary training."""

    arguments: dict[str, Any] = field(default_factory=dict)  # TrainingArguments, or a loop's words
    optim_args: dict[str, Any] = field(default_factory=dict)  # for tamft's own names
    model: Callable[[nn.Module], nn.Module] = _same
    # (model's maker, optimizer's maker) -> what Trainer's constructor gets besides
    keywords: Callable[[Callable[[], nn.Module], Own], dict[str, Any]] | None = None
    change: Callable[[Any, Own, bool], None] | None = None  # (trainer, optimizer's maker, whether it is resumed)
    start: Callable[[Any], None] | None = None  # instead of trainer.train()
    check: Callable[[Any], None] | None = None  # afterwards; raises AssertionError
    own_optimizer: bool = False  # the user makes it, so `--optim` says nothing
    in_loops: bool = True  # whether a plain loop can do it
    resumes: bool = True
    base: str = "Trainer"  # where the table tries it


# ---- precisions ---------------------------------------------------------------------------------------------------


def _overflow_once(step: int) -> float:
    """The second step's loss is too large for the scaler, and that step is skipped: right before a checkpoint."""
    return float("inf") if step == 1 else 1.0


def _scaler(trainer: Any, own: Own, resumed: bool) -> None:
    """torch's own GradScaler, through accelerate: transformers offers `--fp16` on accelerators only."""
    if not hasattr(trainer, "accelerator"):
        return  # a loop makes its own
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    backward = trainer.accelerator.backward
    trainer.accelerator.backward = lambda loss, **more: backward(
        loss * _overflow_once(trainer.state.global_step), **more
    )


def _to_bfloat16(model: nn.Module) -> nn.Module:
    return model.to(torch.bfloat16)


PRECISIONS: dict[str, Way] = {
    "float32": Way(),
    "bf16 autocast": Way({"bf16": True}),
    "GradScaler, one step skipped": Way({"scaler": True, "loss_factor": _overflow_once}, change=_scaler),
    "fp16 autocast (--fp16)": Way({"fp16": True}),
    "bf16 weights": Way(model=_to_bfloat16),
    "bf16 weights, allow_low_precision, kahan_sum": Way(
        model=_to_bfloat16, optim_args={"allow_low_precision": True, "kahan_sum": True}
    ),
}

# ---- wrappers -----------------------------------------------------------------------------------------------------


def _adapter(**more: Any) -> Callable[[nn.Module], nn.Module]:
    def add(model: nn.Module) -> nn.Module:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)  # A is random
        config = LoraConfig(r=2, target_modules=r".*\.(query|value|q|v|q_proj|v_proj)", **more)
        if hasattr(model, "add_adapter") and not hasattr(model, "can_generate"):  # sentence-transformers' own way
            model.add_adapter(config)
            return model
        return get_peft_model(model, config)

    return add


def _freeze_embeddings(model: nn.Module) -> nn.Module:
    frozen = [p for key, p in model.named_parameters() if "embed" in key or "shared" in key]
    assert frozen
    for p in frozen:
        p.requires_grad_(False)
    return model


def _tie(model: nn.Module) -> nn.Module:
    inner = model[0].auto_model if hasattr(model, "encode") else model
    inner.config.tie_word_embeddings = True
    inner.tie_weights()
    assert inner.get_output_embeddings().weight is inner.get_input_embeddings().weight
    return model


def _compile(trainer: Any, own: Own, resumed: bool) -> None:
    if not hasattr(trainer.args, "torch_compile"):
        trainer.model.compile(backend="aot_eager")


def _checkpoint_in_loops(reentrant: bool) -> Callable[..., None]:
    def change(trainer: Any, own: Own, resumed: bool) -> None:
        if isinstance(trainer.args, dict):
            trainer.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            if reentrant:
                trainer.model.enable_input_require_grads()

    return change


def _out_of_memory(trainer: Any, own: Own, resumed: bool) -> None:
    """The first attempt fails in its second step, when the weights are perturbed."""
    backward, left = trainer.accelerator.backward, [0 if resumed else 1]

    def fail(loss: torch.Tensor, **more: Any) -> None:
        if left[0] and trainer.state.global_step == 1:
            left[0] -= 1
            raise RuntimeError("CUDA out of memory. (not really)")
        backward(loss, **more)

    trainer.accelerator.backward = fail


def _smaller_batch(trainer: Any) -> None:
    assert trainer._train_batch_size == 1, f"batch size {trainer._train_batch_size}"


def _best_model(trainer: Any) -> None:
    from tests.compatibility.cell import fingerprints, saved

    best = trainer.state.best_model_checkpoint
    assert best, "no best checkpoint"
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    assert fingerprints(trained) <= fingerprints(saved(best)), "the weights left behind are not the best checkpoint's"


def _model_init(model: Callable[[], nn.Module], own: Own) -> dict[str, Any]:
    return {"model_init": model}


def _search(trainer: Any) -> None:
    trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2)},
        backend="optuna",
        n_trials=2,
    )


def _own_create_optimizer(trainer: Any, own: Own, resumed: bool) -> None:
    def create_optimizer(*_: Any, **__: Any) -> torch.optim.Optimizer:
        if trainer.optimizer is None:
            trainer.optimizer = own([p for p in trainer.model.parameters() if p.requires_grad])
        return trainer.optimizer

    trainer.create_optimizer = create_optimizer


def _handed_over(model: Callable[[], nn.Module], own: Own) -> dict[str, Any]:
    made = model()
    return {"model": made, "optimizers": (own([p for p in made.parameters() if p.requires_grad]), None)}


def _trainer(arguments: dict[str, Any], **more: Any) -> Way:
    return Way(arguments, in_loops=False, **more)


_EVALUATE = {"eval_strategy": "steps", "eval_steps": 2}

WRAPPERS: dict[str, Way] = {
    "none": Way(),
    "gradient accumulation": Way({"gradient_accumulation_steps": 2}),
    "clipping at 0.01": Way({"max_grad_norm": 0.01}),
    "gradient checkpointing": Way(
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        change=_checkpoint_in_loops(False),
    ),
    "gradient checkpointing, reentrant": Way(
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        change=_checkpoint_in_loops(True),
    ),
    "LoRA": Way(model=_adapter()),
    "DoRA": Way(model=_adapter(use_dora=True)),
    "frozen embeddings": Way(model=_freeze_embeddings),
    "tied embeddings": Way(model=_tie, base="Seq2SeqTrainer"),
    "torch.compile": Way({"torch_compile": True, "torch_compile_backend": "aot_eager"}, change=_compile),
    "auto_find_batch_size": _trainer({"auto_find_batch_size": True}, change=_out_of_memory, check=_smaller_batch),
    "load_best_model_at_end": _trainer(
        {**_EVALUATE, "load_best_model_at_end": True, "metric_for_best_model": "loss"}, check=_best_model
    ),
    "save_only_model": _trainer({"save_only_model": True}, resumes=False),
    "eval_on_start": _trainer({**_EVALUATE, "eval_on_start": True}),
    "group_by_length": _trainer({"train_sampling_strategy": "group_by_length"}),
    "NEFTune": _trainer({"neftune_noise_alpha": 5.0}, base="SFTTrainer"),
    "average_tokens_across_devices=false": _trainer({"average_tokens_across_devices": False}, base="SFTTrainer"),
    "model_init": _trainer({}, keywords=_model_init),
    "hyperparameter_search (Optuna)": _trainer(_EVALUATE, keywords=_model_init, start=_search, resumes=False),
    "own create_optimizer": _trainer({}, change=_own_create_optimizer, own_optimizer=True),
    "optimizers=(optimizer, None)": _trainer({}, keywords=_handed_over, own_optimizer=True),
    "fused=true": Way(optim_args={"fused": True}),
    "foreach=true": Way(optim_args={"foreach": True}),
    "schedule: cosine with warm-up": Way({"lr_scheduler_type": "cosine", "warmup_steps": 1}),
    "schedule: reduce_lr_on_plateau": _trainer(
        {**_EVALUATE, "lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "loss"}
    ),
    "schedule: warmup_stable_decay": _trainer(
        {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 2}, "warmup_steps": 1}
    ),
}
