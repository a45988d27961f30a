"""What run.json holds, and how it is measured and written."""

import errno
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tamft.atomic import write_atomically
from tamft.errors import InputError

SCHEMA = 1
PACKAGES = ("tamft", "torch", "transformers", "sentence-transformers", "accelerate", "datasets", "tokenizers")
OPTIONAL = ("numba",)  # changes the last bits of a step on a CPU
TELEMETRY = "tamft/"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)


def start(training_args: Any, facts: dict[str, Any]) -> dict[str, Any]:
    """The content of run.json when a run begins; what is measured later is None or empty.

    Args:
        training_args: all of it becomes part of `config` (tokens are masked by transformers).
        facts: `config` (the recipe's own options), `data` and `base_model`.
    """
    return {
        "schema": SCHEMA,
        "status": "running",
        "config": {**training_args.to_dict(), **facts["config"]},
        "optimizer": {"name": str(training_args.optim.value), "args": {}, "backend": None, "state_bytes": None},
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
            **{d.name: d.version for name in OPTIONAL for d in metadata.distributions(name=name)},
            "torch": str(torch.__version__),  # with its build (+cpu, +cu124), which the package's metadata may not say
        },
        "git": git_commit(),
        "device": device_name(training_args.device),
        "seed": training_args.seed,
        "processes": training_args.world_size,
        "global_batch": training_args.train_batch_size
        * training_args.world_size
        * training_args.gradient_accumulation_steps,
        "negatives_per_anchor": None,
        "data": facts["data"],
        "first_batches_sha256": None,
        "base_model": facts["base_model"],
        "command": None,
        "overlap": None,
        "steps": 0,
        "rows_seen": None,
        "seconds": 0.0,
        "peak_memory_bytes": None,
        "loss": [],
        "eval_loss": [],
        "telemetry": [],
        "checks": None,
        "model_dir": None,
        "error": None,
    }


def command_line(recipe: str, argv: list[str]) -> str:
    """The command as one would type it; tokens are left out."""
    words = list(argv)
    for i, word in enumerate(words):
        if word.startswith("--") and word.split("=")[0].endswith("token"):
            words[i : i + 2] = [f"{word.split('=')[0]}=..."] + ([] if "=" not in word else words[i + 1 : i + 2])
    return shlex.join(["tamft", "train", recipe, *words])


def telemetry(history: list[dict[str, Any]]) -> list[list[Any]]:
    """[[step, {key: value}]] from Trainer's log entries: tamft's own keys, without their `tamft/` prefix."""
    found = [
        [
            entry["step"],
            {key.removeprefix(TELEMETRY): value for key, value in entry.items() if key.startswith(TELEMETRY)},
        ]
        for entry in history
    ]
    return [item for item in found if item[1]]


def optimizer_facts(optimizer: Any) -> dict[str, Any]:
    """`args` in force, `backend` (loop | foreach | fused) and measured `state_bytes` of a (wrapped) optimizer."""
    inner = getattr(optimizer, "optimizer", optimizer)
    # From the group where it can be: `rho_start=warmup` is a number only there. Not lr: that is the schedule's by now.
    group = {key: value for key, value in inner.param_groups[0].items() if key != "lr"}
    args = {key: value for key, value in {**inner.defaults, **group}.items() if key in inner.defaults and _plain(value)}
    return {"args": args, "backend": _backend(inner), "state_bytes": state_bytes(inner)}


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors in the optimizer's state (on this process)."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(list(optimizer.state.values())))


def peak_memory_bytes() -> int | None:
    """CUDA's peak where there is a GPU, else the process's largest resident size; None where neither is known."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def device_name(device: torch.device) -> str:
    """`cuda: NVIDIA …` or `cpu: <processor>, N threads`."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and (match := re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text(encoding="utf-8"))):
        name = match[1]
    return f"{device.type}: {name}, {torch.get_num_threads()} threads"


def git_commit() -> str | None:
    """Commit of the checkout in the working folder, with `-dirty` where tracked files differ; None outside of one."""
    try:
        commit, status = (
            subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=20).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if status else commit


def write_json(path: Path, content: Any) -> None:
    """Replace `path` in one move: a reader sees the old file or the new one, never half of one."""
    write_atomically(path, json.dumps(_finite(content), indent=1, default=str, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file, None where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def check_writable(folder: Path) -> None:
    """InputError if nothing can be written into `folder`, or it cannot be made; leaves nothing behind."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{there} is not a folder")
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(f"--output_dir {folder} cannot be written ({error.strerror}); name another folder") from error


def disk_error(error: BaseException | None) -> str | None:
    """The reason if `error`, or what caused it, says that a file could not be written; else None.

    safetensors and torch turn the system's error into one of their own, with its number in the text or nothing but a
    position in the file.
    """
    while error is not None:
        text = str(error)
        if isinstance(error, OSError) and error.errno in _DISK:
            return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)
        if match := re.search(r"os error (\d+)|Os \{ code: (\d+)", text):
            number = int(match[1] or match[2])
            if number in _DISK:
                return os.strerror(number)
        if "PytorchStreamWriter failed" in text or "unexpected pos" in text:
            return "the disk is full, or a file reached its largest size"
        error = error.__cause__ or error.__context__
    return None


def _backend(optimizer: Any) -> str:
    if isinstance(backend := getattr(optimizer, "backend", None), str):
        return backend
    group = optimizer.param_groups[0]
    if group.get("fused"):
        return "fused"
    on_gpu = any(parameter.is_cuda for parameter in group["params"])
    foreach = group.get("foreach", False)  # torch's None: foreach on a GPU, a loop on a CPU
    return "foreach" if foreach or (foreach is None and on_gpu) else "loop"


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _finite(value: Any) -> Any:
    """JSON has no NaN: None stands for numbers that are not finite."""
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
