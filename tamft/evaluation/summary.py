"""Scores side by side: by task, by task type, and their means, as mteb's leaderboard computes them.

Nothing here reads or writes a file. What is not there is a word and never a number: a task without a score is
"missing", "failed" or "incomplete" (some of its splits or subsets are missing), and so is every mean it would go into.
"mixed" is a mean over results of different versions of mteb or of the data, which nobody asked for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from tamft.evaluation import overlap

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from mteb.abstasks.task_metadata import TaskMetadata

Record = dict[str, Any]  # one of `tamft eval --json`
Score = float | str
MISSING, FAILED, INCOMPLETE, MIXED = "missing", "failed", "incomplete", "mixed"
SYNTHETIC = "Embedded"  # the names of the tasks that tamft makes itself begin with this


@dataclass(frozen=True)
class Row:
    """One line of a table: the scores of all models for a task, a task type, or a mean."""

    kind: str  # "task", "type", "mean_task", "mean_task_type" or "mean_shared"
    name: str
    type: str | None
    metric: str | None
    tasks: tuple[str, ...]
    scores: dict[str, Score]  # by model; the first is the one that differences are from
    comparable: bool = True  # False: versions differ, so there is neither a difference nor a best one

    def difference(self, model: str) -> float | None:
        """From the first model's score; None for the first itself and where one of the two is missing."""
        first = next(iter(self.scores))
        score, base = self.scores[model], self.scores[first]
        if model == first or not self.comparable or isinstance(score, str) or isinstance(base, str):
            return None
        return score - base

    def is_best(self, model: str) -> bool:
        """Equal at the four digits that are shown is equal: nobody should see a winner between two 0.8004."""
        shown = {m: round(s, 4) for m, s in self.scores.items() if not isinstance(s, str)}
        return self.comparable and len(set(shown.values())) > 1 and shown.get(model) == max(shown.values())


@dataclass(frozen=True)
class Summary:
    """What a table, a page or a file shows. `models`: the columns, the baseline first; `labels`: their short names."""

    models: tuple[str, ...]
    labels: dict[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    records: tuple[Record, ...]

    def of(self, kind: str) -> list[Row]:
        return [row for row in self.rows if row.kind == kind]


def labels(models: Sequence[str]) -> dict[str, str]:
    """A short, distinct name for each model as typed: as few parts of the end of its path as tell them apart."""
    parts = {model: [p for p in PurePath(model).parts if p not in ("/", ".", "..", "~")] or [model] for model in models}
    # every tamft run calls its model folder "model": one part more says whose
    length = 2 if any(p[-1] == "model" for p in parts.values()) else 1
    longest = max((len(p) for p in parts.values()), default=1)
    short = {model: "/".join(p[-length:]) for model, p in parts.items()}
    while len(set(short.values())) < len(short) and length < longest:
        length += 1
        short = {model: "/".join(p[-length:]) for model, p in parts.items()}
    return short if len(set(short.values())) == len(short) else {model: model for model in models}


def summarize(
    records: Sequence[Record],
    *,
    baseline: str | None = None,
    tasks: Sequence["AbsTask"] | None = None,
    names: Mapping[str, str] | None = None,
    mix_versions: bool = False,
) -> Summary:
    """Put the scores of several models side by side.

    A task's score is the mean over its splits and subsets; a type's the mean over its tasks; then there are the mean
    over all tasks and the mean over the types' means. As on mteb's leaderboard, a mean of which a part is missing is
    missing, and a task of which some split or subset is missing has no score. A last row is the mean over those tasks
    that all models have.

    Args:
        records: of `tamft eval --json`; a model is what their key "model" says.
        baseline: one of the models: it comes first, and differences are from it. None: the first one.
        tasks: the tasks to show, with their splits and subsets; what no model has is missing. None: all in `records`.
        names: short names of the models; None: the ends of their paths.
        mix_versions: also compare, and average over, results of different versions of mteb or of the data.
    """
    types = _types(records, tasks)
    if tasks is not None:
        records = [r for r in records if any(_belongs(r, task) for task in tasks)]
    models = list(dict.fromkeys(r["model"] for r in records))
    if baseline is not None:
        models = [baseline, *(m for m in models if m != baseline)]
    by_cell: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        by_cell.setdefault((record["model"], record["task"]), []).append(record)
    wanted = _required(records, tasks)
    order = list(dict.fromkeys(types.values()))
    metrics = {r["task"]: r.get("metric") for r in records} | {
        t.metadata.name: t.metadata.main_score for t in tasks or ()
    }
    rows = []
    for task in sorted(wanted, key=lambda task: order.index(types[task])):
        scores = {m: _task_score(by_cell.get((m, task), []), wanted[task]) for m in models}
        rows.append(Row("task", task, types[task], metrics[task], (task,), scores))
    pinned = {t.metadata.name: t.metadata.revision for t in tasks or ()}
    short = dict(names) if names is not None else labels(models)
    versions = _Versions(records, pinned, short)
    if not mix_versions:
        rows = [_unless_mixed(row, versions) for row in rows]
    rows += _means(rows, types, versions, mix_versions)
    said = [*versions.notes(mix_versions), *notes(records, short), *_incomplete(rows, by_cell, wanted, short)]
    return Summary(tuple(models), short, tuple(rows), tuple(said), tuple(records))


# --- scores and means -------------------------------------------------------------------------------------------------


def _belongs(record: Record, task: "AbsTask") -> bool:
    """Whether a record is of one of the splits and subsets that the task, as it is configured, has."""
    subsets = ["default"] if task.is_aggregate else task.hf_subsets
    return record["task"] == task.metadata.name and record["split"] in task.eval_splits and record["subset"] in subsets


def _required(records: Sequence[Record], tasks: Sequence["AbsTask"] | None) -> dict[str, int]:
    """How many (split, subset) a complete result of each task has.

    Without `tasks` that is every split × every subset for which any model has a score: the rule of mteb's leaderboard.
    """
    if tasks is not None:
        return {t.metadata.name: len(t.eval_splits) * (1 if t.is_aggregate else len(t.hf_subsets)) for t in tasks}
    found = {}
    for task in dict.fromkeys(r["task"] for r in records):
        ok = [r for r in records if r["task"] == task and r["status"] == "ok"]
        found[task] = len({r["split"] for r in ok}) * len({r["subset"] for r in ok})
    return found


def _task_score(mine: Sequence[Record], required: int) -> Score:
    states = {r["status"] for r in mine}
    if states != {"ok"}:
        return FAILED if FAILED in states else MISSING
    if len({(r["split"], r["subset"]) for r in mine}) < required:
        return INCOMPLETE
    return float(sum(r["main_score"] for r in mine) / len(mine))


def _mean(rows: Sequence[Row], model: str) -> Score:
    """Mean over rows; a word if one of them has none: never over fewer rows than it says."""
    scores = [row.scores[model] for row in rows]
    words = [score for score in scores if isinstance(score, str)]
    if words:
        return MIXED if MIXED in words else MISSING
    return sum(float(score) for score in scores) / len(scores)


def _means(rows: Sequence[Row], types: Mapping[str, str], versions: "_Versions", mix_versions: bool) -> list[Row]:
    """The rows of the types' means and of the means over all."""
    models = list(rows[0].scores) if rows else []
    by_type: dict[str, list[Row]] = {}
    for row in rows:
        by_type.setdefault(types[row.name], []).append(row)

    def row(kind: str, name: str, over: Sequence[Row], of: str | None = None) -> Row:
        tasks = tuple(task for part in over for task in part.tasks)
        made = Row(kind, name, of, None, tasks, {m: _mean(over, m) for m in models})
        return made if mix_versions else _unless_mixed(made, versions, MIXED)

    type_rows = [row("type", f"{kind}, mean of {len(over)}", over, kind) for kind, over in by_type.items()]
    found: list[Row] = []
    if len(type_rows) > 1 and any(len(over) > 1 for over in by_type.values()):  # else they are the tasks once more
        found += type_rows
    if len(rows) > 1:
        found.append(row("mean_task", f"mean over {len(rows)} tasks", rows))
    if len(type_rows) > 1:
        found.append(row("mean_task_type", f"mean over {len(type_rows)} task types", type_rows))
    shared = [r for r in rows if not any(isinstance(score, str) for score in r.scores.values())]
    if 1 < len(shared) < len(rows):
        found.append(row("mean_shared", f"mean over the {len(shared)} of {len(rows)} tasks that all have", shared))
    return found


def _unless_mixed(row: Row, versions: "_Versions", word: str | None = None) -> Row:
    """The row as it is, or, where versions differ, without differences and, with a `word`, without numbers."""
    if not versions.differ(row.tasks):
        return row
    scores = {m: s if isinstance(s, str) or word is None else word for m, s in row.scores.items()}
    return replace(row, scores=scores, comparable=False)


# --- versions ---------------------------------------------------------------------------------------------------------


class _Versions:
    """Which versions of mteb and of the data the scores are from, and who has which."""

    def __init__(self, records: Sequence[Record], pinned: Mapping[str, str], short: Mapping[str, str]) -> None:
        self.mteb: dict[str, dict[str, list[str]]] = {}  # task -> version -> models
        self.data: dict[str, dict[str, list[str]]] = {}
        for task, revision in pinned.items():
            self.data[task] = {str(revision): ["the suite"]}
        for r in records:
            if r["status"] == "ok":
                for found, key in ((self.mteb, "mteb_version"), (self.data, "dataset_revision")):
                    models = found.setdefault(r["task"], {}).setdefault(str(r.get(key)), [])
                    models += [short[r["model"]]] if short[r["model"]] not in models else []

    def differ(self, tasks: Iterable[str]) -> bool:
        """Whether a row over these tasks would put different versions of mteb, or of a task's data, together."""
        tasks = list(tasks)
        mteb = {version for task in tasks for version in self.mteb.get(task, {})}
        return len(mteb) > 1 or any(len(self.data.get(task, {})) > 1 for task in tasks)

    def notes(self, mix_versions: bool) -> list[str]:
        """One line for mteb and one for each task whose data differ."""
        shown = "shown together as asked" if mix_versions else "no differences, no means (--mix_versions shows them)"
        lines = []
        all_mteb: dict[str, list[str]] = {}
        for found in self.mteb.values():
            for version, models in found.items():
                seen = all_mteb.setdefault(version, [])
                seen += [m for m in models if m not in seen]
        if len(all_mteb) > 1:
            lines.append(f"WARNING mteb versions differ: {_who(all_mteb)}; {shown}")
        for task, found in self.data.items():
            if len(found) > 1:
                lines.append(f"WARNING {task}: the data's revisions differ: {_who(found)}; {shown}")
        return lines


def _who(found: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{version[:12]} ({', '.join(models)})" for version, models in found.items())


# --- what the reader must know ----------------------------------------------------------------------------------------


def notes(records: Sequence[Record], short: Mapping[str, str] | None = None) -> list[str]:
    """One line for each thing the reader must know, once: what failed, what is missing, what a score hides.

    `short`: how the table calls the models; None: the ends of their paths.
    """
    short = short or labels(list(dict.fromkeys(r["model"] for r in records)))
    lines: dict[str, None] = {}
    for r in records:
        model, reason = short[r["model"]], r["reason"]
        if r["status"] == "ok":
            lines |= {f"WARNING {model}: {reason}": None} if reason else {}
        elif r["status"] == MISSING:
            lines[f"missing {r['task']}: {reason}" if reason else f"missing {r['task']} with {model}"] = None
        else:
            lines[f"failed  {r['task']} with {model}: {reason}"] = None
    return [*lines, *overlap.notes(records, short)]


def _incomplete(
    rows: Sequence[Row],
    by_cell: Mapping[tuple[str, str], Sequence[Record]],
    wanted: Mapping[str, int],
    short: Mapping[str, str],
) -> list[str]:
    lines = []
    for row in rows:
        if row.kind == "task":
            for model, score in row.scores.items():
                mine = by_cell.get((model, row.name), [])
                if score == INCOMPLETE:
                    lines.append(
                        f"incomplete {row.name} with {short[model]}: {len(mine)} of {wanted[row.name]} "
                        "combinations of split and subset"
                    )
                elif score == MISSING and not mine:
                    lines.append(f"missing {row.name} with {short[model]}: no result")
    return lines


def _types(records: Sequence[Record], tasks: Sequence["AbsTask"] | None) -> dict[str, str]:
    """The task types, as far as suite, record, mteb or the embedded tasks know them; "other" otherwise."""
    known = {t.metadata.name: str(t.metadata.type) for t in tasks or ()}
    for r in records:
        if r["task"] not in known:
            task = find_task(r["task"])
            known[r["task"]] = r.get("type") or (str(task.type) if task is not None else "other")
    return known


def find_task(name: str) -> "TaskMetadata | None":
    """What mteb, or tamft for the tasks it makes itself, knows about a task; None for a task of somebody's own."""
    from mteb.get_tasks import _TASKS_REGISTRY

    from tamft.evaluation.embedded import TASKS

    found = _TASKS_REGISTRY.get(name) or TASKS.get(name)
    return found.metadata if found is not None else None
