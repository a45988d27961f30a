"""A study as `tamft compare` writes it, made by a simulator instead of by trainings."""

import hashlib
import json
import math

import numpy as np

TASKS = {
    "STS12": ("STS", 0.72),
    "STS13": ("STS", 0.80),
    "XQuADRetrieval": ("Retrieval", 0.91),
    "Banking77Classification": ("Classification", 0.80),
}
RATES = (1e-4, 2e-4, 4e-4)
# Gain of each optimizer over the base model at its best rate, and that rate.
ARMS = {
    "adamw_torch": (0.010, 2e-4),
    "adatamw": (0.0102, 4e-4),
    "adamw_msam": (0.013, 2e-4),
    "lion": (-0.012, 1e-4),
}
CONFIRM = [11, 12, 13, 14, 15, 16, 17]


def a_plan(**changes):
    space = {"learning_rate": {"values": list(RATES)}}
    content = {
        "schema": 1,
        "name": "MiniLM on intents",
        "description": "a simulated study",
        "model": "all-MiniLM-L6-v2",
        "model_revision": "ba5e" * 4,
        "recipe": "encoder_pairs",
        "train": {"train_file": [{"name": "pairs.jsonl", "sha256": "da7a" * 16}], "max_steps": 60},
        "select": {"tasks": ["DevIntents"]},
        "report": {"tasks": list(TASKS)},
        "tasks": {
            name: {"type": kind, "revision": f"{i}5eed", "metric": "main_score"}
            for i, (name, (kind, _)) in enumerate([*TASKS.items(), ("DevIntents", ("Classification", 0.8))])
        },
        "optimizers": {
            name: {"optim": name if name != "lion" else "torch_optimi.Lion", "args": {}, "space": space}
            for name in ARMS
        },
        "trials": 3,
        "seeds": {"screen": [1, 2], "confirm": CONFIRM, "aa": [seed + 7 for seed in CONFIRM]},
        "confirm": list(ARMS),
        "baseline": "adamw_torch",
        "controls": {"aa": True, "frozen_torque": "adatamw"},
        "delta": 0.006,
        "sd": None,
        **changes,
    }
    content["hash"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return content


def _line(plan, stage, arm, optim, rate, seed, gain, control=None, *, rng):
    """One row; the noise of a seed is shared by all arms, as the order of the data is."""
    of_seed = np.random.default_rng(seed).normal(0, 0.004, len(TASKS) + 1)
    noise = 0.002 * rng.standard_normal() + 0.003 * rng.standard_normal(len(TASKS) + 1)
    values = gain + of_seed + noise
    scores = {name: float(start + values[i]) for i, (name, (_, start)) in enumerate(TASKS.items())}
    steps = range(5, 61, 5)
    torque = optim == "adatamw"
    frozen = control == "null"
    telemetry = []
    for step in steps:
        s = 0.0 if frozen else 0.2 * math.exp(-step / 20) + 0.004 * float(rng.standard_normal())
        one = {"momentum_norm": 1.0, "rho": 0.3 if "msam" in optim else 0.0}
        if torque:
            for key, middle, width in (("alignment", s, 0.03), ("damping", (1 + s) / 2, 0.015)):
                one |= {f"{key}_mean": middle, f"{key}_q10": middle - width, f"{key}_q90": middle + width}
        telemetry.append([step, one])
    return {
        "run": hashlib.sha256(f"{stage}{arm}{rate}{seed}".encode()).hexdigest()[:16],
        "stage": stage,
        "arm": arm,
        "optimizer": optim,
        "optim_args": {"gamma": 1.0} if frozen else {},
        "learning_rate": rate,
        "weight_decay": 0.0,
        "params": {"learning_rate": rate},
        "seed": seed,
        "control": control,
        "status": "complete",
        "error": None,
        "selection": float(0.8 + values[-1]),
        "scores": scores if stage != "screen" else {},
        "types": {name: kind for name, (kind, _) in TASKS.items()},
        "steps": 60,
        "seconds": 40.0 + float(rng.random()) + 12 * ("msam" in optim),
        "peak_memory_bytes": 900 * 2**20,
        "state_bytes": (180 if optim != "torch_optimi.Lion" else 90) * 2**20,
        "loss": [[step, 0.5 + 2 * math.exp(-step * rate * 50) + 0.01 * float(rng.standard_normal())] for step in steps],
        "telemetry": telemetry,
        "first_batches_sha256": hashlib.sha256(str(seed).encode()).hexdigest(),
        "device": "cpu: a processor, 2 threads",
        "versions": {"tamft": "0.5.0", "torch": "2.13.0"},
    }


def diverge(row):
    """The row of a run that diverged."""
    half = len(row["loss"]) // 2
    loss = [*row["loss"][:half], [row["loss"][half][0], None]]
    return row | {
        "status": "diverged",
        "error": "the loss is not finite",
        "selection": None,
        "scores": {},
        "loss": loss,
    }


def some_rows(plan, *, seed=0, gains=None):
    """All rows of a study, in the plan's order. `gains`: of arms, instead of those above."""
    rng = np.random.default_rng(seed)
    gain_of = {name: (gains or {}).get(name, gain) for name, (gain, _) in ARMS.items()}
    rate_of = {name: rate for name, (_, rate) in ARMS.items()}
    base = _line(plan, "base", "base", "", 0.0, 0, 0.0, rng=rng)
    base |= dict.fromkeys(
        ("optimizer", "learning_rate", "seed", "seconds", "state_bytes", "first_batches_sha256", "selection")
    )
    base |= {"params": {}, "loss": [], "telemetry": [], "steps": None, "versions": {}}
    base["scores"] = {name: start for name, (_, start) in TASKS.items()}
    rows = [base]
    optim = {name: entry["optim"] for name, entry in plan["optimizers"].items()}
    for rate in RATES:
        for screen in plan["seeds"]["screen"]:
            for name in plan["optimizers"]:
                # far more than the noise: the search always finds the rate above
                gain = gain_of[name] - 0.02 * abs(math.log2(rate / rate_of[name]))
                rows.append(_line(plan, "screen", name, optim[name], rate, screen, gain, rng=rng))
    for i, one in enumerate(plan["seeds"]["confirm"]):
        for name in plan["confirm"]:
            rows.append(_line(plan, "confirm", name, optim[name], rate_of[name], one, gain_of[name], rng=rng))
        base_rate, frozen = rate_of[plan["baseline"]], plan["controls"]["frozen_torque"]
        if plan["seeds"]["aa"]:
            name = f"{plan['baseline']} (A/A)"
            further = plan["seeds"]["aa"][i]
            gain = gain_of[plan["baseline"]]
            rows.append(_line(plan, "confirm", name, "adamw_torch", base_rate, further, gain, "aa", rng=rng))
        if frozen:
            name, gain = f"{frozen} gamma=1", gain_of[frozen]
            rows.append(_line(plan, "confirm", name, frozen, rate_of[frozen], one, gain, "null", rng=rng))
    return rows


def write_study(folder, plan, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    (folder / "study.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def the_study():
    """(plan, rows) of a study with a diverged confirm run of lion, and a diverged trial of adatamw."""
    plan = a_plan()
    rows = some_rows(plan)
    for i, row in enumerate(rows):
        lost = row["arm"] == "lion" and row["stage"] == "confirm" and row["seed"] == 13
        lost |= row["arm"] == "adamw_msam" and row["stage"] == "screen" and row["learning_rate"] == 4e-4
        if lost:
            rows[i] = diverge(row)
    return plan, rows
