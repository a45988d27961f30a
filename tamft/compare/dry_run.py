"""`tamft compare PLAN --dry_run`: how many runs, how many hours, and how small a difference they can find."""

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamft.compare import attempts, outcome, runs, study
from tamft.compare.checks import check
from tamft.compare.describe import describe
from tamft.compare.plan import Plan
from tamft.compare.runs import BASE, CONFIRM, SCREEN, Run
from tamft.errors import InputError

if TYPE_CHECKING:
    from tamft.compare.command import Setting

FEW, MORE = 2, 8  # steps of the two short trainings: their difference is without the first step's surprises
UNKNOWN = (0.25, 0.5, 1.0, 2.0)  # spreads to show where none is known, in units of delta


@dataclass(frozen=True)
class Times:
    """Seconds: of a step, around the steps of a run (loading, saving, checking), and of scoring a task."""

    step: float
    around: float
    tasks: dict[str, float | None]
    steps: int


def report(plan: Plan, folder: Path, setting: "Setting", earlier: Path | None = None) -> str:
    """The text. `earlier`: the folder of a study that tells how much runs differ. Raises InputError; writes nothing."""
    with tempfile.TemporaryDirectory(prefix="tamft-") as scratch:
        train_file = study.train_file(plan, Path(scratch))
        notes = check(plan, train_file)
        times = calibrate(plan, setting, Path(scratch), train_file)
    screened, done = runs.screen(plan), _done(plan, folder)
    counts = {BASE: 1, SCREEN: len(screened), CONFIRM: runs.count_confirm(plan)}
    left = {stage: count - done.get(stage, 0) for stage, count in counts.items()}
    seconds = {stage: _seconds(plan, times, stage) for stage in counts}
    lines = [describe(plan), *(f"note: {note}" for note in [*plan.warnings, *notes]), ""]
    unknown = [name for name, value in times.tasks.items() if value is None]
    total = 0.0
    for stage, count in left.items():
        total += count * seconds[stage]
        already = f" ({done[stage]} are done)" if done.get(stage) else ""
        lines.append(f"{stage:<9} {count:4} runs of {_clock(seconds[stage])}{already}")
    at_once = f", {setting.jobs} at once (if they do not slow each other down)" if setting.jobs > 1 else ""
    lines.append(f"time      {total / 3600 / setting.jobs:.1f} hours on this machine{at_once}")
    scoring = ", ".join(f"{name} {_clock(value)}" for name, value in times.tasks.items() if value is not None)
    lines.append(
        f"          a step {times.step:.2g} s, {times.around:.0f} s around {times.steps} steps; scoring {scoring}"
    )
    if unknown:
        lines.append(f"          NOT counted, because their time is unknown here: {', '.join(unknown)}")
    return "\n".join([*lines, "", *sizes(plan, *spread(plan, folder, earlier))])


# --- time -------------------------------------------------------------------------------------------------------------


def calibrate(plan: Plan, setting: "Setting", scratch: Path, train_file: Path | None) -> Times:
    """Time two trainings of a few steps, and what scoring the base model takes."""
    first = runs.screen(plan)[0]
    walls, records = [], []
    for steps in (FEW, MORE):
        job = setting.job(plan, replace(first, key=f"calibration-{steps}"), scratch, train_file)
        words = (*(job.words or ()), f"--max_steps={steps}", "--logging_steps=1")
        start = time.monotonic()
        attempts.attempt(replace(job, words=words, scored=()))
        walls.append(time.monotonic() - start)
        found = outcome.read(job.folder)
        if found.status != outcome.COMPLETE:
            raise InputError(f"{plan.path}: a training of {steps} steps {found.status}: {found.error}")
        records.append(found.record)
    step = max(0.0, (records[1]["seconds"] - records[0]["seconds"]) / (MORE - FEW))
    around = max(0.0, walls[1] - MORE * step)
    return Times(step, around, _scoring(plan, setting, scratch), _steps(plan, records[1]))


def _steps(plan: Plan, record: Mapping[str, Any]) -> int:
    limit = plan.options.get("max_steps")
    if limit and int(limit) > 0:
        return int(limit)
    batches = math.ceil(record["data"][0]["rows"] / record["global_batch"])
    return math.ceil(batches * float(plan.options.get("num_train_epochs", 3)))


def _scoring(plan: Plan, setting: "Setting", scratch: Path) -> dict[str, float | None]:
    from tamft.evaluation.options import choose_devices
    from tamft.evaluation.price import prices
    from tamft.evaluation.score import prepare
    from tamft.train.models import resolve

    found: dict[str, float | None] = {}
    device = f"cuda:{setting.devices[0]}" if setting.devices else "cpu"
    for spec in (plan.select, plan.report):
        if spec is not None:
            told = prepare([resolve(plan.model)], spec, scratch / "results", devices=choose_devices(device, None, None))
            for price in prices(*told)[0]:
                found[price.task] = price.seconds[0]
    return found


def _seconds(plan: Plan, times: Times, stage: str) -> float:
    names = [*plan.content["select"].get("tasks", []), *(plan.content["report"]["tasks"] if stage != SCREEN else [])]
    training = 0.0 if stage == BASE else times.around + times.steps * times.step
    return training + sum(times.tasks.get(name) or 0.0 for name in names)


def _done(plan: Plan, folder: Path) -> dict[str, int]:
    if (study.read_json(folder / study.CONTENT) or {}).get("hash") != plan.hash:
        return {}
    known: list[Run] = study.all_runs(plan, folder)
    ended = [run.stage for run in known if study.read_outcome(folder, run).status is not None]
    return {stage: ended.count(stage) for stage in (BASE, SCREEN, CONFIRM)}


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


# --- size -------------------------------------------------------------------------------------------------------------


def spread(plan: Plan, folder: Path, earlier: Path | None) -> tuple[float | None, str]:
    """Standard deviation of differences between runs of the same seed, and where it is known from."""
    if earlier is not None:
        found = measured(earlier)
        if found is None:
            raise InputError(f"--earlier {earlier}: holds no study with two confirmed pairs of runs of some arm")
        return found, f"measured in {earlier}"
    if plan.content["sd"] is not None:
        return plan.content["sd"], "assumed by the plan"
    found = measured(folder)
    return found, f"measured in {folder} so far" if found is not None else "unknown"


def measured(folder: Path) -> float | None:
    """Pooled standard deviation of the differences to the baseline, all arms of a study; None where there are none."""
    content = study.read_json(folder / study.CONTENT)
    lines = study.read_lines(folder)
    if not content or not lines:
        return None
    means: dict[str, dict[int, float]] = {}
    for one in lines:
        if one["stage"] == CONFIRM and one["scores"] and one["control"] != "aa":
            means.setdefault(one["arm"], {})[one["seed"]] = math.fsum(one["scores"].values()) / len(one["scores"])
    baseline = means.pop(content["baseline"], {})
    squares, freedom = 0.0, 0
    for own in means.values():
        differences = [value - baseline[seed] for seed, value in own.items() if seed in baseline]
        mean = math.fsum(differences) / max(1, len(differences))
        squares += math.fsum((d - mean) ** 2 for d in differences)
        freedom += max(0, len(differences) - 1)
    return math.sqrt(squares / freedom) if freedom else None


def sizes(plan: Plan, sd: float | None, source: str) -> Sequence[str]:
    """What the confirmation can find, and whether delta is within its reach."""
    from tamft.evaluation.compare import mde, seeds_to_decide, tost_halfwidth

    n, delta = len(plan.seeds["confirm"]), plan.content["delta"]
    arms = len(plan.content["confirm"]) - 1
    known = [sd] if sd is not None else [factor * delta for factor in UNKNOWN]
    lines = [f"size      {n} seeds, {arms} optimizers against {plan.content['baseline']}; delta {delta:g}"]
    lines.append(
        f"          standard deviation of paired differences: {source}{f', {sd:.2g}' if sd is not None else ''}"
        + ("" if sd is not None else "; state it in the plan (sd:) or take it from a study (--earlier DIR)")
    )
    lines.append("          sd        finds (80 % power)   equivalence interval   seeds that would decide about delta")
    for value in known:
        half, needed = tost_halfwidth(value, n, m=arms), seeds_to_decide(value, delta, m=arms)
        reach = "" if half < delta else "   delta CANNOT be reached"
        seeds = needed or "more than 1000"
        lines.append(f"          {value:<9.2g} {mde(value, n, m=arms):<20.2g} ± {half:<20.2g} {seeds}{reach}")
    if any(tost_halfwidth(value, n, m=arms) >= delta for value in known):
        lines.append(
            "          where delta cannot be reached, not even equal optimizers would be called equivalent: add seeds, "
            "or be content with a larger delta"
        )
    return lines
