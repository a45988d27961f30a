"""Is a checkpoint whole? What Trainer writes into it, read without running anything that a file may hold.

Trainer writes, in this order: weights and their configuration, training_args.bin, optimizer.pt, scheduler.pt, scaler.pt
(fp16), rng_state*.pth, trainer_state.json. A process that is killed leaves any of them missing or cut short.
"""

import contextlib
import json
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

STATE, OPTIMIZER, SCHEDULER, ARGUMENTS = "trainer_state.json", "optimizer.pt", "scheduler.pt", "training_args.bin"
# Trainer's just-in-time checkpoint keeps this file in the folder for as long as it writes.
UNFINISHED = "checkpoint-is-incomplete.txt"
ONLY_MODEL = (
    "holds a model without training state (save_only_model): it cannot be resumed; give it as the model to start from"
)
# sentence-transformers' modules that cannot be made without one.
_CONFIGURED = {"Pooling", "Dense", "LayerNorm", "CNN", "LSTM", "Dropout", "WeightedLayerPooling"}
_CONFIGS = ("config.json", "adapter_config.json")
_FOLDER = re.compile(r"checkpoint-(\d+)")


def checkpoints(folder: Path) -> list[Path]:
    """The folders `checkpoint-N` in `folder`, the highest N first."""
    numbered = [(int(match[1]), path) for path in folder.glob("*") if (match := _FOLDER.fullmatch(path.name))]
    return [path for _, path in sorted(numbered, reverse=True) if path.is_dir()]


def problems(
    folder: Path, *, ranks: Iterable[int] | None = (0,), needed: Sequence[str] = (), deep: bool = False
) -> list[str]:
    """Why a training cannot go on from `folder`: `file: what is wrong with it`, in the order of the files. [] = whole.

    Args:
        ranks: the processes whose random numbers have to be there. One process: (0,). None: whatever was saved.
        needed: further files that this run cannot do without, such as `config.json` or `scaler.pt`.
        deep: read every byte of PyTorch's files and compare their checksums; otherwise only what holds them together.
    """
    if not folder.is_dir():
        return ["there is no such folder"]
    if (folder / UNFINISHED).exists():
        return [f"{UNFINISHED}: the save did not come to its end"]
    state = _json_problem(folder / STATE, "global_step")
    found = [*weight_problems(folder, deep=deep), *_json_problems(folder)]
    if not state and not found and not training_state(folder):
        return [ONLY_MODEL]
    found += [f"{name}: is missing" for name in needed if not (folder / name).is_file()]
    if not is_sharded(folder):
        found += _torch_problem(folder / OPTIMIZER, ("state", "param_groups"), deep)
    else:
        found += _sharded_problems(folder)
    found += _torch_problem(folder / SCHEDULER, ("last_epoch",), deep)
    if (folder / "scaler.pt").exists():
        found += _torch_problem(folder / "scaler.pt", (), deep)
    return found + _random_problems(folder, ranks, deep) + state


def training_state(folder: Path) -> list[Path]:
    """What `folder` holds beside the model for going on: optimizer, schedule, random numbers."""
    names = ("optimizer*", SCHEDULER, "rng_state*.pth", "latest")
    return [path for name in names for path in folder.glob(name)]


def is_sharded(folder: Path) -> bool:
    """Whether FSDP or DeepSpeed wrote the optimizer's state, in files of their own."""
    return any(path.name != OPTIMIZER for path in [*folder.glob("optimizer*"), *folder.glob("latest")])


# ---- weights --------------------------------------------------------------------------------------------------------


def weight_files(folder: Path) -> list[Path]:
    """Files with weights: of the model, of a SentenceTransformer's module folders, of adapters in folders of their own.

    *.safetensors where there are any, else pytorch_model*.bin and adapter_model.bin.
    """
    parts = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir() and not _FOLDER.fullmatch(path.name))]
    parts = [
        path for path in parts if path == folder or path.name[:1].isdigit() or (path / "adapter_config.json").exists()
    ]
    found = [file for part in parts for file in sorted(part.glob("*.safetensors"))]
    names = ("pytorch_model*.bin", "adapter_model.bin")
    return found or [file for part in parts for name in names for file in sorted(part.glob(name))]


def weight_problems(folder: Path, *, deep: bool = False) -> list[str]:
    """Weights that are missing, cut short or do not hold what the index of shards says."""
    if any(folder.glob("pytorch_model_fsdp*")):
        return []  # _sharded_problems
    files = weight_files(folder)
    found = [problem for file in files for problem in _weight_problem(folder, file, deep)]
    for index in [*folder.glob("*.safetensors.index.json"), *folder.glob("*.bin.index.json")]:
        found += [] if found else _shard_problems(index)
    if not files and not found:
        found = ["model.safetensors: is missing, and so is any other file with weights"]
    return found


def _weight_problem(folder: Path, file: Path, deep: bool) -> list[str]:
    name = file.relative_to(folder).as_posix()
    if file.suffix == ".bin":
        return [f"{name}: {problem.partition(': ')[2]}" for problem in _torch_problem(file, (), deep)]
    try:
        with safe_open(file, framework="pt"):  # compares the length of the file with what the header says
            return []
    except (SafetensorError, OSError) as error:
        return [f"{name}: truncated or damaged ({error})"]


def _shard_problems(index: Path) -> list[str]:
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        wanted: dict[str, set[str]] = {}
        for key, shard in shards.items():
            wanted.setdefault(str(shard), set()).add(key)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return [f"{index.name}: is no index of shards"]
    found = []
    for shard, keys in wanted.items():
        # A name with a path in it would make the reader open files outside of the folder.
        if Path(shard).name != shard:
            found.append(f"{index.name}: names the shard {shard!r} outside of the folder")
        elif not (index.parent / shard).is_file():
            found.append(f"{shard}: is missing")
        elif shard.endswith(".safetensors"):
            with safe_open(index.parent / shard, framework="pt") as file:
                found += (
                    [f"{shard}: lacks {len(gone)} weights of the index"] if (gone := keys - set(file.keys())) else []
                )
    return found


# ---- everything else ------------------------------------------------------------------------------------------------


def read_torch(path: Path, *, deep: bool = False) -> Any:
    """The content of a file of torch.save, its tensors mapped and not read; nothing in it is ever executed.

    Raises ValueError with the reason for a file that is damaged, or that holds more than plain data and tensors.
    """
    old = _begins_as_before_torch_1_6(path)
    try:
        with (
            contextlib.nullcontext() if old else zipfile.ZipFile(path) as archive
        ):  # its table of contents is the last thing that is written
            if deep and archive and (broken := archive.testzip()):
                raise ValueError(f"damaged ({broken} has another checksum)")
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"truncated or damaged ({path.stat().st_size} bytes)") from error
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    from transformers.trainer import safe_globals  # numpy's arrays, among the random numbers

    try:
        with safe_globals():
            return torch.load(path, map_location="cpu", mmap=not old, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("holds objects that could run code when they are loaded; it is not read") from error
    except Exception as error:
        raise ValueError(f"damaged ({type(error).__name__})") from error


def _begins_as_before_torch_1_6(path: Path) -> bool:
    """Pickles one after the other instead of a zip archive: old models have such a pytorch_model.bin."""
    with path.open("rb") as stream:
        return stream.read(4) == b"\x80\x02\x8a\n"


def _torch_problem(path: Path, keys: Sequence[str], deep: bool) -> list[str]:
    if not path.is_file():
        return [f"{path.name}: is missing"]
    try:
        content = read_torch(path, deep=deep)
    except ValueError as error:
        return [f"{path.name}: {error}"]
    whole = isinstance(content, dict) and all(key in content for key in keys)
    if whole and "param_groups" in keys:
        groups = content["param_groups"]
        whole = isinstance(content["state"], dict) and isinstance(groups, list)
        whole = whole and all(isinstance(group, dict) and "params" in group for group in groups)
    if not whole:
        return [f"{path.name}: does not hold what it should ({', '.join(keys) or 'a dictionary'})"]
    return []


def _json_problem(path: Path, key: str | None = None) -> list[str]:
    if not path.is_file():
        return [f"{path.name}: is missing"]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return [f"{path.name}: truncated or damaged ({path.stat().st_size} bytes)"]
    return [] if key is None or (isinstance(content, dict) and key in content) else [f"{path.name}: has no {key}"]


def _json_problems(folder: Path) -> list[str]:
    """Configuration of the model that cannot be read; which of it there has to be depends on the model."""
    files = [path for path in sorted(folder.glob("*.json")) if path.name != STATE]
    found = [problem for path in files for problem in _json_problem(path)]
    modules = folder / "modules.json"
    if modules.is_file() and not found:
        for module in _listed(modules):
            path, kind = str(module.get("path", "")), str(module.get("type")).rpartition(".")[2]
            if kind == "Transformer" and not any((folder / path / name).is_file() for name in _CONFIGS):
                found.append(f"{(Path(path) / 'config.json').as_posix()}: is missing")
            elif path and not (folder / path).is_dir():
                found.append(f"{path}: is missing, and modules.json names it")
            elif path:
                needed = [folder / path / "config.json"] if kind in _CONFIGURED else []
                for file in dict.fromkeys([*needed, *(folder / path).glob("*.json")]):
                    found += [f"{path}/{problem}" for problem in _json_problem(file)]
    return found


def _listed(modules: Path) -> Iterator[dict[str, Any]]:
    content = json.loads(modules.read_text(encoding="utf-8"))
    yield from (module for module in content if isinstance(module, dict)) if isinstance(content, list) else ()


def _random_problems(folder: Path, ranks: Iterable[int] | None, deep: bool) -> list[str]:
    one, many = folder / "rng_state.pth", sorted(folder.glob("rng_state_*.pth"))
    there = [one] if one.is_file() else many
    found = [problem for path in there for problem in _torch_problem(path, ("python", "numpy", "cpu"), deep)]
    if not there:
        return ["rng_state.pth: is missing"]
    # Written by one process, or by more than there are now: whole, if not the same random numbers.
    wanted = [] if ranks is None or one.is_file() or list(ranks) == [0] else list(ranks)
    return found + [
        f"rng_state_{rank}.pth: is missing (resume with as many processes as wrote the checkpoint)"
        for rank in wanted
        if folder / f"rng_state_{rank}.pth" not in many
    ]


def _sharded_problems(folder: Path) -> list[str]:
    """FSDP: torch writes `.metadata` last. DeepSpeed: the file `latest` names the folder, and is written last."""
    parts = [path for path in [*folder.glob("optimizer*"), *folder.glob("pytorch_model_fsdp*")] if path.is_dir()]
    found = [f"{path.name}/.metadata: is missing" for path in parts if not (path / ".metadata").is_file()]
    full = [*folder.glob("optimizer.bin"), *folder.glob("pytorch_model_fsdp*.bin")]
    found += [problem for path in full for problem in _torch_problem(path, (), False)]
    latest = folder / "latest"
    if latest.is_file():
        name = latest.read_text(encoding="utf-8", errors="replace").strip()
        if Path(name).name != name or not any((folder / name).glob("*optim_states.pt")):
            found.append(f"latest: names {name!r}, where no optimizer state is")
    return found
