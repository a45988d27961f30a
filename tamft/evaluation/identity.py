"""Which model is this? A name and a revision that change exactly when the scores can change.

mteb names every local model "no_model_name/available" and would serve the first one's scores for the second, and a
tuned model that came from the Hub keeps its base's name. So every model gets an identity here before mteb sees it.
"""

import fnmatch
import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from tamft import fingerprints
from tamft.atomic import write_atomically
from tamft.errors import InputError
from tamft.evaluation.folder import check_folder

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Left behind by training or meant for people: they cannot change an embedding. Everything else counts, because a
# file wrongly counted costs one more run and a file wrongly left out serves the scores of another model.
SKIPPED_FOLDERS = (".*", "checkpoint-*", "runs", "logs", "eval", "onnx", "openvino", "__pycache__")
SKIPPED_FILES = (
    *(".*", "*.md", "*.csv", "*.png", "*.log", "*.tmp", "events.out.tfevents*"),
    *("training_args.bin", "trainer_state.json", "run.json"),
    *("optimizer.*", "scheduler.*", "scaler.*", "rng_state*"),
    fingerprints.NAME,
)


@dataclass(frozen=True)
class Identity:
    """A model's identity. `folder` is None for a Hub model, `base` is what a LoRA adapter was trained on."""

    typed: str
    name: str
    revision: str
    folder: Path | None = None
    base: "Identity | None" = None


def identify(model: str) -> Identity:
    """Identity of a local folder, a LoRA adapter folder or a Hub name (`organization/model`).

    Local: `local/<folder>` @ the first 16 hex digits of a sha256 over the model's files, and over its base model's
    revision for an adapter. Hub: the name @ the commit.

    Raises:
        InputError: there is no such model, the folder holds no sentence embedding model, or a file is cut off.
    """
    path = Path(model).expanduser()
    if path.exists():
        return _identify_folder(model, path.resolve())
    if not HUB_NAME.fullmatch(model):
        raise InputError(f"model {model!r}: no such folder; give a model folder, or a Hub name like organization/model")
    return _identify_hub(model)


def _identify_folder(typed: str, folder: Path) -> Identity:
    check_folder(typed, folder, relevant_files(folder))
    base = _adapter_base(typed, folder)
    digest = hashlib.sha256(folder_digest(folder))
    if base is not None:
        digest.update(f"base {base.revision}".encode())
    return Identity(typed, f"local/{folder.name}", digest.hexdigest()[:16], folder, base)


def _identify_hub(name: str) -> Identity:
    commit = _hub_commit(name)
    folder = _hub_adapter_folder(name, commit)
    if folder is None:
        return Identity(name, name, commit)
    check_folder(name, folder, relevant_files(folder))
    return Identity(name, name, commit, folder, _adapter_base(name, folder))


def _adapter_base(typed: str, folder: Path) -> Identity | None:
    """Identity of the base model of an adapter folder; None if `folder` is not an adapter."""
    config = folder / "adapter_config.json"
    if not config.exists():
        return None
    try:
        name = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise InputError(f"model {typed!r}: adapter_config.json is not valid JSON ({error}); save it again") from None
    if not name:
        raise InputError(
            f"model {typed!r}: adapter_config.json names no base_model_name_or_path; train it with "
            "model.add_adapter(LoraConfig(...)) and save it with model.save_pretrained(folder)"
        )
    if (Path(name) / "adapter_config.json").exists():
        raise InputError(f"model {typed!r}: its base {name!r} is an adapter too; merge that one into its base first")
    try:
        return identify(name)
    except InputError as error:
        raise InputError(
            f"model {typed!r}: the adapter's base model cannot be used: {error}; "
            "or correct base_model_name_or_path in adapter_config.json"
        ) from None


# --- files and their hashes -------------------------------------------------------------------------------------------


def relevant_files(folder: Path) -> list[Path]:
    """The files below `folder` that can change an embedding, sorted by relative path; links are followed."""
    found: list[Path] = []
    seen: set[Path] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root)
        if here.resolve() in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = [f for f in folders if not _matches(f, SKIPPED_FOLDERS)]
        found += [here / f for f in files if not _matches(f, SKIPPED_FILES)]
    return sorted(found, key=lambda f: f.relative_to(folder).as_posix())


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def folder_digest(folder: Path) -> bytes:
    """sha256 (32 bytes) over the sorted (relative path, sha256 of the bytes) of the folder's relevant files."""
    known = _read_hashes()
    new: dict[str, str] = {}
    digest = hashlib.sha256()
    for file in relevant_files(folder):
        stat = file.stat()
        key = f"{file}|{stat.st_size}|{stat.st_mtime_ns}"
        value = known.get(key)
        if value is None:
            with file.open("rb") as stream:
                value = hashlib.file_digest(stream, "sha256").hexdigest()
            # A file touched a moment ago may be written again within the clock's resolution: not remembered.
            if time.time_ns() - stat.st_mtime_ns > 2_000_000_000:
                new[key] = value
        path = file.relative_to(folder).as_posix()
        digest.update(f"{len(path)} {path} {value}\n".encode())
    if new:
        _remember_hashes(new)
    return digest.digest()


def _hash_file() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "tamft" / "hashes.json"


def _read_hashes() -> dict[str, str]:
    try:
        known = json.loads(_hash_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # no file yet, not readable, or no home folder: hash again
        return {}
    return known if isinstance(known, dict) else {}


def _remember_hashes(new: dict[str, str]) -> None:
    try:
        path = _hash_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        known = {key: value for key, value in _read_hashes().items() if Path(key.split("|")[0]).exists()}
        write_atomically(path, json.dumps(known | new))
    except (OSError, RuntimeError):  # a read-only home costs time, nothing else
        return


# --- the Hub ----------------------------------------------------------------------------------------------------------


def _hub_commit(name: str) -> str:
    """The commit that is scored: the one mteb's registry pins (its published scores are of it), else the newest."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    from mteb.models.model_implementations import MODEL_REGISTRY

    meta = MODEL_REGISTRY.get(name)
    if meta is not None:
        loader = getattr(meta.loader, "func", meta.loader)
        module = getattr(loader, "__module__", "")
        if module not in ("mteb.models.sentence_transformer_wrapper", "mteb.models.instruct_wrapper"):
            raise InputError(
                f"model {name!r}: mteb loads it with a program of its own ({module}), which may run code that was "
                "downloaded; run it with mteb itself"
            )
    pinned = meta.revision if meta is not None else None
    if not constants.HF_HUB_OFFLINE:
        try:
            return str(HfApi().model_info(name, revision=pinned, timeout=20).sha)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise InputError(
                f"model {name!r}: no such folder here and no such model on the Hub; check the spelling, "
                "or log in with `hf auth login` if it is private"
            ) from None
        except Exception:  # noqa: BLE001 - every HTTP library fails in its own way; the local copy may still be there
            pass
    try:
        return Path(snapshot_download(name, revision=pinned, local_files_only=True)).name
    except Exception as error:  # noqa: BLE001 - whatever the reason, there is no copy here and no way to the Hub
        wanted = f" --revision {pinned}" if pinned else ""
        raise InputError(
            f"model {name!r}: no such folder here, not in the local Hub cache, and the Hub cannot be reached "
            f"({type(error).__name__}); check the path, or run `hf download {name}{wanted}` where there is a network"
        ) from None


def _hub_adapter_folder(name: str, commit: str) -> Path | None:
    """Local copy of a Hub repository that holds a LoRA adapter; None for an ordinary model."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        hf_hub_download(name, "adapter_config.json", revision=commit)
    except EntryNotFoundError:  # also raised offline for a file that is not in the cache
        return None
    return Path(snapshot_download(name, revision=commit))
