"""Program: recipes, one run after the other in the same processes. Word: a JSON file with [[recipe, [flag, …]], …]."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from tamft.train import run
from tests.distributed.hugging import fsdp_on_a_cpu
from tests.distributed.spawn import report
from tests.recipes.program import load_recipe


class Seen(TrainerCallback):
    """Whether the last run trained shards (accelerate drops FSDP on a CPU without a word), and its random seed."""

    sharded: bool | None = None
    seed = 0

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        Seen.seed = torch.initial_seed()
        Seen.sharded = all(isinstance(parameter, DTensor) for parameter in model.parameters())


make = run.PairsTrainer.__init__


def init(self: run.PairsTrainer, **kwargs: Any) -> None:
    if kwargs["args"].fsdp:
        fsdp_on_a_cpu()  # after the arguments, which forget it
    make(self, **kwargs)


def main() -> None:
    run.PairsTrainer.__init__ = init  # type: ignore[method-assign]
    transformers.trainer.DEFAULT_CALLBACKS.append(Seen)
    codes = []
    for recipe, flags in json.loads(Path(sys.argv[1]).read_text()):
        codes.append(run.command(load_recipe(recipe).main, flags))
        torch.distributed.barrier()
    report((codes, Seen.sharded, Seen.seed))


if __name__ == "__main__":
    main()
