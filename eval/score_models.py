"""Score models on tasks from a program, instead of with `tamft eval`.

    python eval/score_models.py runs/a/model runs/b/model --suite embedded --json scores.json

This is the place to start from when the table is not what you need: the records below are plain dictionaries.
"""

import argparse
import sys

from tamft.errors import InputError
from tamft.evaluation.score import evaluate
from tamft.evaluation.table import mean_scores, print_table

# 1. What to score
parser = argparse.ArgumentParser(description="Score models on MTEB tasks.")
parser.add_argument("models", nargs="+", help="model folders, LoRA adapter folders or Hub names")
parser.add_argument("--tasks", nargs="+", help="mteb's task names")
parser.add_argument("--suite", help="a suite from eval/suites, instead of tasks")
parser.add_argument("--json", help="where to write the records")
args = parser.parse_args()

# 2. Score: everything that ./results already holds is read, not computed
try:
    records = evaluate(args.models, tasks=args.tasks, suite=args.suite, json_file=args.json)
except InputError as error:
    sys.exit(f"error: {error}")

# 3. Look: one record per model, task, split and subset
print_table(records)
means, shared = mean_scores(records)
for model, mean in sorted(means.items(), key=lambda item: -item[1]):
    print(f"{mean:.4f}  {model}  (mean of {len(shared)} tasks)")
sys.exit(0 if all(record["status"] == "ok" for record in records) else 1)
