"""What `tamft eval` costs next to mteb's own API, and what its batches, its cache and its processes save.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py --json benchmarks/results/evaluation_cpu.json
    HF_HOME=… OMP_NUM_THREADS=1 python benchmarks/evaluation.py --parts mteb batches --tasks STS13 SICK-R XQuADRetrieval

1. mteb: the same tasks, model, precision and batch size through mteb's API and through `evaluate`, each with loading,
   and hashing counted: nothing is remembered from one turn to the next.
2. batches: rows of 32 against batches of tokens, without and with the cache.
3. cache: four tasks of one's own that share their texts, without and with the cache.
4. processes: eight tasks of twice the size in one process and in two, one thread each, starting them counted; and
   sentence-transformers' own pool of two, which only encodes the same texts. At most 3 rounds.

All take turns; ratios are of wall-clock times, so only a quiet machine gives numbers worth keeping. The ratio of CPU
times stands beside them (children's time included) and survives a busy machine, except in part 4.
"""

import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import common
import yaml
from work import MODELS, SEED, model_folder, texts

from tamft.errors import InputError
from tamft.parser import Parser

PARTS = ("mteb", "batches", "cache", "processes")
TASKS = ["EmbeddedSTS", "EmbeddedRetrieval", "EmbeddedClassification", "EmbeddedClustering"]
ROWS = 32
TOKENS = 48  # per text, where the texts are made here

Turn = Callable[[], common.Measures]


def timed(call: Callable[[Path], object]) -> common.Measures:
    """Wall-clock time of `call`, and CPU time of it and of the processes it started and waited for.

    `call` gets an empty folder for its results; hashes of model files that earlier calls remembered are not found.
    """
    with tempfile.TemporaryDirectory(prefix="tamft-bench-") as folder, environment(XDG_CACHE_HOME=f"{folder}/cache"):
        cpu, wall = cpu_seconds(), time.perf_counter()
        call(Path(folder) / "results")
        return {"seconds": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu}


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(t.ru_utime + t.ru_stime for t in times)


@contextmanager
def environment(**values: str) -> Any:
    """Environment variables, for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ---- who takes turns ---------------------------------------------------------------------------------------------


def by_mteb(model: str, tasks: Sequence[str], device: str, results: Path) -> None:
    """mteb's API as its documentation shows it."""
    import mteb
    from sentence_transformers import SentenceTransformer

    from tamft.evaluation.tasks import get_tasks

    mteb.evaluate(
        SentenceTransformer(model, device=device),
        get_tasks(tasks),
        cache=mteb.ResultCache(results),
        encode_kwargs={"batch_size": ROWS, "show_progress_bar": False},
        show_progress_bar=False,
        co2_tracker=False,
    )


def by_tamft(model: str, source: dict[str, Any], device: str, options: dict[str, Any], results: Path) -> None:
    """`evaluate`; a task without a score is an error, because its time would mean nothing."""
    from tamft.evaluation.score import evaluate

    records = evaluate(model, results=results, device=device, **source, **options)
    failed = [record for record in records if record["status"] != "ok"]
    if failed:
        raise InputError(f"task {failed[0]['task']}: {failed[0]['reason']}")


def by_pool(model: str, rows: Sequence[str], processes: int, results: Path) -> None:
    """sentence-transformers' own processes: it starts them, and they encode the texts; nothing is scored."""
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(model, device="cpu")
    pool = loaded.start_multi_process_pool(["cpu"] * processes)
    try:
        loaded.encode(list(rows), pool=pool, batch_size=ROWS, show_progress_bar=False)
    finally:
        loaded.stop_multi_process_pool(pool)


# ---- tasks of our own --------------------------------------------------------------------------------------------


def write_suite(folder: Path, tasks: list[dict[str, Any]]) -> Path:
    """A suite file."""
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"name": "bench", "description": "Random words.", "tasks": tasks}), encoding="utf-8")
    return path


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """JSON lines; returns the file's name."""
    import json

    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path.name


def shared_texts(folder: Path, rows: list[str]) -> Path:
    """Four tasks about the same texts."""
    folder.mkdir()
    labelled = [{"text": text, "label": f"label {i // 2 % 4}"} for i, text in enumerate(rows)]
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    train, test = (write_rows(folder / f"{n}.jsonl", labelled[i::2]) for i, n in enumerate(("train", "test")))
    every = write_rows(folder / "all.jsonl", labelled)
    graded = write_rows(
        folder / "sts.jsonl", [{"sentence1": a, "sentence2": b, "score": i % 6} for i, (a, b) in enumerate(pairs)]
    )
    twins = write_rows(
        folder / "twins.jsonl", [{"sentence1": a, "sentence2": b, "label": i % 2} for i, (a, b) in enumerate(pairs)]
    )
    options = {"samples_per_label": len(rows) // 8, "n_experiments": 2}
    return write_suite(
        folder,
        [
            {"name": "BenchClasses", "type": "Classification", "train": train, "test": test, "options": options},
            {"name": "BenchClusters", "type": "Clustering", "test": every},
            {"name": "BenchGrades", "type": "STS", "test": graded},
            {"name": "BenchTwins", "type": "PairClassification", "test": twins},
        ],
    )


def separate_texts(folder: Path, rows: list[str], number: int) -> Path:
    """So many tasks of the same size, each with texts of its own."""
    folder.mkdir()
    tasks = []
    for task in range(number):
        mine = rows[task::number]
        pairs = list(zip(mine[::2], mine[1::2], strict=False))
        graded = [{"sentence1": a, "sentence2": b, "score": i % 6} for i, (a, b) in enumerate(pairs)]
        tasks.append({"name": f"BenchPairs{task}", "type": "STS", "test": write_rows(folder / f"{task}.jsonl", graded)})
    return write_suite(folder, tasks)


# ---- the program -------------------------------------------------------------------------------------------------


def contenders(part: str, model: str, tasks: list[str], device: str, size: int, folder: Path) -> dict[str, Turn]:
    """Who takes turns in a part of the benchmark; ratios are to the first. `size` is the number of texts made here."""
    from transformers import AutoTokenizer

    def run(source: dict[str, Any], **options: Any) -> Turn:
        return lambda: timed(partial(by_tamft, model, source, device, options))

    if part == "mteb":
        return {
            "mteb": lambda: timed(partial(by_mteb, model, tasks, device)),
            "tamft": run({"tasks": tasks}, batch_size=ROWS),
        }
    if part == "batches":
        return {
            f"rows of {ROWS}": run({"tasks": tasks}, batch_size=ROWS),
            "tokens": run({"tasks": tasks}, cache_mb=0),
            "tokens and cache": run({"tasks": tasks}),
        }
    rows = texts(AutoTokenizer.from_pretrained(model), size, TOKENS)
    if part == "cache":
        suite = {"suite": str(shared_texts(folder / part, rows))}
        return {"without": run(suite, cache_mb=0), "with": run(suite)}
    suite = {"suite": str(separate_texts(folder / part, rows, 8))}
    return {
        "one process": run(suite),
        "two processes": run(suite, num_processes=2),
        "sentence-transformers' pool of two": lambda: timed(partial(by_pool, model, rows, 2)),
    }


def measure(
    parts: Sequence[str], tasks: list[str], *, rounds: int, size: int, device: str, warmup: int = 1
) -> tuple[list[dict[str, Any]], str]:
    """(records, "published" or "random" weights)."""
    records = []
    with tempfile.TemporaryDirectory(prefix="tamft-bench-") as temporary:
        folder, weights = model_folder(MODELS["minilm"], Path(temporary) / "minilm")
        for part in parts:
            # Starting processes is counted, so the work must be long; then a few rounds say enough.
            factor, most = (16, 3) if part == "processes" else (1, rounds)
            field = contenders(part, folder, tasks, device, size * factor, Path(temporary))
            measured = common.alternate(list(field.values()), rounds=min(rounds, most), warmup=warmup)
            for name, measures in zip(field, measured, strict=True):
                numbers = common.summary(measures, measured[0])
                records.append({"part": part, "contender": name, **numbers, "speedup": 1 / numbers["ratio"]})
    return records, weights


def show(records: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    rows = []
    for i, r in enumerate(records):
        cells = [r["part"], r["contender"], f"{r['median_s']:.2f}", f"{r['ratio']:.3f}"]
        cells += [f"{r['ratio_q25']:.3f}-{r['ratio_q75']:.3f}", f"{r['cpu_ratio']:.3f}", f"{r['speedup']:.2f}"]
        rows.append((i + 1 == len(records) or records[i + 1]["part"] != r["part"], cells))
    common.show("evaluation", ["part", "", "seconds", "ratio", "quartiles", "CPU ratio", "speed-up"], rows)


def options() -> Parser:
    """The command line."""
    parser = common.parser("evaluation.py", "What `tamft eval` costs and saves.", rounds=7)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)")
    parser.add_argument(
        "--tasks", nargs="+", default=TASKS, metavar="NAME", help="of parts 1 and 2 (default: embedded)"
    )
    parser.add_argument(
        "--size", type=common.count, default=800, metavar="N", help="texts of a task made here (default: 800)"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the program. Returns the exit code."""
    args = options().parse_words(argv)
    device = common.set_up(args)
    common.no_bars()
    from tamft.evaluation.quiet import quiet_libraries

    quiet_libraries()
    rounds, size, tasks = (1, 40, ["EmbeddedSTS"]) if args.short else (args.rounds, args.size, args.tasks)
    records, weights = measure(
        args.parts, tasks, rounds=rounds, size=size, device=str(device), warmup=0 if args.short else 1
    )
    show(records)
    if args.json:
        report = common.provenance("evaluation", "evaluation.py", argv, device, SEED)
        report |= {"model": "all-MiniLM-L6-v2", "weights": weights, "tasks": tasks, "rounds": rounds, "size": size}
        report["load_average"] = [round(load, 2) for load in os.getloadavg()]
        common.write(args.json, report | {"records": records})
    return 0


if __name__ == "__main__":
    raise SystemExit(common.command(main))
