"""Training loops without a Trainer, as a user writes them, behind the few attributes of Trainer that are checked."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.compatibility.optimizers import build

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Plain:
    """PyTorch and nothing else: `optimizer.train()` before the forward pass."""

    def __init__(self, model: torch.nn.Module, args: dict[str, Any], callbacks: Any = ()) -> None:
        self.model, self.args, self.callbacks = model, args, callbacks
        self.state = SimpleNamespace(global_step=0, log_history=[], is_world_process_zero=True)
        self.optimizer = build(args["optim"], (p for p in model.parameters() if p.requires_grad), args)
        self.dtype = next((dtype for key, dtype in _AUTOCAST.items() if args.get(key)), None)
        scaled = args.get("scaler", False) or self.dtype == torch.float16
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled)

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        from transformers import get_scheduler

        self.schedule = get_scheduler(
            self.args.get("lr_scheduler_type", "linear"),
            self.optimizer,
            num_warmup_steps=0,
            num_training_steps=self.args["max_steps"],
        )
        self.prepare()
        self.model.train()
        if resume_from_checkpoint:
            self.load(Path(resume_from_checkpoint))
            self.state.global_step = int(resume_from_checkpoint.rsplit("-", 1)[1])
        self.switch("train")
        for step in range(self.state.global_step + 1, self.args["max_steps"] + 1):
            loss = self.step(self.batches(step))
            self.schedule.step()
            self.state.global_step = step
            self.state.log_history.append({"step": step, "loss": loss})
            self.tell("on_step_end")
            if step % self.args["save_steps"] == 0:
                self.switch("eval")
                self.save(Path(self.args["output_dir"]) / f"checkpoint-{step}")
                self.tell("on_save")
                self.switch("train")
        self.switch("eval")

    def prepare(self) -> None:
        """Nothing to do without accelerate."""

    def step(self, batches: list[dict[str, torch.Tensor]]) -> float:
        total = 0.0
        for batch in batches:
            self.switch("train")
            total += self.backward(batch, len(batches))
        self.scaler.unscale_(self.optimizer)
        self.clip()
        self.tell("on_pre_optimizer_step")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return total

    def backward(self, batch: dict[str, torch.Tensor], parts: int) -> float:
        with torch.autocast("cpu", self.dtype, enabled=self.dtype is not None):
            loss = self.model(**batch).loss / parts
        self.scaler.scale(loss * self.factor()).backward()
        return loss.item()

    def factor(self) -> float:
        return self.args["loss_factor"](self.state.global_step) if "loss_factor" in self.args else 1.0

    def clip(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.get("max_grad_norm", 1.0))

    def batches(self, step: int) -> list[dict[str, torch.Tensor]]:
        """The micro-batches of a step: the same ones after a resume."""
        from tests.hf import small

        def cut() -> Iterator[dict[str, torch.Tensor]]:
            parts, size = self.args.get("gradient_accumulation_steps", 1), self.args["per_device_train_batch_size"]
            for i in range(parts):
                rows = [small.data()[((step * parts + i) * size + j) % 48] for j in range(size)]
                yield {key: torch.stack([row[key] for row in rows]) for key in rows[0]}

        return list(cut())

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        # clones, because weights that are tied share their memory
        save_file({key: value.clone() for key, value in self.model.state_dict().items()}, folder / "model.safetensors")
        state = {"optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}
        torch.save({key: value.state_dict() for key, value in state.items()}, folder / "state.pt")

    def load(self, folder: Path) -> None:
        self.model.load_state_dict(load_file(folder / "model.safetensors"))
        state = torch.load(folder / "state.pt", weights_only=True)
        for key in ("optimizer", "schedule", "scaler"):
            getattr(self, key).load_state_dict(state[key])

    def switch(self, mode: str) -> None:
        """What the pages of optimizers with two sets of weights tell their users to call."""
        if hasattr(self.optimizer, mode):
            getattr(self.optimizer, mode)()

    def tell(self, event: str) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(None, self.state, None, model=self.model, optimizer=self.optimizer)


class Closure(Plain):
    """The closure does everything, and nobody calls `optimizer.train()` between two steps."""

    def step(self, batches: list[dict[str, torch.Tensor]]) -> float:
        def closure() -> float:
            self.optimizer.zero_grad()
            total = sum(self.backward(batch, len(batches)) for batch in batches)
            self.clip()
            self.tell("on_pre_optimizer_step")
            return total

        return float(self.optimizer.step(closure))


class Accelerated(Plain):
    """accelerate prepares model, optimizer and schedule, saves its own state and loads it again."""

    def prepare(self) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state()  # this process may have trained in another precision before
        self.accelerator = Accelerator(
            cpu=True,
            mixed_precision=next((key for key in _AUTOCAST if self.args.get(key)), "no"),
            gradient_accumulation_steps=self.args.get("gradient_accumulation_steps", 1),
        )
        if self.args.get("scaler"):
            self.accelerator.scaler = self.scaler
        self.bare = self.model
        self.model, self.optimizer, self.schedule = self.accelerator.prepare(self.model, self.optimizer, self.schedule)

    def step(self, batches: list[dict[str, torch.Tensor]]) -> float:
        total = 0.0
        for batch in batches:
            with self.accelerator.accumulate(self.model):
                self.switch("train")
                loss = self.model(**batch).loss
                self.accelerator.backward(loss * self.factor())
                total += loss.item() / len(batches)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), self.args.get("max_grad_norm", 1.0))
                    self.tell("on_pre_optimizer_step")
                self.optimizer.step()
                self.optimizer.zero_grad()
        return total

    def save(self, folder: Path) -> None:
        self.accelerator.save_state(str(folder))
        self.accelerator.wait_for_everyone()

    def load(self, folder: Path) -> None:
        self.accelerator.load_state(str(folder))
