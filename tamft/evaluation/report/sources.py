"""From the paths that `tamft report` is given to records: who is who, what belongs together, what is shown."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tamft.errors import InputError
from tamft.evaluation.report import files
from tamft.evaluation.report.runs import Run, read_run, run_labels
from tamft.evaluation.summary import Record, labels

# A table of more published models is read by nobody; the results repository has a thousand.
PUBLISHED_AT_MOST = 40


@dataclass
class Found:
    """Records whose key "model" is a name for the table, the runs among the models by that name, and remarks."""

    records: list[Record] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def find(
    paths: Sequence[Path],
    *,
    results: Path = Path("results"),
    published: Path | None = None,
    models: Sequence[str] | None = None,
    baseline: str | None = None,
) -> Found:
    """Read everything that the paths lead to.

    Args:
        paths: results folders, record files, run folders, a clone of mteb's results repository.
        results: where the scores of run folders are, if no other path holds scores.
        published: a folder of results in mteb's format to show beside those of `paths`: of their tasks, splits and
            subsets only.
        models: which of the published models to show; if nothing is published, which of all, or, if only run folders
            were given, which others from `results`: names, ends of names, or patterns such as intfloat/*.
        baseline: a model that is shown although only run folders were given.

    Raises:
        InputError: a path that is not there or is nothing of the kind, a damaged record file, no scores at all.
    """
    found = Found()
    folders = [path for path in paths if (path / "run.json").is_file()]
    trained = [read_run(folder) for folder in folders]
    others = [path for path in paths if path not in folders]
    only_runs = bool(folders) and not others
    if only_runs and not results.is_dir():
        raise InputError(_unscored(folders[0], results))
    for path in others or [results]:
        found.records += _read(path, None if published is not None or only_runs else models)
    found.records = _once(found)
    by_label = dict(zip(run_labels(folders, trained), zip(folders, trained, strict=True), strict=True))
    scored = _attach(by_label, found, results if only_runs else None)
    _rename(found.records, scored)
    if only_runs:
        keep = set(scored.values())
        if not keep:
            raise InputError(_unscored(folders[0], results))
        if published is None:
            keep |= {find_model(baseline, found.records)} if baseline is not None else set()
            keep |= {r["model"] for r in found.records if models is not None and _is_wanted(r, models)}
        found.records = [r for r in found.records if r["model"] in keep]
    if not found.records:
        of = f" of {', '.join(models)}" if models else ""
        raise InputError(f"no scores{of} in {', '.join(map(str, paths))}; score models with `tamft eval` first")
    found.runs = {label: run for label, (_, run) in by_label.items()}
    if published is not None:
        found.records += _beside(found, published, models)
    return found


def _read(path: Path, models: Sequence[str] | None) -> list[Record]:
    if path.is_file():
        return [{**r, "typed": r["model"]} for r in files.read_records(path) if _is_wanted(r, models)]
    return list(files.as_records(files.read_results(_root(path), models)))


def _is_wanted(record: Record, models: Sequence[str] | None) -> bool:
    return any(files.is_wanted(record[key], models) for key in ("name", "model"))


def _root(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; give a results folder, a --json file or a run folder")
    root = files.result_root(path)
    if root is None:
        inside = sorted(str(p.parent) for p in path.glob("*/run.json"))
        hint = f"did you mean {' '.join(inside[:3])}?" if inside else "it has no results/<model>/<revision>/<task>.json"
        raise InputError(f"{path}: neither a results folder nor a run folder; {hint}")
    return root


def _once(found: Found) -> list[Record]:
    """One record for each model, task, split and subset, and one name for each model.

    A model is an identity, and, where an identity was scored in several precisions, one of these.
    """
    typed = {_identity(r): r["typed"] for r in reversed(found.records) if r.get("typed")}
    precisions: dict[Any, dict[str, None]] = {}
    for r in found.records:
        precisions.setdefault(_identity(r), {}).update({r["dtype"]: None} if r.get("dtype") else {})
    kept: dict[tuple[Any, ...], Record] = {}
    for record in found.records:
        identity, of = _identity(record), list(precisions[_identity(record)])
        precision = (record.get("dtype") or of[0]) if len(of) > 1 else None
        # not what was typed: a folder that was trained again is another model under the same name
        model = f"{record['name']} @ {record['revision']}" + (f", {precision}" if precision else "")
        record |= {"model": model, "typed": typed.get(identity), "precision": precision}
        key = (record["model"], record["task"], record["split"], record["subset"])
        first = kept.get(key)
        if first is None or (first["status"] != "ok" and record["status"] == "ok"):
            kept[key] = record
        elif record["status"] == "ok" and abs(record["main_score"] - first["main_score"]) > 5e-7:  # mteb's six digits
            name, part = record["typed"] or record["model"], f"({record['split']}, {record['subset']})"
            two = f"{first['main_score']:.6f} in one place and {record['main_score']:.6f} in another"
            found.remarks.append(f"WARNING {name}: {record['task']} {part} is {two}; the first is shown")
    # a file that cannot be read has neither split nor subset: whoever has the task's scores needs it no more
    done = {(r["model"], r["task"]) for r in kept.values() if r["status"] == "ok"}
    return [r for r in kept.values() if r["split"] or (r["model"], r["task"]) not in done]


def _identity(record: Record) -> tuple[str, str]:
    return record["name"], record["revision"]


def _attach(by_label: Mapping[str, tuple[Path, Run]], found: Found, results: Path | None) -> dict[str, str]:
    """The label of the run for each of its models that has scores; a remark for each run without."""
    from tamft.evaluation.identity import identify

    models: dict[Any, dict[str, str]] = {}  # identity or place -> model -> what tells it from others of them
    for r in found.records:
        for key in (_identity(r), Path(r["typed"]).resolve() if r.get("typed") else None):
            models.setdefault(key, {})[r["model"]] = r["precision"] or str(r["revision"])[:8]
    labelled: dict[str, str] = {}
    for label, (folder, run) in by_label.items():
        place = folder / (run.get("model_dir") or "")
        if not run.get("model_dir"):
            scored, reason = {}, f"the run is {run['status']} and left no model"
        elif place.is_dir():
            identity = identify(str(place))
            scored = models.get((identity.name, identity.revision), {})
            reason = f"no scores of {identity.name} @ {identity.revision}, the model that is in {place} now"
            reason += f"; run `tamft eval {place} --results {results} …`" if results else ""
        else:  # the run was copied without its model: what was typed must do
            scored, reason = models.get(place.resolve(), {}), f"its folder {place} is not here, and no scores name it"
        if not scored:
            found.remarks.append(f"missing {label}: {reason}")
        for i, (model, which) in enumerate(scored.items()):
            if model in labelled:
                found.remarks.append(f"WARNING {label}: the same model, byte for byte, as {labelled[model]}")
            else:
                labelled[model] = f"{label}, {which}" if i else label
    return labelled


def _unscored(folder: Path, results: Path) -> str:
    return (
        f"{folder}: no scores of its model in {results}; run `tamft eval {folder / 'model'} --results {results} "
        "--suite NAME` first, or say where its scores are with --results"
    )


def _beside(found: Found, published: Path, models: Sequence[str] | None) -> list[Record]:
    """Published results of the tasks, splits and subsets that the others have."""
    root = _root(published)
    names = files.model_names(root)
    chosen = [name for name in names if files.is_wanted(name, models)]
    if not chosen:
        close = difflib.get_close_matches(str((models or [""])[0]), names, n=2, cutoff=0.4) or names[:3]
        raise InputError(f"--models {' '.join(models or ())}: not in {published}; did you mean {' or '.join(close)}?")
    if len(chosen) > PUBLISHED_AT_MOST:
        raise InputError(f"--published {published}: these are {len(chosen)} models; say which to show with --models")
    parts = {(r["task"], r["split"], r["subset"]) for r in found.records}
    tasks = {task for task, _, _ in parts}
    records = list(files.as_records(files.join_revisions(files.read_results(root, chosen, tasks, precisions=False))))
    shown = [r for r in records if (r["task"], r["split"], r["subset"]) in parts]
    if not shown:
        raise InputError(
            f"--published {published}: no results of {', '.join(chosen[:4])} on {', '.join(sorted(tasks))}"
        )
    left_out = {r["task"] for r in records if (r["task"], r["split"], r["subset"]) not in parts}
    if left_out:
        found.remarks.append(
            f"published: of {', '.join(sorted(left_out))} only the splits and subsets that the others have"
        )
    short = labels(list(dict.fromkeys(r["name"] for r in shown)))
    for record in shown:
        record["model"] = f"{short[record['name']]} (published)"
    return shown


def _rename(records: Sequence[Record], scored: Mapping[str, str]) -> None:
    """Give every model the name that the table shows: its run's, the end of its path, or its name on the Hub."""
    first: dict[str, Record] = {}
    for r in records:
        first.setdefault(r["model"], r)
    others = {model: r for model, r in first.items() if model not in scored}
    short = labels(list(dict.fromkeys(r["typed"] or r["name"] for r in others.values())))
    plain = [short[r["typed"] or r["name"]] for r in {_identity(r): r for r in others.values()}.values()]
    plain += scored.values()
    names = dict(scored)
    for model, r in others.items():
        name = short[r["typed"] or r["name"]]
        name += f" @ {str(r['revision'])[:8]}" if plain.count(name) > 1 else ""
        names[model] = f"{name}, {r['precision']}" if r["precision"] else name
    for record in records:
        record["model"] = names[record["model"]]


def find_model(text: str, records: Sequence[Record]) -> str:
    """The model that `text` names: by any name, path or revision of it, or an unambiguous part of one.

    Raises InputError, with the nearest names, where no model or several are meant.
    """
    known: dict[str, set[str]] = {}
    for r in records:
        names = {r["model"], r["name"], r["revision"], f"{r['name']}@{r['revision']}", r.get("typed") or r["model"]}
        known.setdefault(r["model"], set()).update(map(str, names))
    word = text.lower()
    hits: list[str] = []
    for fits in (
        lambda name: name == text,
        lambda name: name.lower().endswith(f"/{word}") or name.lower().split(" ")[0].endswith(f"/{word}"),
        lambda name: word in name.lower(),
    ):
        hits = hits or [model for model, names in known.items() if any(map(fits, names))]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise InputError(f"{text!r} may be {', '.join(hits[:6])}; write more of the name, or its revision")
    close = difflib.get_close_matches(text, [name for names in known.values() for name in names], n=2, cutoff=0.4)
    said = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(list(known)[:6])}"
    raise InputError(f"no model {text!r} among the scores; {said}")
