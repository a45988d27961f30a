"""The whole page: training runs, their scores, and what all of it depends on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tamft.atomic import write_atomically
from tamft.errors import InputError
from tamft.evaluation import figures
from tamft.evaluation.report import page, runs, scores
from tamft.evaluation.summary import Record, Summary, summarize


def write_report(folders: Sequence[Path], records: Sequence[Record], out: Path) -> None:
    """Write the page `out` about training runs and their scores, replacing it in one step.

    Args:
        folders: run folders (each with a run.json), in the order to show.
        records: of `tamft eval --json`. A record belongs to a run when its model is that run's model folder;
            every other model is a base model, and the first of them is what the differences are from.
        out: the .html file; its folder is made if need be.

    Raises:
        InputError: no run, a run.json that is missing, broken or of another schema, or matplotlib is not installed.
    """
    if not folders:
        raise InputError("no runs: a report needs at least one run folder")
    figures.check_matplotlib()
    content = [runs.read_run(folder) for folder in folders]
    by_label = dict(zip(runs.run_labels(folders, content), content, strict=True))
    renamed = _by_label(dict(zip(by_label, folders, strict=True)), by_label, records)
    names = {label: label for label in dict.fromkeys(r["model"] for r in renamed)}
    write_page(make_page(by_label, summarize(renamed, names=names) if renamed else None), out)


def write_page(text: str, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, text)


def make_page(trained: Mapping[str, runs.Run], summary: Summary | None, *, command: str | None = None) -> str:
    """The page about runs by their labels and about scores; one of the two may be missing.

    A model of the summary that is named like a run is that run's. `command`: what made the page.
    """
    sections: dict[str, str] = {}
    facts: list[tuple[str, object]] = []
    notice: list[str] = []
    title, below = "", ""
    if trained:
        sections["Runs"] = runs.run_table(trained)
        notice += runs.warnings(trained)
        title = f"Fine-tuning with {_some(list(trained))}"
        first = next(iter(trained.values()))
        below = f"{first['base_model']['name']} · {first['device']}"
    if summary is not None:
        numbers = scores.colours(summary, list(trained))
        sections["Scores"] = scores.score_table(summary, numbers) + scores.score_plots(summary, numbers)
        sections["What else to know"] = scores.remarks(summary)
        sections["What the scores show, and what they do not"] = scores.reading()
        notice = scores.warnings(summary) + notice
        facts += scores.provenance(summary)
        if not trained:
            title = f"Scores of {_some([summary.labels[m] for m in summary.models])}"
            below = f"{len(summary.models)} models, {len(summary.of('task'))} tasks"
    if trained:
        sections["Training"] = runs.curves(trained)
        facts += runs.provenance(trained)
    facts += [("report", command)] if command else []
    sections["Provenance"] = page.facts([*facts, page.written()])
    if summary is not None:
        data = scores.data(summary)
        sections["Provenance"] += page.facts(data, folded=f"Revisions of the data of {len(data)} tasks")
    return page.page(title, below, sections, notice)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _by_label(folders: Mapping[str, Path], trained: Mapping[str, runs.Run], records: Sequence[Record]) -> list[Record]:
    """The records with the labels of their runs as models: base models first, then the runs in their order."""
    places = {
        (folders[label] / run["model_dir"]).resolve(): label for label, run in trained.items() if run["model_dir"]
    }
    others = {r["model"] for r in records if Path(r["model"]).resolve() not in places}
    found: dict[str, list[Record]] = {}
    for record in records:
        label = places.get(Path(record["model"]).resolve())
        label = label or ("base" if len(others) == 1 else f"base: {record['model']}")
        found.setdefault(label, []).append({**record, "model": label})
    order = [*(label for label in found if label not in trained), *(label for label in trained if label in found)]
    return [record for label in order for record in found[label]]
