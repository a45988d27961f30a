"""The hooks in Trainer and TrainingArguments; subclasses (sentence-transformers, TRL) go through them as well."""

import functools
from collections.abc import Callable
from typing import Any

from transformers import Trainer, TrainingArguments, trainer

from tamft.hf import others
from tamft.hf.arguments import check_arguments, optim_name, optimizer_class, warn_about
from tamft.hf.callbacks import TamftCallback, bring_back, clean_weights, unwrap
from tamft.hf.resume import is_over, mark_unfinished, options_of, resumable, tell_differences, wanted
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
    Trainer.train = _resuming_whole(Trainer.train)
    Trainer._save_checkpoint = _marked_unfinished(Trainer._save_checkpoint)
    Trainer.get_batch_samples = _ending_in_time(Trainer.get_batch_samples)
    Trainer._load_optimizer_and_scheduler = _telling_differences(Trainer._load_optimizer_and_scheduler)
    # In place: the Trainer module reads this list whenever a Trainer is made, and puts trackers behind it.
    trainer.DEFAULT_CALLBACKS.append(TamftCallback)


def _checked(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __post_init__(self: TrainingArguments) -> None:
        others.learn(self.optim)
        check_arguments(self)
        check_sharding(self)  # before DeepSpeed is imported
        original(self)
        check_sharding(self)  # now that --fsdp_config was read

    return __post_init__


def _dispatching(original: Callable[..., tuple[Any, dict[str, Any]]]) -> Callable[..., tuple[Any, dict[str, Any]]]:
    @functools.wraps(original)
    def get_optimizer_cls_and_kwargs(args: TrainingArguments, model: Any = None) -> tuple[Any, dict[str, Any]]:
        others.learn(args.optim)  # for arguments that came out of a file
        name = optim_name(args)
        if name is None:
            return original(args, model)
        # Again, because set_optimizer() and hyper-parameter search change arguments after they were made.
        check_arguments(args, model)
        warn_about(name, args)
        return optimizer_class(name, args, model)

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


def _resuming_whole(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def train(self: Trainer, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        return original(self, resumable(self, resume_from_checkpoint), *args, **kwargs)

    return train


def _marked_unfinished(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def save(self: Trainer, model: Any, trial: Any = None, *args: Any, **kwargs: Any) -> Any:
        mark_unfinished(self, trial)
        return original(self, model, trial, *args, **kwargs)

    return save


def _ending_in_time(original: Callable[..., tuple[list[Any], Any]]) -> Callable[..., tuple[list[Any], Any]]:
    @functools.wraps(original)
    def get_batch_samples(self: Trainer, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        if is_over(self) and wanted(self) is not None:
            return [], None
        return original(self, *args, **kwargs)

    return get_batch_samples


def _telling_differences(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def load(self: Trainer, checkpoint: str | None) -> Any:
        if checkpoint is None or wanted(self) is None:
            return original(self, checkpoint)
        asked = options_of(self)
        result = original(self, checkpoint)
        tell_differences(self, asked, checkpoint)
        return result

    return load
