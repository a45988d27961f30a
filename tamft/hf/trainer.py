"""The hooks in Trainer and TrainingArguments; subclasses (sentence-transformers, TRL) go through them as well."""

import functools
from collections.abc import Callable
from typing import Any

from transformers import Trainer, TrainingArguments, trainer

from tamft import registry
from tamft.hf.arguments import check_arguments, optim_name, optimizer_kwargs, warn_about
from tamft.hf.callbacks import TamftCallback, bring_back, clean_weights, unwrap
from tamft.hf.sharding import check_sharding


@functools.cache  # once per process, however often register() is called
def patch() -> None:
    """Install the hooks. Nothing changes for optimizers that are not in the registry."""
    TrainingArguments.__post_init__ = _checked(TrainingArguments.__post_init__)
    Trainer.get_optimizer_cls_and_kwargs = staticmethod(_dispatching(Trainer.get_optimizer_cls_and_kwargs))
    for name in ("save_model", "_save_checkpoint"):
        setattr(Trainer, name, _with_clean_weights(getattr(Trainer, name)))
    # The inner loop, because the search for a batch size that fits catches its exception and starts it again.
    for name in ("train", "_inner_training_loop"):
        setattr(Trainer, name, _leaving_clean_weights(getattr(Trainer, name)))
    # In place: the Trainer module reads this list whenever a Trainer is made, and puts trackers behind it.
    trainer.DEFAULT_CALLBACKS.append(TamftCallback)


def _checked(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __post_init__(self: TrainingArguments) -> None:
        check_arguments(self)
        check_sharding(self)  # before DeepSpeed is imported
        original(self)
        check_sharding(self)  # now that --fsdp_config was read

    return __post_init__


def _dispatching(original: Callable[..., tuple[Any, dict[str, Any]]]) -> Callable[..., tuple[Any, dict[str, Any]]]:
    @functools.wraps(original)
    def get_optimizer_cls_and_kwargs(args: TrainingArguments, model: Any = None) -> tuple[Any, dict[str, Any]]:
        name = optim_name(args)
        if name is None:
            return original(args, model)
        # Again, because set_optimizer() and hyper-parameter search change arguments after they were made.
        check_arguments(args, model)
        warn_about(name, args)
        return registry.get(name).cls, optimizer_kwargs(name, args)

    return get_optimizer_cls_and_kwargs


def _with_clean_weights(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def save(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        with clean_weights(self.optimizer):
            return original(self, *args, **kwargs)

    return save


def _leaving_clean_weights(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def train(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        check_sharding(self.args, self.accelerator, unwrap(self.optimizer))
        try:
            return original(self, *args, **kwargs)
        finally:
            bring_back(self.optimizer)

    return train
