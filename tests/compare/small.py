"""A study small enough for a test: a tiny BERT, a few rows, tasks of one's own."""

import json
from pathlib import Path

import yaml

from tests.tiny import WORDS

TOPICS = ("card", "transfer", "refund", "fee")
PLACES = "how do i my the a is account money pin top up cash why was not can change".split()


def text(topic, i):
    """The i-th text about a topic; the first 289 differ."""
    first, second = PLACES[i % 17], PLACES[i // 17 % 17]
    return f"{first} {topic} {second} {WORDS[-1 - i % 30]}"


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_data(folder: Path) -> None:
    """train.jsonl, select.yaml and report.yaml with their files."""
    jsonl(
        folder / "train.jsonl", [{"anchor": text(t, i), "positive": text(t, i + 30)} for i in range(12) for t in TOPICS]
    )
    rows = [{"text": text(t, i), "label": t} for i in range(60, 72) for t in TOPICS]
    jsonl(folder / "probe.jsonl", rows[:24])
    jsonl(folder / "dev.jsonl", rows[24:])
    pairs = [(text(TOPICS[i % 4], 80 + i), text(TOPICS[i * 3 % 4], 110 + i)) for i in range(16)]
    jsonl(folder / "test.jsonl", [{"sentence1": a, "sentence2": b, "score": i % 5} for i, (a, b) in enumerate(pairs)])
    options = {"samples_per_label": 4, "n_experiments": 2}
    dev = {
        "name": "SmallDev",
        "type": "Classification",
        "train": "probe.jsonl",
        "test": "dev.jsonl",
        "options": options,
    }
    (folder / "select.yaml").write_text(yaml.safe_dump({"name": "s", "tasks": [dev]}), encoding="utf-8")
    test = {"name": "SmallTest", "type": "STS", "test": "test.jsonl"}
    (folder / "report.yaml").write_text(yaml.safe_dump({"name": "r", "tasks": [test]}), encoding="utf-8")


def rates():
    return {"learning_rate": {"values": [1e-3, 3e-3, 1e-2]}}


def content(model: Path) -> dict:
    """A plan of 3 optimizers x 3 rates x 2 seeds."""
    return {
        "name": "small",
        "model": str(model),
        "train": {
            "train_file": "train.jsonl",
            "max_steps": 4,
            "per_device_train_batch_size": 8,
            "logging_steps": 1,
            "use_cpu": True,
        },
        "select": {"tasks": ["select.yaml"]},
        "report": {"tasks": ["report.yaml"]},
        "optimizers": {
            "adamw_torch": {"space": rates()},
            "adatamw": {"space": rates()},
            "msam": {"args": "rho=0.05", "space": rates()},
        },
        "seeds": {"screen": [1, 2], "confirm": [11, 12]},
        "delta": 0.01,
    }


def write_plan(folder: Path, content: dict) -> Path:
    """Write a plan beside its data and return its name."""
    write_data(folder)
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path
