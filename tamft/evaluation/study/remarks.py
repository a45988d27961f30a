"""What has to be said aloud about a study: what puts it in question, and what has to be known."""

from collections.abc import Iterable, Sequence

from tamft.evaluation import compare
from tamft.evaluation.study.runs import AA, CONFIRM, NULL, SCREEN, Study, all_diverged, suite_mean
from tamft.evaluation.study.trials import Row, best, on_border

FEW = 6  # seeds below which only large differences are found


def warnings(study: Study) -> Iterable[str]:
    """What puts the study, or a verdict of it, in question."""
    yield from _about_aa(study)
    for stage in (SCREEN, CONFIRM):
        seeds = _unequal_data([row for row in study.rows if row["stage"] == stage])
        if seeds:
            yield (
                f"Not all arms saw the same first batches ({stage}, seed {', '.join(map(str, seeds))}): their "
                "difference is also one of data."
            )
    for name, arm in study.arms.items():
        chosen = best(arm.trials)
        for row in arm.confirm[:1] if chosen is not None and arm.control is None else ():
            tried = next((trial.score for trial in arm.trials if trial.params == row["params"]), None)
            if tried != chosen.score:
                yield f"{name}: the confirm runs have {row['params']}, the best trial of the search {chosen.params}."
        for border in on_border(arm.trials):
            yield f"{name}: the optimum is on the border of its range ({border}); a better one may lie outside."
    for what in ("device", "versions"):
        values = {str(row[what]) for row in study.rows if row["stage"] == CONFIRM and row.get(what)}
        if len(values) > 1:
            yield f"The confirm runs differ in their {what} ({len(values)}): neither times nor scores quite compare."
    budgets = {arm.name: sum(not t.missing for t in arm.trials) for arm in study.arms.values() if arm.control is None}
    if len(set(budgets.values())) > 1:
        yield f"Unequal budgets: finished trials are {', '.join(f'{n} of {name}' for name, n in budgets.items())}."


def _about_aa(study: Study) -> Iterable[str]:
    name = study.baseline.name
    for control, verdict in study.controls.items():
        if study.arms[control].control != AA or verdict.word == compare.UNFINISHED:
            continue
        if verdict.p is not None and verdict.p < compare.ALPHA:
            yield (
                f"The A/A control found a difference (p = {verdict.p:.3f}) between {name} and {name} on other seeds. "
                "One sound study in twenty has this; doubt every verdict here until another study agrees."
            )
        elif verdict.word == compare.NOTHING and len(study.seeds) > 1:
            yield f"The A/A control: {verdict.reason}. Runs are no replicates if their seed has no effect."


def _unequal_data(rows: Sequence[Row]) -> list[int]:
    hashes: dict[int, set[str]] = {}
    for row in rows:
        if row.get("first_batches_sha256"):
            hashes.setdefault(row["seed"], set()).add(row["first_batches_sha256"])
    return sorted(seed for seed, found in hashes.items() if len(found) > 1)


def notes(study: Study) -> Iterable[str]:
    """What a reader of the verdicts has to know."""
    n, delta, name = len(study.seeds), float(study.plan["delta"]), study.baseline.name
    if n < FEW:
        yield f"{n} seed{'s' * (n > 1)}: only large differences can be found with fewer than {FEW}."
    planned = study.plan.get("controls") or {}
    for key, control, what in (("aa", AA, "the A/A control"), ("frozen_torque", NULL, "the frozen torque")):
        if not planned.get(key):
            yield f"The plan has no such control: {what}."
        elif not any(arm.control == control for arm in study.arms.values()):
            yield f"Not there yet: {what}."
    base = suite_mean(study.base, study.tasks)
    gains = [mean - base for mean in study.means(study.baseline)] if base is not None else []
    if gains and sum(gains) < 0:
        yield (
            f"Training with {name} lowered the suite mean ({sum(gains) / len(gains):+.4f} from the base model): the "
            "question here is which optimizer harms less."
        )
    for name, verdict in study.verdicts.items():
        sd = verdict.interval.sd
        if verdict.word == compare.UNDECIDED and sd:
            half = compare.tost_halfwidth(sd, verdict.interval.n)
            if half >= delta:
                yield (
                    f"{name}: with this spread over seeds, equivalence within ±{delta:g} was out of reach (half-width "
                    f"{half:.4f})."
                )
        if verdict.word == compare.EQUIVALENT and verdict.reason:
            yield f"{name}: {verdict.reason}. It may be the same optimizer."
    for name, verdict in study.controls.items():
        if study.arms[name].control == NULL and verdict.p is not None and verdict.p < compare.ALPHA:
            yield (
                f"{name} differs from {study.baseline.name} (p = {verdict.p:.3f}, not adjusted), though its torque is "
                "constant: what differs is the learning rate or the search."
            )
    for name, arm in study.arms.items():
        for stage, rows in ((SCREEN, arm.screen), (CONFIRM, arm.confirm)):
            for status in ("diverged", "failed"):
                count = sum(row["status"] == status for row in rows)
                if count:
                    why = next((row["error"] for row in rows if row["status"] == status and row.get("error")), None)
                    yield f"{name}: {count} of {len(rows)} {stage} runs {status}{f' ({why})' if why else ''}."
        short = [row for row in arm.confirm if row["status"] == "complete" and suite_mean(row, study.tasks) is None]
        if short:
            yield f"{name}: {len(short)} confirm runs have no score on all reported tasks, and count as missing."
        if arm.control is None and all_diverged(arm, study.plan):
            yield f"{name}: every trial of the search diverged, so that there was nothing to confirm."
