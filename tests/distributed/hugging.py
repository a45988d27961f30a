"""Program: accelerate and Trainer over several processes. Words: "accelerate", "ddp" or "fsdp2"."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, DistributedType, GradientState, PartialState
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.distributed.model import batch, distance, make, train, weight_bits, weights
from tests.distributed.spawn import report
from tests.hf import small
from tests.optim.cases import FEW
from tests.optim.problem import cls, learning_rate


def fsdp_on_a_cpu() -> None:
    """accelerate drops FSDP plugins where its state says MULTI_CPU: let it say what it would on GPUs."""
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def fresh() -> None:
    AcceleratorState._reset_state()
    GradientState._reset_state()


def accelerated(name: str, options: dict[str, Any]) -> dict[str, Any]:
    fresh()
    PartialState(cpu=True, backend="gloo")
    fsdp_on_a_cpu()
    accelerator = Accelerator(cpu=True, fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2))
    assert accelerator.is_fsdp2
    model, alone = make(), make()
    options = {"lr": learning_rate(name) if name != "AdamW" else 1e-2, **options}
    kind = torch.optim.AdamW if name == "AdamW" else cls(name)
    optimizer = kind(model.parameters(), **options)
    model, optimizer = accelerator.prepare(model, optimizer)
    assert all(isinstance(p, DTensor) for group in optimizer.param_groups for p in group["params"])
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}
    for step in range(12):
        optimizer.train()
        optimizer.zero_grad()
        x, y = batch(step, torch.float64)
        accelerator.backward((model(x) - y).square().mean())
        accelerator.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    clip = lambda step: torch.nn.utils.clip_grad_norm_(alone.parameters(), 0.5)  # noqa: E731
    train(alone, kind(alone.parameters(), **options), 0, 12, share=False, before_step=clip)
    assert distance(weights(alone), weights(make())) > 0.02
    return {"apart": distance(weights(model), weights(alone)), "bits": weight_bits(model)}


class Seen(TrainerCallback):
    """Which parameters the optimizer has, and what was logged."""

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.sharded = all(isinstance(p, DTensor) for group in optimizer.param_groups for p in group["params"])


def trained(optim: str, kind: str, steps: int, folder: Path, resume: str | None = None, **more: Any) -> dict[str, Any]:
    fresh()
    world = int(os.environ["WORLD_SIZE"])
    settings = {**small.PLAIN, "per_device_train_batch_size": 12 // world, "logging_strategy": "steps"}
    settings |= {"logging_steps": 5, "max_grad_norm": 1.0, "max_steps": steps, "learning_rate": small.rate(optim)}
    # With it Trainer's loss, and so its gradient, grows with the number of processes, for any optimizer.
    settings["average_tokens_across_devices"] = False
    if kind == "fsdp2":
        # Left alone, accelerate shards BERT's word embeddings twice and fails: both they and the module around them.
        settings |= {
            "fsdp": "full_shard",
            "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["BertLayer"]},
        }
    args = TrainingArguments(output_dir=str(folder), optim=optim, ddp_backend="gloo", **{**settings, **more})
    if kind == "fsdp2":
        fsdp_on_a_cpu()
    seen = Seen()
    trainer = Trainer(model=small.model(), args=args, train_dataset=small.data(), callbacks=[seen])
    trainer.train(resume_from_checkpoint=resume)
    model = trainer.model
    logged = [log for log in trainer.state.log_history if "loss" in log]
    return {
        "weights": weights(model),
        "bits": weight_bits(model),
        "sharded": seen.sharded,
        "telemetry": [{key: value for key, value in log.items() if key.startswith("tamft/")} for log in logged],
        "losses": [log["loss"] for log in logged],
    }


def main() -> None:
    if sys.argv[1] == "accelerate":
        report({f"{name}-{','.join(options)}": accelerated(name, options) for name, options in [*FEW, ("AdamW", {})]})
        return
    found = {}
    for optim in sys.argv[2:]:
        found[optim] = trained(optim, sys.argv[1], 20, Path("out"))
    if int(os.environ["WORLD_SIZE"]) > 1:
        # A checkpoint in the middle changes nothing, and a run that starts from it ends with the same bits.
        saving = {"save_strategy": "steps", "save_steps": 6, "save_only_model": False}
        for optim in sys.argv[2:]:
            straight = trained(optim, sys.argv[1], 12, Path("straight") / optim, **saving)
            there = trained(optim, sys.argv[1], 12, Path("resumed"), str(Path("straight") / optim / "checkpoint-6"))
            found[optim] |= {"straight": straight["bits"], "resumed": there["bits"]}
    report(found)


if __name__ == "__main__":
    main()
