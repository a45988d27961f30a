"""An adapter: does it do anything, and does it belong to the model that it names?"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tamft.doctor.finding import PROBLEM, Finding
from tamft.hf.checkpoints import weight_files


def examine_adapter(folder: Path) -> Iterator[Finding]:
    """Findings about `adapter_model.safetensors` and `adapter_config.json` in `folder`."""
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        return  # weight_problems has said so, or it is a pickle
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        with safe_open(file, framework="pt") as weights:
            shapes = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
            second = [name for name in shapes if ".lora_B." in name]
            zero = [name for name in second if not weights.get_tensor(name).any()]
    except (OSError, ValueError, SafetensorError):
        yield Finding("adapter", "cannot be read", PROBLEM, "save it again")
        return
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if second and len(zero) == len(second):
        cure = "it was saved before training, or its weights were frozen: check requires_grad and the learning rate"
        yield Finding("adapter", "does nothing: every lora_B is zero, embeddings are the base model's", PROBLEM, cure)
    elif second:
        yield Finding("adapter", f"{len(second)} LoRA layers, {len(zero)} of them without effect; base model {base}")
    if isinstance(base, str) and Path(base).is_dir():
        yield from _fits(shapes, Path(base), config)


def _fits(adapter: dict[str, tuple[int, ...]], base: Path, config: dict[str, Any]) -> Iterator[Finding]:
    there: dict[str, tuple[int, ...]] = {}
    for file in weight_files(base):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as weights:
                there |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    if not there:
        return
    lost, other = [], []
    for name, shape in adapter.items():
        layer, kind, _ = name.removeprefix("base_model.model.").partition(".lora_A.")
        if not kind or len(shape) != 2:
            continue
        # A base model's file may name its layers with a prefix more, or less, than the model in memory.
        mine = [size for key, size in there.items() if _same_layer(key, f"{layer}.weight")]
        if not mine:
            lost.append(layer)
        elif shape[1] not in mine[0]:
            other.append(layer)
    cure = f"it was trained on another model than {base}: name the right one"
    if lost:
        yield Finding("adapter", f"{len(lost)} layers are not in the base model, such as {lost[0]}", PROBLEM, cure)
    if other:
        yield Finding("adapter", f"{len(other)} layers have another size, such as {other[0]}", PROBLEM, cure)
    if not lost and not other:
        yield Finding("adapter", f"fits its base model ({config.get('peft_type')}, r={config.get('r')})")


def _same_layer(one: str, other: str) -> bool:
    return one == other or one.endswith("." + other) or other.endswith("." + one)
