"""Score records in their shortest form."""


def record(model, task, score, *, status=None, reason=None, subset="default", split="test", **changes):
    return {
        "model": model,
        "name": "local/model",
        "revision": "0123456789abcdef",
        "task": task,
        "split": split,
        "subset": subset,
        "metric": "accuracy",
        "main_score": score,
        "status": status or ("ok" if score is not None else "failed"),
        "reason": reason,
        "mteb_version": "2.26.24",
        "dataset_revision": "5eed",
        "device": "cpu",
        "dtype": "float32",
        "batch": 32,
        "seconds": 1.0,
        "command": None,
        **changes,
    }


RECORDS = [
    record("base", "A", 0.5),
    record("base", "B", 0.75),
    record("base", "C", 0.9),
    record("tuned", "A", 0.6, subset="en"),
    record("tuned", "A", 0.8, subset="de"),
    record("tuned", "B", 0.70),
    record("tuned", "C", None, reason="RuntimeError: boom"),
]
