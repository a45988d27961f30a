"""A run, a checkpoint, a saved model or an adapter: what it is, and what is wrong with it. Nothing is executed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from tamft import registry
from tamft.doctor.adapter import examine_adapter
from tamft.doctor.finding import PROBLEM, WARNING, Finding
from tamft.errors import InputError
from tamft.hf.checkpoints import (
    ARGUMENTS,
    ONLY_MODEL,
    OPTIMIZER,
    STATE,
    checkpoints,
    problems,
    read_torch,
    training_state,
    weight_files,
    weight_problems,
)
from tamft.hf.pickles import read_arguments
from tamft.optim.options import LOW_PRECISION

MODEL_FILES = ("config.json", "modules.json", "adapter_config.json")
START_ANEW = "resume from another checkpoint, or start anew from the model"


def examine(folder: Path) -> Iterator[Finding]:
    """Findings about `folder`. Raises InputError if it is none of the things that can be examined."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    below = checkpoints(folder)
    run = _read_json(folder / "run.json")
    if below or run is not None:
        yield from _run(folder, below, run)
    elif (folder / STATE).exists() or training_state(folder):
        yield from _checkpoint(folder)
    elif any((folder / name).is_file() for name in MODEL_FILES) or weight_files(folder):
        yield from _model(folder)
    else:
        raise InputError(
            f"{folder}: holds no run (run.json, checkpoint-N), no checkpoint (trainer_state.json) and no model "
            "(config.json, modules.json, *.safetensors)"
        )


def _run(folder: Path, below: list[Path], run: Any) -> Iterator[Finding]:
    if isinstance(run, dict):
        optimizer = run.get("optimizer") if isinstance(run.get("optimizer"), dict) else {}
        text = f"{run.get('status')}, {run.get('steps')} steps with {(optimizer or {}).get('name')}"
        text += f"; {run['error']}" if run.get("error") else ""
        yield Finding("run.json", text, WARNING if run.get("status") in ("diverged", "failed") else "ok")
    elif (folder / "run.json").exists():
        yield Finding("run.json", "cannot be read", PROBLEM, "take the numbers from a checkpoint's trainer_state.json")
    whole = [path for path in below if not problems(path, ranks=None)]
    if below:
        text = f"{whole[0].name} is the newest complete one of {len(below)}" if whole else "none is complete"
        cure = "" if whole else "start anew"
        yield Finding("checkpoints", text, "ok" if whole else PROBLEM, cure)
    for path in [*below, *(folder / name for name in ("model",) if (folder / name).is_dir())]:
        for found in _checkpoint(path) if path in below else _model(path):
            yield Finding(f"{path.name}: {found.what}", found.text, found.level, found.cure)


def _checkpoint(folder: Path) -> Iterator[Finding]:
    found = problems(folder, ranks=None, deep=True)
    state = _read_json(folder / STATE)
    step = state.get("global_step") if isinstance(state, dict) else None
    if found == [ONLY_MODEL]:
        yield Finding("resume", f"no: {ONLY_MODEL}", WARNING, "give it as the model to start from")
    elif found:
        for text in found:
            name, _, reason = text.partition(": ")
            yield Finding(name, reason or text, PROBLEM, START_ANEW)
        yield Finding("resume", "no: the checkpoint is not complete", PROBLEM, START_ANEW)
    else:
        yield Finding("resume", f"yes: complete, step {step} of {state.get('max_steps')}")
    if (folder / OPTIMIZER).is_file() and not any(text.startswith(OPTIMIZER) for text in found):
        yield from _optimizer(folder)
    yield from _model(folder, known=found)


def _optimizer(folder: Path) -> Iterator[Finding]:
    content = read_torch(folder / OPTIMIZER)
    groups = [group for group in content["param_groups"] if isinstance(group, dict)]
    states = [entry for entry in content["state"].values() if isinstance(entry, dict)]
    steps = {step for entry in states if (step := _count(entry.get("step"))) is not None}
    ours = any("tamft_format" in group for group in groups)
    written = read_arguments(folder / ARGUMENTS).get("optim")
    known = registry.ENTRIES.get(str(written)) if ours else None
    text = (known.cls.__name__ if known else guess(groups, states)) + (f", --optim {written}" if written else "")
    yield Finding("optimizer", f"{text}; {len(states)} weights with state, step {max(steps, default=0)}")
    if any(group.get("moved") for group in groups):
        yield Finding(
            "weights",
            "moved: these are the perturbed weights that gradients are taken at, not the model",
            PROBLEM,
            "resume from it with tamft.register() called first: the first step brings them back; then save again",
        )
    elif ours:
        yield Finding("weights", "clean: the model itself, not a perturbed point")
    tensors = [(key, value) for entry in states for key, value in entry.items() if isinstance(value, Tensor)]
    low = sorted({key for key, value in tensors if key not in ("clean",) and value.dtype in LOW_PRECISION})
    if low and ours:
        yield Finding("state", f"cast to 16 bit: {', '.join(low)}", PROBLEM, "something re-saved it; " + START_ANEW)
    elif low:
        yield Finding("state", f"16 bit, as torch keeps it for 16-bit weights: {', '.join(low)}")
    bad = sorted({key for key, value in tensors if not _finite(value)})
    if bad:
        yield Finding("state", f"NaN or infinite: {', '.join(bad)}", PROBLEM, START_ANEW)
    elif not (low and ours):
        yield Finding("state", f"finite, {sum(v.numel() * v.element_size() for _, v in tensors) / 1e6:.1f} MB")


def guess(groups: list[dict[str, Any]], states: list[dict[str, Any]]) -> str:
    """The optimizer's class, from its options and its state."""
    options = {key for group in groups for key in group}
    keys = {key for entry in states for key in entry}
    if "tamft_format" not in options:
        adam = {"exp_avg", "exp_avg_sq"} <= keys
        return (
            "Adam or AdamW of torch" if adam else f"not tamft's (state: {', '.join(sorted(map(str, keys))) or 'none'})"
        )
    torque = "gamma" in options
    if "betas" in options:
        return "AdaTAMW or AdaTAM" if torque else "AdamWMSAM"
    return "TAM" if torque else "MSAM"


def _model(folder: Path, known: list[str] | None = None) -> Iterator[Finding]:
    broken = weight_problems(folder, deep=True)
    if known is None:
        for text in broken:
            name, _, reason = text.partition(": ")
            yield Finding(name, reason or text, PROBLEM, "save or copy it again")
    if not broken:
        yield from _weights(folder)
    if (folder / "adapter_config.json").is_file():
        yield from examine_adapter(folder)
    yield from _code(folder)


def _weights(folder: Path) -> Iterator[Finding]:
    count, bad, kinds = 0, [], set()
    for name, tensor in _tensors(folder):
        count += tensor.numel()
        kinds.add(str(tensor.dtype).removeprefix("torch."))
        bad += [] if _finite(tensor) else [name]
    if bad:
        text = f"NaN or infinite: {bad[0]}" + (f" and {len(bad) - 1} more" if len(bad) > 1 else "")
        yield Finding("model", text, PROBLEM, "take an earlier checkpoint; lower the learning rate")
    elif count:
        yield Finding("model", f"{count:,} weights, all finite, {', '.join(sorted(kinds))}")
    if any(path.suffix == ".bin" for path in weight_files(folder)):
        yield Finding("model", "the weights are a pickle (.bin)", WARNING, "save as safetensors: nothing to execute")


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in weight_files(folder):
        if file.suffix == ".bin":
            content = read_torch(file)
            yield from ((name, value) for name, value in content.items() if isinstance(value, Tensor))
        else:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - not a dict
                    yield name, weights.get_tensor(name)


def _code(folder: Path) -> Iterator[Finding]:
    """Code that comes with a model: transformers runs it with trust_remote_code=True."""
    config, modules = _read_json(folder / "config.json"), _read_json(folder / "modules.json")
    kinds = [str(module.get("type")) for module in modules or () if isinstance(module, dict)]
    foreign = any(not kind.startswith("sentence_transformers.") for kind in kinds)
    if (isinstance(config, dict) and config.get("auto_map")) or foreign or any(folder.glob("*.py")):
        cure = "read the .py files before you allow trust_remote_code anywhere"
        yield Finding("code", "the model comes with code of its own; tamft does not run it", WARNING, cure)


def _count(value: Any) -> int | None:
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else None
    return int(value) if isinstance(value, int | float) and value == value else None


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
