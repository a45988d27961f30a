"""Scores into the model card: the `model-index` of a model folder's README.md, in the form that mteb gives it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tamft.atomic import write_atomically
from tamft.errors import InputError
from tamft.evaluation.report.runs import read_run
from tamft.evaluation.summary import SYNTHETIC, Record, find_task, labels

SOURCE = {"name": "MTEB", "url": "https://github.com/embeddings-benchmark/mteb/"}
KEY = "model-index"


@dataclass(frozen=True)
class Change:
    """A card as it is and as it will be, and how many scores it will have."""

    path: Path
    old: str | None
    new: str
    scores: int

    def write(self) -> None:
        """Replace the card in one move; nothing is written where nothing changes."""
        if self.new != self.old:
            write_atomically(self.path, self.new)


def prepare(folder: Path, records: Sequence[Record]) -> Change:
    """What writing the scores of the model in `folder` into its README.md changes; nothing is written yet.

    Results whose source is MTEB are replaced, so that a second time changes nothing; every other result, key, comment
    and line of the card stays as it is. Embedded tasks are a smoke test and are left out.

    Args:
        folder: a model folder, or a run folder; a Hub model's card is its author's business.
        records: of any models; those of this one, as its files are now, are taken.

    Raises:
        InputError: no such folder, no scores of the model as it is now, or a card whose metadata cannot be read.
    """
    from tamft.evaluation.identity import identify

    if not folder.is_dir():
        raise InputError(f"--card {folder}: no such folder; give a model's folder (a Hub model's card is not changed)")
    if (folder / "run.json").is_file():
        folder = folder / (read_run(folder).get("model_dir") or "model")
    identity = identify(str(folder))
    mine = [r for r in records if (r["name"], r["revision"]) == (identity.name, identity.revision)]
    if not mine:
        other = sorted({f"{r['name']} @ {r['revision']}" for r in records})
        raise InputError(
            f"--card {folder}: it is {identity.name} @ {identity.revision} now, and these are scores of "
            f"{', '.join(other[:4])}; score it again"
        )
    ok = [r for r in mine if r["status"] == "ok" and not r["task"].startswith(SYNTHETIC)]
    if not ok:
        raise InputError(f"--card {folder}: none of its scores belongs into a card (failed, missing, or a smoke test)")
    path = folder / "README.md"
    # decoded here and not by read_text: line ends stay as they are
    old = path.read_bytes().decode("utf-8-sig") if path.exists() else None
    name = labels([str(folder.resolve())])[str(folder.resolve())]
    return Change(path, old, with_scores(old or "", ok, path, name=name), len(ok))


def with_scores(card: str, records: Sequence[Record], path: Path, *, name: str) -> str:
    """The text of a card with these scores in its metadata. `name`: of the model, if the card has none yet."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK
    from huggingface_hub.repocard_data import eval_results_to_model_index
    from huggingface_hub.utils import yaml_dump

    end = "\r\n" if "\r\n" in card else "\n"
    block = REGEX_YAML_BLOCK.search(card)
    text = block.group(2) if block else ""
    data = _metadata(text, path)
    try:
        index = data.get(KEY) or [{"name": name, "results": []}]
        kept = [{**model, "results": [r for r in model["results"] if not _is_ours(r)]} for model in index]
        for record in records:  # one by one: two tasks on one data set would become one result
            kept[0]["results"] += eval_results_to_model_index(name, [_entry(record)])[0]["results"]
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: its {KEY} is not of the usual form ({error!r}); mend or delete it") from None
    lines = yaml_dump({KEY: kept}, sort_keys=False).rstrip("\n").split("\n")
    made = end.join(_replace_key(text.splitlines(), lines))
    try:
        same = repr(yaml.safe_load(made)) == repr({**data, KEY: kept})  # as text, because a score may be NaN
    except yaml.YAMLError:
        same = False
    if not same or (KEY in data and not any(line.startswith(f"{KEY}:") for line in text.splitlines())):
        raise InputError(f"{path}: its {KEY} cannot be replaced without touching the rest; write it in block style")
    if block:
        return card[: block.start(2)] + made + card[block.end(2) :]
    return f"---{end}{made}{end}---{end}{end}{card or f'# {name}{end}'}"


def _metadata(text: str, path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path}: its metadata is not valid YAML ({str(error).splitlines()[0]}); mend it") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: its metadata is not a list of keys and values; mend it")
    return data


def _replace_key(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """The lines of a YAML mapping with one key's lines replaced, or added at the end: the others keep their form."""
    start = next((i for i, line in enumerate(old) if line.startswith(f"{KEY}:")), len(old))
    stop = start + 1
    while stop < len(old) and (not old[stop].strip() or old[stop][0] in " -"):
        stop += 1
    return [*old[:start], *new, *old[stop:]]


def _is_ours(result: dict[str, Any]) -> bool:
    return (result.get("source") or {}).get("url") == SOURCE["url"]


def _entry(record: Record) -> Any:
    from huggingface_hub import EvalResult

    task = find_task(record["task"])
    path = task.dataset["path"] if task is not None else record["task"]
    return EvalResult(
        task_type=task._hf_task_type()[0] if task is not None else "other",
        task_name=task.type if task is not None else record.get("type") or "other",
        dataset_type=path,
        dataset_name=f"{record['task']} ({record['subset']})",
        dataset_config=record["subset"],
        dataset_split=record["split"],
        dataset_revision=record["dataset_revision"],
        metric_type=record["metric"],
        metric_name=record["metric"],
        metric_value=record["main_score"],
        source_name=SOURCE["name"],
        source_url=SOURCE["url"],
    )
