"""The recipes' trainer: sentence-transformers' own, with global batches, a hash of the first ones, a stop at a NaN."""

import contextlib
import hashlib
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformerTrainer
from transformers import Trainer

from tamft.errors import InputError
from tamft.hf.resume import is_over
from tamft.train import lora, sharded
from tamft.train.batches import Shares
from tamft.train.failures import Diverged
from tamft.train.guards import check_trainable

FIRST_BATCHES = 4


class PairsTrainer(SentenceTransformerTrainer):
    """SentenceTransformerTrainer that hashes its first batches and stops at the first loss that is not finite.

    On several processes the sampler makes global batches, which are shared out equally (see `tamft.train.batches`).
    """

    batches_hash: Any = None
    batches_seen = 0
    rows_seen = 0  # by this process, in this part of a resumed run
    _training_rows = False

    def __init__(self, **kwargs: Any) -> None:
        """Takes SentenceTransformerTrainer's arguments; InputError for what it or the optimizer refuses."""
        folder = Path(kwargs["args"].output_dir).absolute()
        new = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            check_trainable(kwargs["model"])
            args = kwargs["args"]
            if args.world_size > 1 and args.data_seed is None:
                # Samplers made later, for evaluation, would take the seed of a process: see RunCallback.on_train_begin.
                args.data_seed = args.seed
            # The card is written from what is known here: no look-ups on the Hub.
            kwargs["model"].model_card_data.local_files_only = True
            super().__init__(**kwargs)
            self.check_optimizer()
        except (ValueError, TypeError, RuntimeError, ImportError) as error:
            for path in new:  # Trainer has made the folder already; a refused run leaves nothing behind
                with contextlib.suppress(OSError):
                    path.rmdir()
            if isinstance(error, InputError | torch.OutOfMemoryError):
                raise
            raise InputError(" ".join(str(error).split())) from error

    def check_optimizer(self) -> None:
        """Build the optimizer over one number, so that options out of range are found before anything is written."""
        with warnings.catch_warnings(action="ignore"):  # training asks once more, and warns then
            cls, kwargs = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer):
            kwargs = {key: value for key, value in kwargs.items() if key not in ("params", "model", "optimizer_dict")}
            cls([torch.nn.Parameter(torch.zeros(1, device=self.args.device))], **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.is_fsdp_enabled:
            super()._save(output_dir, state_dict)
        elif self.args.should_save:  # Trainer asks all processes; the gathered weights are in the main one
            with sharded.whole(self.model, state_dict):
                super()._save(output_dir, state_dict)

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:  # Trainer's own: sentence-transformers' takes no shards
            Trainer._load_from_checkpoint(self, checkpoint_path, model)
        elif lora.has_adapter(self.model):
            lora.load_weights(self.model, Path(checkpoint_path))
        else:
            super()._load_from_checkpoint(checkpoint_path)

    def get_train_dataloader(self) -> Any:
        self._training_rows = True
        try:
            return super().get_train_dataloader()
        finally:
            self._training_rows = False

    def get_batch_sampler(self, dataset: Any, batch_size: int, **kwargs: Any) -> Any:
        processes = self.accelerator.num_processes
        if processes == 1 or not self._training_rows:
            return super().get_batch_sampler(dataset, batch_size=batch_size, **kwargs)
        return Shares(super().get_batch_sampler(dataset, batch_size=batch_size * processes, **kwargs), processes)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        return ([], None) if is_over(self) else super().get_batch_samples(*args, **kwargs)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        names = sorted(key for key in inputs if key.endswith("input_ids"))
        self.rows_seen += len(inputs[names[0]]) if names else 0
        if self.batches_seen < FIRST_BATCHES:
            self.batches_hash = self.batches_hash or hashlib.sha256()
            for name in names:
                ids = inputs[name].detach().cpu().long().contiguous()
                self.batches_hash.update(f"{name}{tuple(ids.shape)}".encode() + ids.numpy().tobytes())
            self.batches_seen += 1
        loss = super().training_step(model, inputs, num_items_in_batch)
        # One synchronisation per step: as much as Trainer's own NaN filter costs, which the recipes switch off.
        if not math.isfinite(value := loss.item()):
            raise Diverged(
                f"the loss is {value} in step {self.state.global_step + 1}: training stopped; "
                "try a lower --learning_rate, a longer --warmup_steps, or float32 weights"
            )
        return loss
