"""Score every training run below a folder that is complete; what is done is not done again.

    python eval/score_runs.py runs --base all-MiniLM-L6-v2 --suite nanobeir --results results

All other options are those of `tamft eval`. A run is a folder with a run.json, as the recipes write it. When more runs
are complete, or after an interruption, run the same command again. `tamft report runs/*` then shows runs and scores.
"""

import argparse
import sys
from pathlib import Path

from tamft.errors import InputError
from tamft.evaluation.report.runs import read_run
from tamft.evaluation.score import main as tamft_eval

# 1. What to score
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path, help="where the runs are, at any depth")
parser.add_argument("--base", nargs="+", default=[], metavar="MODEL", help="models to score first: baselines")


def complete_runs(folder: Path) -> list[tuple[Path, str | None]]:
    """Runs in the order of their paths: the model's folder, and why it is passed over (None: it is not)."""
    found = []
    for file in sorted(folder.rglob("run.json")):
        run = read_run(file.parent)
        model = file.parent / (run.get("model_dir") or "model")
        reason = None if run["status"] == "complete" else f"it is {run['status']}"
        found.append((model, reason if reason or model.is_dir() else "its model is not here"))
    return found


# 2. Score: `tamft eval` prints the table and returns 0, or 1 if something failed or is missing
def main() -> int:
    args, options = parser.parse_known_args()
    models = list(args.base)
    for model, reason in complete_runs(args.folder):
        if reason:
            print(f"passed over: {model.parent}: {reason}", file=sys.stderr)
        else:
            models.append(str(model))
    if len(models) == len(args.base):
        raise InputError(f"{args.folder}: no complete run below it (a folder with run.json and a model)")
    return tamft_eval([*models, *options])


if __name__ == "__main__":  # processes of `--num_processes` import this file
    try:
        sys.exit(main())
    except InputError as error:
        print(f"score_runs.py: error: {error}", file=sys.stderr)
        sys.exit(2)
