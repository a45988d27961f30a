"""`tamft compare PLAN`: carry a plan out, in as many sittings and on as many machines as it takes."""

import argparse
import contextlib
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamft.compare import attempts, engines, outcome, runs, study
from tamft.compare.checks import check
from tamft.compare.plan import Plan, read_plan
from tamft.compare.progress import Board
from tamft.compare.runs import Job, Run
from tamft.errors import InputError
from tamft.evaluation.quiet import quiet_libraries
from tamft.parser import Parser

EXAMPLES = """\
examples:
  tamft compare plan.yaml --dry_run
      check the plan; how many runs, how many hours, how small a difference it can find; nothing is written
  tamft compare plan.yaml --jobs 2
      two runs at once; start it again after any interruption, here or on another machine with the same folder
  tamft compare plan.yaml --accelerate_config fsdp2
      a plan that says `processes: 2`, on a machine with 8 GPUs: four runs at once, each on two of them
  tamft compare plan.yaml --engine ray --address auto
      one task of a Ray cluster for each run
  tamft compare plan.yaml --shard 3/16
      in a job array of a batch scheduler: this job's share of the screening; a second array confirms
  tamft report studies/NAME
      verdicts, tables and figures

A run that is complete is never done again: its run.json and scores.json are enough, so a study can be continued from
them alone. docs/compare.md explains plans; eval/plans/ has a full one.
Exit code: 0 done (or this share is), 1 some run failed or runs cannot be compared, 2 bad plan (nothing written),
130 interrupted, 143 ended by SIGTERM.
"""


@dataclass(frozen=True)
class Setting:
    """How runs are carried out; the results do not depend on it."""

    jobs: int
    processes: int
    accelerate_config: str | None
    devices: tuple[str, ...]
    threads: int
    keep_models: bool
    engine: str
    address: str | None
    shard: tuple[int, int]

    def job(self, plan: Plan, run: Run, folder: Path, train_file: Path | None) -> Job:
        """The job of a run."""
        return runs.job(
            plan,
            run,
            folder,
            train_file,
            keep_models=self.keep_models,
            processes=self.processes if run.stage != runs.BASE else 1,
            accelerate_config=self.accelerate_config,
            threads=self.threads,
            devices=self.devices[: self.processes],
        )

    def carry_out(self, jobs: Sequence[Job], told: engines.Told) -> None:
        """Carry out jobs on the engine that was asked for."""
        if self.engine == "ray":
            engines.on_ray(jobs, self.address, self.jobs, told)
        else:
            places = engines.slots(min(self.jobs, max(1, len(jobs))), self.devices, self.processes, self.threads)
            engines.local(jobs, places, told)


def main(argv: Sequence[str]) -> int:
    """`tamft compare …`. Returns the exit code. Raises InputError."""
    parser = _parser()
    args = parser.parse_words(argv)
    quiet_libraries()
    print("reading the plan: optimizers, data, tasks …", file=sys.stderr, flush=True)
    plan = read_plan(Path(args.plan))
    setting = _setting(args, plan.processes)
    folder = Path(
        args.output_dir or Path("studies") / re.sub(r"[^a-z0-9]+", "-", plan.content["name"].lower()).strip("-")
    )
    if args.dry_run:
        from tamft.compare.dry_run import report

        print(report(plan, folder, setting, Path(args.earlier) if args.earlier else None))
        return 0
    return carry_out(plan, folder, setting, retry_failed=args.retry_failed)


def carry_out(plan: Plan, folder: Path, setting: Setting, *, retry_failed: bool = False) -> int:
    """Run everything that is left of a study; returns the exit code. Raises InputError before the first run."""
    from tamft.compare.describe import describe

    study.check_folder(plan, folder)
    print(describe(plan), flush=True)
    with tempfile.TemporaryDirectory(prefix="tamft-") as scratch:
        notes = check(plan, study.train_file(plan, Path(scratch)))
    for note in [*plan.warnings, *notes]:
        print(f"note: {note}", flush=True)
    train_file = study.open_study(plan, folder)
    if retry_failed:
        for run in study.all_runs(plan, folder):
            if study.read_outcome(folder, run).status == outcome.FAILED:
                outcome.forget_failures(folder / "runs" / run.key)
    try:
        with _terminable():
            return _stages(plan, folder, setting, train_file)
    finally:
        engines.close()


def _stages(plan: Plan, folder: Path, setting: Setting, train_file: Path | None) -> int:
    def carry(planned: list[Run]) -> None:
        _carry(plan, folder, setting, train_file, planned)

    screened = runs.screen(plan)
    first = [runs.base(plan), *screened]
    carry(_share(first, setting.shard))
    waiting = [run for run in first if study.read_outcome(folder, run).status is None]
    if waiting:
        print(
            f"this share of the screening is done; {len(waiting)} runs of other shares are not, and the confirmation "
            "waits for them: start the same command again then"
        )
        return 0
    chosen = study.chosen(plan, folder)
    for arm, params in chosen.items():
        values = "nothing: all its configurations diverged or failed" if params is None else runs.plain(params)
        print(f"chosen for {arm}: {values}", flush=True)
    if chosen[plan.content["baseline"]] is None:
        print("the baseline has no configuration that ended well: there is nothing to compare with", file=sys.stderr)
        study.write_lines(plan, folder)
        return 1
    confirmed = runs.confirm(plan, chosen)
    carry(_share(confirmed, setting.shard))
    lines = study.write_lines(plan, folder)
    waiting = [run for run in confirmed if study.read_outcome(folder, run).status is None]
    if waiting:
        print(f"this share of the confirmation is done; {len(waiting)} runs of other shares are not")
        return 0
    return _end(lines, folder)


def _end(lines: Sequence[dict[str, Any]], folder: Path) -> int:
    troubles = study.problems(lines)
    for trouble in troubles:
        print(f"problem: {trouble}", file=sys.stderr)
    failed = [one for one in lines if one["status"] != outcome.COMPLETE]
    for one in failed:
        what = f"{one['stage']} {one['arm']}, {runs.plain(one['params'])}, seed {one['seed']}"
        print(f"{one['status']}: {what}: {one['error']}", file=sys.stderr)
    print(f"{len(lines)} runs, {len(failed)} of them failed or diverged; `tamft report {folder}` shows the verdicts")
    wrong = any(one["status"] == outcome.FAILED for one in lines)
    return 1 if wrong or any("same batches" in trouble for trouble in troubles) else 0


def _carry(plan: Plan, folder: Path, setting: Setting, train_file: Path | None, planned: list[Run]) -> None:
    found = {run.key: study.read_outcome(folder, run) for run in planned}
    ended = {key: one.status for key, one in found.items() if one.status is not None}
    selections = {key: value for key, one in found.items() if (value := study.selection(plan, one)) is not None}
    left = [setting.job(plan, run, folder, train_file) for run in planned if run.key not in ended]
    by_key = {run.key: run for run in planned}
    study.write_lines(plan, folder)
    if not left:
        return
    with Board(planned, ended, setting.jobs, selections) as board:

        def told(job: Job, status: str | None) -> None:
            value = None
            if status not in (None, "held"):
                value = study.selection(plan, study.read_outcome(folder, by_key[job.key]))
                study.write_lines(plan, folder)
            board.told(job, status, value)

        setting.carry_out(left, told)


def _share(planned: list[Run], shard: tuple[int, int]) -> list[Run]:
    index, count = shard
    return [run for i, run in enumerate(planned) if i % count == index - 1]


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM (a batch scheduler's end of time) ends the runs in good order, like Ctrl-C."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(143)

    old = signal.signal(signal.SIGTERM, end)
    attempts.resume()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


# --- command line -----------------------------------------------------------------------------------------------------


def _parser() -> Parser:
    parser = Parser(
        prog="tamft compare",
        description="Compare optimizers on your data: equal budgets, fresh seeds, controls, an honest verdict.",
        examples=EXAMPLES,
    )
    parser.add_argument("plan", metavar="PLAN", help="YAML file, see docs/compare.md")
    parser.add_argument("--output_dir", metavar="DIR", help="the study's folder (default: studies/NAME)")
    parser.add_argument("--dry_run", action="store_true", help="check, print runs, hours and sizes; write nothing")
    parser.add_argument("--earlier", metavar="DIR", help="with --dry_run: a study that tells how much runs differ")
    parser.add_argument("--jobs", type=_positive, metavar="N", help="runs at once (default: as many as GPUs allow; 1)")
    parser.add_argument("--num_cpu_threads_per_process", type=_positive, metavar="N", help="(default: shared out)")
    parser.add_argument("--accelerate_config", metavar="NAME", help="preset or file for each run, as in `tamft train`")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="where runs are carried out")
    parser.add_argument("--address", metavar="A", help="of a Ray cluster (default: one on this machine)")
    parser.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="do the I-th of N shares only")
    parser.add_argument("--keep_models", action="store_true", help="keep the weights after they were scored")
    parser.add_argument("--retry_failed", action="store_true", help="try runs again that failed twice")
    return parser


def _setting(args: argparse.Namespace, processes: int) -> Setting:
    from tamft.train.launch import threads_per_process
    from tamft.train.shipped import find_preset

    if args.address and args.engine != "ray":
        raise InputError("--address is of a Ray cluster; add --engine ray")
    if args.accelerate_config:
        find_preset(args.accelerate_config)
    devices = _devices()
    if processes > max(1, len(devices)) and not args.accelerate_config and not args.address:
        raise InputError(
            f"{args.plan}: processes: {processes}: one GPU is needed for each and there are {len(devices)}; several "
            "processes on CPUs: --accelerate_config ddp, and use_cpu: true in train"
        )
    jobs = args.jobs or max(1, len(devices) // processes)
    threads = args.num_cpu_threads_per_process or threads_per_process(jobs * processes)
    return Setting(
        jobs,
        processes,
        args.accelerate_config,
        devices,
        threads,
        args.keep_models,
        args.engine,
        args.address,
        args.shard,
    )


def _devices() -> tuple[str, ...]:
    """CUDA devices by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch

    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return tuple(said.split(",")[:count]) if said else tuple(str(i) for i in range(count))


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no share: write I/N, from 1/N to N/N")
    return int(match[1]), int(match[2])
