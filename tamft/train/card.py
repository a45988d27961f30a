"""The model card, README.md: what sentence-transformers writes, and how this model came to be.

Data, optimizer with its options, overlap, versions and command come from the run's record; the usage example is one
that runs. Scores are added later, as the standard `model-index` of the card's metadata.
"""

import json
import re
from pathlib import Path
from typing import Any

from tamft.atomic import write_atomically

NAME = "README.md"
BEGIN, END = "<!-- tamft: training run -->", "<!-- tamft: end -->"
BEFORE = ("\n## Training Details", "\n### Framework Versions", "\n## Citation")
# sentence-transformers' placeholder where a model has no name on the Hub.
_PLACEHOLDER = "sentence_transformers_model_id"
# Of the configuration: what decides the result. The whole of it is in run.json.
SETTINGS = (
    *("num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio"),
    *("weight_decay", "max_grad_norm", "per_device_train_batch_size", "gradient_accumulation_steps", "batch_sampler"),
    *("bf16", "fp16", "dtype", "max_seq_length", "query_prompt", "document_prompt", "scale", "matryoshka_dims"),
    *("gather_across_devices", "pooling", "append_eos", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"),
    *("use_rslora", "use_dora", "loraplus_lr_ratio", "load_in_4bit", "seed"),
)


def prepare(model: Any, base: str) -> None:
    """Tell sentence-transformers' card of prompts that were set since, and which model on the Hub this started from."""
    model.model_card_data.register_model(model)  # with prompts its example calls encode_query and encode_document
    if hub := _hub_name(base):
        model.model_card_data.base_model = hub


def write(folder: Path, content: dict[str, Any]) -> None:
    """Complete the card in `folder` with the run's record `content`; a card that has it already gets it anew."""
    from huggingface_hub import ModelCard

    path = folder / NAME
    if not path.is_file():
        return
    card = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    text = _runnable(re.sub(f"\n*{re.escape(BEGIN)}.*?{re.escape(END)}", "", card.text, flags=re.DOTALL))
    part = section(content, adapter=(folder / "adapter_config.json").is_file())
    place = next((text.index(mark) for mark in BEFORE if mark in text), len(text))
    card.text = f"{text[:place].rstrip()}\n\n{part}\n{text[place:]}"
    card.data.tags = list(dict.fromkeys([*(card.data.tags or []), "tamft"]))
    if hub := _hub_name(content["base_model"]["name"]):
        card.data.base_model = hub
    if dataset := _dataset(content):
        card.data.datasets = [dataset]
    write_atomically(path, str(card))


def section(content: dict[str, Any], *, adapter: bool) -> str:
    """The part of the card that tells of the run."""
    config, optimizer = content["config"], content["optimizer"]
    rows = [
        ("base model", _code(content["base_model"]["name"]) + _sha(content["base_model"].get("sha256"))),
        ("this folder", "a LoRA adapter; loading it loads the base model, too" if adapter else "the whole model"),
        ("loss", _code(config.get("loss"))),
        ("optimizer", _code(optimizer["name"]) + _options(optimizer["args"])),
        ("settings", ", ".join(_setting(key, config[key]) for key in SETTINGS if _said(config.get(key)))),
        ("steps", f"{content['steps']} of {_number(content['global_batch'])} rows, in {content['seconds']:.0f} s"),
        ("processes", _number(content["processes"])),
        ("negatives for each anchor", _number(content["negatives_per_anchor"])),
        ("device", content["device"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in content["versions"].items())),
        ("git commit", content["git"]),
    ]
    lines = [BEGIN, "## How it was trained", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows if value]
    lines += ["", "Data:", "", "| file or dataset | rows | sha256 |", "|---|---|---|"]
    lines += [f"| {_code(part['path'])} | {part['rows']:,} | {_code(part['sha256'])} |" for part in content["data"]]
    if overlap := content.get("overlap"):
        lines += ["", f"{overlap['texts']} of {overlap['of']} evaluation texts are training texts as well."]
    if command := content.get("command"):
        lines += ["", "```bash", command, "```"]
    return "\n".join([*lines, END])


def _runnable(text: str) -> str:
    """sentence-transformers' example names a model that does not exist."""
    text = text.replace(f'("{_PLACEHOLDER}")', '(".")')
    return text.replace(
        '# Download from the 🤗 Hub\nmodel = SentenceTransformer(".")',
        '# This folder; elsewhere its path, or its name on the Hub\nmodel = SentenceTransformer(".")',
    )


def _hub_name(name: str) -> str | None:
    """`owner/name` of a base model from the Hub (a commit behind @ cut off); None for a folder."""
    from tamft.train.models import MINILM, MINILM_HUB

    name = name.split("@")[0]
    if name == MINILM:  # its weights are checked against the published ones
        return MINILM_HUB
    return name if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not Path(name).exists() else None


def _dataset(content: dict[str, Any]) -> str | None:
    config = content["config"]
    return config.get("dataset") if not config.get("train_file") else None


def _options(args: dict[str, Any]) -> str:
    return f" ({', '.join(f'{key}={_plain(value)}' for key, value in args.items() if _said(value))})" if args else ""


def _setting(key: str, value: Any) -> str:
    return f"{key} {_plain(value)}"


def _said(value: Any) -> bool:
    return value is not None and value is not False and value != -1 and value != []


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text.replace("|", "\\|").replace("\n", " ")


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,}"


def _code(value: Any) -> str:
    return "" if value is None else f"`{str(value).replace('|', chr(92) + '|')}`"


def _sha(value: str | None) -> str:
    return f", sha256 `{value}`" if value else ""
