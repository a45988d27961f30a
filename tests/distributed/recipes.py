"""Program: recipes, one run after the other in the same processes. Word: a JSON file with [[recipe, [flag, …]], …]."""

import json
import sys
from pathlib import Path

import torch.distributed

from tamft.train import run
from tests.distributed.spawn import report
from tests.recipes.program import load_recipe


def main() -> None:
    codes = []
    for recipe, flags in json.loads(Path(sys.argv[1]).read_text()):
        codes.append(run.command(load_recipe(recipe).main, flags))
        torch.distributed.barrier()
    report(codes)


if __name__ == "__main__":
    main()
