"""Is this folder a sentence embedding model, and are its files whole? Found out before any work is done."""

import json
import struct
from pathlib import Path

from tamft.errors import InputError

MARKERS = ("modules.json", "config.json", "adapter_config.json")


def check_folder(typed: str, folder: Path, files: list[Path]) -> None:
    """Raise InputError unless `folder` (its `files` already listed) can be loaded as a SentenceTransformer.

    Checks the marker files, the kind of model, that no module needs code of its own, that there are weights, and that
    every safetensors file is as long as its header says.
    """
    if not folder.is_dir():
        raise InputError(f"model {typed!r}: this is a file; give the folder that holds the model")
    if not any((folder / marker).is_file() for marker in MARKERS):
        inner = sorted(m.parent.name for marker in MARKERS for m in folder.glob(f"*/{marker}"))
        hint = f"did you mean {Path(typed) / inner[0]}?" if inner else "give a folder made by model.save_pretrained()"
        raise InputError(f"model {typed!r}: not a model folder (it has none of {', '.join(MARKERS)}); {hint}")
    for module in _read_json(typed, folder / "modules.json") or []:
        if not str(module.get("type", "")).startswith("sentence_transformers."):
            raise InputError(
                f"model {typed!r}: its module {module.get('type')!r} needs Python code that came with the model; "
                "tamft runs no such code"
            )
        if module["type"].endswith(("Pooling", "Dense")) and not (folder / module["path"] / "config.json").is_file():
            raise InputError(f"model {typed!r}: {module['path']}/config.json is missing; copy or save the model again")
    config = _read_json(typed, folder / "config_sentence_transformers.json") or {}
    kind = config.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise InputError(f"model {typed!r}: this is a {kind}; only SentenceTransformer models can be scored")
    _check_weights(typed, folder, files)


def _read_json(typed: str, path: Path) -> list | dict | None:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"model {typed!r}: {path.name} is not valid JSON ({error}); copy or save the model again"
        ) from None


def _check_weights(typed: str, folder: Path, files: list[Path]) -> None:
    weights = [file for file in files if file.suffix in (".safetensors", ".bin", ".pt")]
    if not weights:
        raise InputError(f"model {typed!r}: the folder has no weights (*.safetensors); copy or save the model again")
    for index in folder.rglob("*.safetensors.index.json"):
        for shard in set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()):
            if not (index.parent / shard).is_file():
                raise InputError(f"model {typed!r}: the weights file {shard} is missing; copy the model again")
    for file in weights:
        if file.suffix == ".safetensors":
            problem = safetensors_problem(file)
            if problem:
                raise InputError(f"model {typed!r}: {file.name} is damaged: {problem}; copy or save the model again")


def safetensors_problem(file: Path) -> str | None:
    """Why a safetensors file cannot be whole (None if it looks whole): the header is read, the tensors are not."""
    size = file.stat().st_size
    if size < 8:
        return f"it has {size} bytes"
    with file.open("rb") as stream:
        start = stream.read(8)
        if start == b"version ":
            return "it is a Git LFS pointer, not the weights (run `git lfs pull`)"
        (length,) = struct.unpack("<Q", start)
        if length > size - 8:
            return f"its header should be {length} bytes, the whole file has {size}"
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return "its header cannot be read"
    expected = 8 + length + max(ends, default=0)
    return None if size == expected else f"it should have {expected} bytes and has {size}"
