"""One self-contained HTML page about training runs and their scores, made from files alone."""

import html
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tamft.atomic import write_atomically
from tamft.errors import InputError
from tamft.evaluation import figures
from tamft.evaluation.table import mean_scores, task_score

Run = dict[str, Any]  # the content of a run.json
Record = dict[str, Any]  # a score, see tamft.evaluation.score.evaluate
SYNTHETIC = "Embedded"
PERTURBED = (
    "With ρ > 0 the training loss is that of the moved weights: it does not compare with the loss of other runs."
)

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--dim:#59636e;--page:#fff;--card:#f6f8fa;--line:#d1d9e0;--warn:#fff4d6;
--s0:#0072b2;--s1:#c44e00;--s2:#007a59;--s3:#a8447f;--s4:#8a6500;--s5:#3b6fb6;--s6:#6b4ba3;--s7:#555}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--dim:#9aa7b4;--page:#0d1117;--card:#161b22;--line:#30363d;
--warn:#3a2f10;--s0:#56b4e9;--s1:#ff9e5e;--s2:#2fc79b;--s3:#e59fc8;--s4:#e8c04a;--s5:#8db4ec;--s6:#b9a1e6;--s7:#aaa}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:1.5rem 1rem 4rem;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
h1{font-size:1.6rem;margin:0 0 .25rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}p{margin:.4rem 0;max-width:48rem}
.dim,figcaption,th small,td small{color:var(--dim)}figcaption{font-size:.9rem}
.warn{background:var(--warn);border-radius:8px;padding:.7rem 1rem;margin:1rem 0;max-width:none}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.95rem}
th,td{padding:.4rem .75rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}td small{display:block;font-size:.8rem}
tr.mean td{font-weight:600}.key{display:inline-block;width:.7em;height:.7em;border-radius:2px;margin-right:.4em}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:1rem;
margin-top:1rem}
figure{margin:0;background:var(--card);border-radius:8px;padding:.7rem}svg{display:block;width:100%;height:auto}
svg text{font-family:inherit!important}
dl{display:grid;grid-template-columns:minmax(8rem,16rem) 1fr;gap:.3rem 1rem;font-size:.9rem;margin:.5rem 0}
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}code{font-size:.9em;overflow-wrap:anywhere}
@media (max-width:40rem){th,td{padding:.35rem .4rem;font-size:.85rem}dl{grid-template-columns:1fr}dt{margin-top:.5rem}}
"""


def write_report(runs: Sequence[Path], scores: Sequence[Record], out: Path) -> None:
    """Write the page `out`, replacing it in one step.

    Args:
        runs: run folders (each with a run.json), in the order to show.
        scores: records of `tamft eval --json`. A record belongs to a run when its model is that run's model folder;
            every other model is a base model, and the first of them is what the differences are from.
        out: the .html file; its folder is made if need be.

    Raises:
        InputError: no run, a run.json that is missing, broken or of another schema, or matplotlib is not installed.
    """
    if not runs:
        raise InputError("no runs: a report needs at least one run folder")
    figures.check_matplotlib()
    content = [read_run(folder) for folder in runs]
    page = _page(content, _labels(runs, content), _by_label(runs, content, scores), list(scores))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page)


def read_run(folder: Path) -> Run:
    """The content of a folder's run.json. Raises InputError where it is missing, broken or of another schema."""
    file = folder / "run.json"
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error}); name a folder that a recipe has written") from None
    if not isinstance(run, dict) or run.get("schema") != 1:
        raise InputError(f"{file}: not a run.json of schema 1; make the run again with this version of tamft")
    return run


def final_loss(run: Run) -> float | None:
    """Mean of the losses logged in the last fifth of the steps; None where none was logged."""
    entries = [(step, value) for step, value in run["loss"] if value is not None]
    last = [value for step, value in entries if step > 0.8 * entries[-1][0]]
    return sum(last) / len(last) if last else None


def perturbed(run: Run) -> bool:
    """True if the run's gradients and losses were taken at weights moved by ρ."""
    return bool((run["optimizer"].get("args") or {}).get("rho"))


def _labels(folders: Sequence[Path], runs: Sequence[Run]) -> list[str]:
    names = [run["optimizer"]["name"] for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({folder.name})"
        for name, folder in zip(names, folders, strict=True)
    ]


def _by_label(folders: Sequence[Path], runs: Sequence[Run], scores: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by column of the score table: base models first, then the runs in their order."""
    places = {
        (folder / run["model_dir"]).resolve(): label
        for folder, run, label in zip(folders, runs, _labels(folders, runs), strict=True)
        if run.get("model_dir")
    }
    others = {record["model"] for record in scores if Path(record["model"]).resolve() not in places}
    found: dict[str, list[Record]] = {}
    for record in scores:
        label = places.get(Path(record["model"]).resolve())
        found.setdefault(label or ("base" if len(others) == 1 else f"base: {record['model']}"), []).append(record)
    order = [*(label for label in found if label not in places.values()), *(p for p in places.values() if p in found)]
    return {label: found[label] for label in order}


def _text(value: Any) -> str:
    return html.escape("–" if value is None else str(value))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, last: str = "") -> str:
    """A table of cells that are HTML already; `last` is the class of the last row."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    lines = [f"<tr>{line}</tr>" for line in lines[:-1]] + [f'<tr class="{last}">{line}</tr>' for line in lines[-1:]]
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _key(number: int) -> str:
    return f'<span class="key" style="background:var(--s{number % 8})"></span>'


BASE_KEY = '<span class="key" style="background:var(--ink);opacity:.45"></span>'


def _run_table(runs: Sequence[Run], labels: Sequence[str]) -> str:
    rows = []
    for i, (run, label) in enumerate(zip(runs, labels, strict=True)):
        config, loss = run["config"], final_loss(run)
        state = run["optimizer"].get("state_bytes")
        rows.append(
            [
                _key(i) + _text(label),
                _text(run["status"]),
                _text(config.get("learning_rate")),
                _text(config.get("optim_args")),
                _text(run["seed"]),
                _text(run["steps"]),
                "–" if loss is None else f"{loss:.4f}",
                f"{run['seconds']:.0f}",
                "–" if state is None else f"{state / 2**20:.1f}",
            ]
        )
    head = ["optimizer", "status", "learning rate", "options", "seed", "steps", "final loss", "seconds", "state, MiB"]
    note = "Final loss: mean over the last fifth of the steps."
    if any(perturbed(run) for run in runs) and not all(perturbed(run) for run in runs):
        note += f" {PERTURBED}"
    return _table(head, rows) + f'<p class="dim">{note}</p>'


def _scores(by_label: dict[str, list[Record]], labels: Sequence[str]) -> str:
    records = [{**record, "model": label} for label, mine in by_label.items() for record in mine]
    tasks, models = list(dict.fromkeys(r["task"] for r in records)), list(by_label)
    score = {(m, t): task_score(records, m, t) for m in models for t in tasks}
    metric = {r["task"]: r["metric"] for r in records}

    def cell(value: float | str, first: float | str, column: int) -> str:
        if isinstance(value, str):
            return _text(value)
        change = f"<small>{value - first:+.4f}</small>" if column and not isinstance(first, str) else ""
        return f"{value:.4f}{change}"

    rows = [
        [
            f"{_text(task)}<small>{_text(metric[task])}</small>",
            *(cell(score[m, task], score[models[0], task], i) for i, m in enumerate(models)),
        ]
        for task in tasks
    ]
    means, shared = mean_scores(records)
    if len(shared) > 1:
        cells = [cell(means[model], means[models[0]], i) for i, model in enumerate(models)]
        rows.append([f"mean over {len(shared)} tasks", *cells])
    heads = [(_key(labels.index(m)) if m in labels else "") + _text(m) for m in models]
    # Bars have the colours of the curves, so only "one base, then all runs" can be drawn.
    plot = ""
    if models[1:] == list(labels):
        values = [[None if isinstance(s := score[m, t], str) else s for t in tasks] for m in models]
        drawn = figures.bars("scores", tasks, values, title="Main score of each task, base and tuned models")
        legend = " · ".join([f"{BASE_KEY}base", *(_key(i) + _text(label) for i, label in enumerate(labels))])
        plot = f'<div class="plots"><figure>{drawn}<figcaption>{legend}</figcaption></figure></div>'
    return _table(["task", *heads], rows, last="mean" if len(shared) > 1 else "") + plot


def _curves(runs: Sequence[Run], labels: Sequence[str]) -> str:
    loss = [
        figures.Line(label, i, *zip(*entries, strict=True))
        for i, (run, label) in enumerate(zip(runs, labels, strict=True))
        if (entries := [(step, value) for step, value in run["loss"] if value is not None])
    ]
    alignment = _bands(runs, labels, "alignment")
    damping = _bands(runs, labels, "damping")
    parts = []
    for name, curves, title, ylabel, level, caption in (
        ("loss", loss, "Training loss over steps", "training loss", None, "Training loss, mean since the last entry."),
        (
            "alignment",
            alignment,
            "Alignment over steps",
            "ŝ",
            0.0,
            "Alignment ŝ: smoothed cosine of gradient and momentum, 1 the same direction, 0 none in common. Line: mean "
            "over tensors; band: 10 % to 90 % of them.",
        ),
        (
            "damping",
            damping,
            "Damping over steps",
            "d",
            0.5,
            "Damping d = (1 + ŝ)/2: the factor on each gradient. At a steady ½, torque is AdamW at half the rate.",
        ),
    ):
        if curves:
            drawn = figures.lines(name, curves, title=title, ylabel=ylabel, level=level)
            parts.append(f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>")
    missing = "" if alignment else '<p class="dim">No run logged ŝ and d: none of these optimizers has torque.</p>'
    return f'<div class="plots">{"".join(parts)}</div>{missing}'


def _bands(runs: Sequence[Run], labels: Sequence[str], key: str) -> list[figures.Line]:
    found = []
    for i, (run, label) in enumerate(zip(runs, labels, strict=True)):
        names = (f"{key}_mean", f"{key}_q10", f"{key}_q90")
        rows = [
            (step, *(values[name] for name in names))
            for step, values in run.get("telemetry", [])
            if all(values.get(name) is not None for name in names)
        ]
        if rows:
            found.append(figures.Line(label, i, *zip(*rows, strict=True)))
    return found


def _provenance(runs: Sequence[Run], labels: Sequence[str], scores: Sequence[Record], command: str | None) -> str:
    """What the numbers depend on; one line where all runs agree, one per run where they do not."""

    def data(run: Run) -> str:
        return "; ".join(f"{d['path']}, {d['rows']} rows, sha256 {d['sha256']}" for d in run["data"])

    facts = {
        "device": lambda run: run["device"],
        "versions": lambda run: ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        "git": lambda run: run.get("git"),
        "seed": lambda run: run["seed"],
        "training data": data,
        "first batches": lambda run: f"sha256 {run['first_batches_sha256']}",
        "base model": lambda run: f"{run['base_model']['name']}, sha256 {run['base_model']['sha256']}",
        "optimizer": _options,
        "backend": lambda run: run["optimizer"].get("backend"),
        "peak memory": lambda run: (
            None if not run["peak_memory_bytes"] else f"{run['peak_memory_bytes'] / 2**20:.0f} MiB"
        ),
    }
    lines = [("command", command)] if command else []
    for name, read in facts.items():
        values = [read(run) for run in runs]
        if len(set(map(str, values))) == 1:
            lines.append((name if len(runs) == 1 else f"{name} (all runs)", values[0]))
        else:
            lines += [(f"{name}, {label}", value) for label, value in zip(labels, values, strict=True)]
    models = {record["model"]: f"{record['name']} @ {record['revision']}" for record in scores}
    lines += [(f"scored {model}", identity) for model, identity in models.items()]
    for key, name in (("mteb_version", "mteb"), ("device", "scored on"), ("dtype", "scored in")):
        lines += [(name, ", ".join(values))] if (values := sorted({str(r[key]) for r in scores})) else []
    lines += [(f"data of {task}", f"revision {revision}") for task, revision in _revisions(scores).items()]
    lines.append(("written", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")))
    return "<dl>" + "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in lines) + "</dl>"


def _options(run: Run) -> str:
    """The optimizer's arguments; Trainer sets the decay per group, so the constructor's default says nothing."""
    args = {**(run["optimizer"].get("args") or {}), "weight_decay": run["config"].get("weight_decay")}
    return ", ".join(f"{key}={value}" for key, value in args.items())


def _revisions(scores: Sequence[Record]) -> dict[str, Any]:
    return {record["task"]: record["dataset_revision"] for record in scores}


def _page(runs: Sequence[Run], labels: Sequence[str], by_label: dict[str, list[Record]], scores: list[Record]) -> str:
    seeds = sorted({run["seed"] for run in runs}, key=str)
    warnings = []
    if any(record["task"].startswith(SYNTHETIC) for record in scores):
        warnings.append("The data is synthetic: this is a smoke test, never evidence about an optimizer.")
    if len(seeds) == 1:
        warnings.append(f"One seed ({seeds[0]}): no inference possible. Another seed may turn the order around.")
    if len({run["first_batches_sha256"] for run in runs}) > 1:
        warnings.append("The runs did not see the same first batches: their losses are not comparable.")
    commands = list(dict.fromkeys(record["command"] for record in scores if record.get("command")))
    notice = f'<p class="warn">{"<br>".join(map(_text, warnings))}</p>' if warnings else ""
    score_part = f"<h2>Scores</h2>{_scores(by_label, labels)}" if scores else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>tamft: {_text(", ".join(labels))}</title><style>{STYLE}</style></head><body>
<h1>Fine-tuning with {_text(", ".join(labels))}</h1>
<p class="dim">{_text(runs[0]["base_model"]["name"])} · {_text(runs[0]["device"])}</p>
{notice}
<h2>Runs</h2>{_run_table(runs, labels)}
{score_part}
<h2>Training</h2>{_curves(runs, labels)}
<h2>Provenance</h2>{_provenance(runs, labels, scores, commands[0] if len(commands) == 1 else None)}
</body></html>
"""
