"""Run folders, score records and result files as tamft and mteb write them."""

import json


def a_run(folder, name, *, seed=7, rate=2e-4, telemetry=True, losses=(2.5, 1.75, 1.25, 0.75, 0.5), **changes):
    """A run folder as the recipe writes it."""
    values = {
        "alignment_mean": 0.125,
        "alignment_q10": 0.0625,
        "alignment_q90": 0.25,
        "damping_mean": 0.5625,
        "damping_q10": 0.53125,
        "damping_q90": 0.625,
    }
    content = {
        "schema": 1,
        "status": "complete",
        "config": {"learning_rate": rate, "optim_args": None, "weight_decay": 0.0},
        "optimizer": {"name": name, "args": {"gamma": 0.9}, "backend": "loop", "state_bytes": 3 * 2**20},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "git": None,
        "device": "cpu: a processor, 2 threads",
        "seed": seed,
        "data": [{"path": "pairs.jsonl", "sha256": "da7a" * 16, "rows": 2400}],
        "first_batches_sha256": "f125" * 16,
        "base_model": {"name": "all-MiniLM-L6-v2", "sha256": "ba5e" * 16},
        "steps": 10,
        "seconds": 41.3,
        "peak_memory_bytes": 5 * 2**20,
        "loss": [[2 * (i + 1), value] for i, value in enumerate(losses)],
        "telemetry": [[2 * (i + 1), values] for i in range(5)] if telemetry else [],
        "model_dir": "model",
        "error": None,
        **changes,
    }
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def score(model, task, value, **changes):
    return {
        "model": str(model),
        "name": "local/model",
        "revision": "0123456789abcdef",
        "task": task,
        "split": "test",
        "subset": "default",
        "metric": "ndcg_at_10",
        "main_score": value,
        "reason": None,
        "status": "ok",
        "mteb_version": "2.26.24",
        "dataset_revision": "5eed" * 10,
        "device": "cpu",
        "dtype": "float32",
        "batch": 32,
        "seconds": 3.0,
        "command": "tamft demo --seed 7",
        **changes,
    }


def write_results(folder, scores, *, version=None, revisions=None):
    """A folder of results made by mteb itself, of tasks that it knows.

    `scores[name, revision][task]` is a number, or `{split: {subset: number}}`. `version`: of mteb; `revisions`: of the
    data, by task.
    """
    import mteb
    from mteb.cache import ResultCache
    from mteb.models import ModelMeta
    from mteb.results import TaskResult

    cache = ResultCache(folder)
    for (name, revision), by_task in scores.items():
        meta = ModelMeta.create_empty({"name": name, "revision": revision})
        for task_name, values in by_task.items():
            task = mteb.get_task(task_name)
            if not isinstance(values, dict):
                values = {split: dict.fromkeys(task.hf_subsets, values) for split in task.eval_splits}
            entries = {
                split: {subset: {"main_score": value} for subset, value in subsets.items()}
                for split, subsets in values.items()
            }
            result = TaskResult.from_task_results(task, entries, evaluation_time=1.5)
            result.mteb_version = version or result.mteb_version
            result.dataset_revision = (revisions or {}).get(task_name, result.dataset_revision)
            cache.save_to_cache(result, meta)
    return folder
