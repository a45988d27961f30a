"""What a whole training step costs: forward, backward, clipping and the optimizer, on a real embedding model.

    OMP_NUM_THREADS=1 python benchmarks/train.py --json benchmarks/results/train_cpu.json
    python benchmarks/train.py --device cuda --json benchmarks/results/train_cuda.json

1. A plain loop: all optimizers take turns in one process on the same model and batch. This gives the ratio.
2. Hugging Face's Trainer with --optim, a fresh process for each run: samples per second and peak memory, as users see
   them. Wall-clock time, so only a quiet machine gives numbers worth keeping.

On a CPU the model is all-MiniLM-L6-v2 with 32 texts of 64 tokens in float32, on a GPU BERT-base with 32 texts of 512
tokens under bf16 autocast. Texts are random words; the loss ranks 16 positives for 16 anchors.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import common
import contenders as field
import torch
from work import MODELS, SEED, Work, model_folder, texts

from tamft.errors import InputError
from tamft.parser import Parser
from tamft.train import record

# name and path in the table of contenders -> name for --optim
LOOP = {
    ("torch AdamW", "fused"): "adamw_torch_fused",
    ("AdaTAMW", "default"): "adatamw",
    ("AdamW-MSAM", "default"): "adamw_msam",
    ("AdaTAMW+MSAM", "default"): "adatamw_msam",
}


# ---- 1. the plain loop ------------------------------------------------------------------------------------------


def plain_loop(work: Work, folder: str, *, rounds: int, steps: int, device: torch.device) -> list[dict[str, Any]]:
    """Records of `rounds` alternations with `steps` training steps each; seconds are those of one step."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    torch.manual_seed(SEED)
    model = SentenceTransformer(folder, device=str(device), model_kwargs={"dtype": torch.float32})
    model.max_seq_length = work.tokens
    model.train()
    rows = texts(model.tokenizer, work.texts, work.tokens)
    half = work.texts // 2
    batch = [
        {key: value.to(device) for key, value in model.preprocess(part).items() if isinstance(value, torch.Tensor)}
        for part in (rows[:half], rows[half:])
    ]
    shape = [list(part["input_ids"].shape) for part in batch]
    if shape != [[half, work.tokens]] * 2:
        raise RuntimeError(f"the batch should be twice {half} texts of {work.tokens} tokens, it is {shape}")
    loss = MultipleNegativesRankingLoss(model)
    params = [p for p in model.parameters() if p.requires_grad]
    rivals = [c for c in field.contenders() if (c.name, c.path) in LOOP]
    optimizers = [contender.make(params) for contender in rivals]

    def one(optimizer: torch.optim.Optimizer) -> float:
        before = time.process_time()
        if hasattr(optimizer, "train"):
            optimizer.train()
        spent = time.process_time() - before
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=work.bf16):
            value = loss(batch, None)
        value.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        before = time.process_time()
        optimizer.step()
        return spent + time.process_time() - before

    def turn(optimizer: torch.optim.Optimizer) -> common.Measures:
        inside: list[float] = []
        clock = common.cpu_time if device.type == "cpu" else common.cuda_time
        measured = clock(lambda: inside.extend(one(optimizer) for _ in range(steps)))
        found = {key: value / steps for key, value in measured.items()}
        # On a GPU the host only launches: its time in the optimizer is not the optimizer's time.
        return found | ({"optimizer_s": sum(inside) / steps} if device.type == "cpu" else {})

    measured = common.alternate([partial(turn, o) for o in optimizers], rounds=rounds, warmup=1)
    records = []
    for contender, optimizer, measures in zip(rivals, optimizers, measured, strict=True):
        numbers = common.summary(measures, measured[0])
        if "optimizer_s" in numbers:
            numbers["ratio_by_parts"] = by_parts(numbers, records[0] if records else numbers)
        records.append(
            {
                "part": "loop",
                "optimizer": contender.name,
                "path": contender.path,
                "backend": field.backend(contender, optimizer),
                **numbers,
                "texts_per_second": work.texts / numbers["median_s"],
                "throughput_ratio": 1 / numbers["ratio"],
            }
        )
    return records


def by_parts(numbers: dict[str, Any], baseline: dict[str, Any]) -> float:
    """The ratio if forward, backward and clipping cost everybody what they cost the baseline.

    They are the same work, but 98 % of a step: a small disturbance of them hides what differs.
    """
    return 1 + (numbers["optimizer_s"] - baseline["optimizer_s"]) / baseline["median_s"]


# ---- 2. Trainer -------------------------------------------------------------------------------------------------


def trainer_run(work: Work, folder: str, optim: str, *, steps: int, device: str, threads: int) -> dict[str, Any]:
    """Train `steps` steps with Trainer in this process; the first two do not count. Call it in a fresh process."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import PrinterCallback, ProgressCallback, TrainerCallback

    import tamft

    torch.set_num_threads(threads)
    tamft.register()
    moments: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step in (2, steps):
                if device == "cuda":
                    torch.cuda.synchronize()
                moments.append(time.perf_counter())

    model = SentenceTransformer(folder, device=device, model_kwargs={"dtype": torch.float32})
    model.max_seq_length = work.tokens
    half = work.texts // 2
    rows = texts(model.tokenizer, work.texts * steps, work.tokens)
    data = Dataset.from_dict({"anchor": rows[::2], "positive": rows[1::2]})
    with tempfile.TemporaryDirectory(prefix="tamft-bench-") as output:
        args = SentenceTransformerTrainingArguments(
            output_dir=output,
            optim=optim,
            learning_rate=1e-6,
            per_device_train_batch_size=half,
            max_steps=steps,
            bf16=work.bf16,
            use_cpu=device == "cpu",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            report_to=[],
            seed=SEED,
        )
        trainer = SentenceTransformerTrainer(
            model=model, args=args, train_dataset=data, loss=MultipleNegativesRankingLoss(model), callbacks=[Clock()]
        )
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.train()
    facts = record.optimizer_facts(trainer.optimizer)
    return {
        "optim": optim,
        "backend": facts["backend"],
        "state_bytes": facts["state_bytes"],
        "texts_per_second": work.texts * (steps - 2) / (moments[1] - moments[0]),
        "peak_memory_bytes": record.peak_memory_bytes(),
    }


def in_fresh_process(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of `call` in a process of its own: its peak memory is nobody else's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call).result()


def through_trainer(work: Work, folder: str, *, rounds: int, steps: int, device: torch.device) -> list[dict[str, Any]]:
    """Records of the medians over `rounds` runs of each optimizer, which take turns."""
    runs: dict[str, list[dict[str, Any]]] = {optim: [] for optim in LOOP.values()}
    names = list(runs)
    for number in range(rounds):
        for optim in [*names[number % len(names) :], *names[: number % len(names)]]:
            call = partial(
                trainer_run, work, folder, optim, steps=steps, device=device.type, threads=torch.get_num_threads()
            )
            runs[optim].append(in_fresh_process(call))
    speed = {optim: statistics.median(r["texts_per_second"] for r in found) for optim, found in runs.items()}
    return [
        {
            "part": "trainer",
            "optimizer": optim,
            "backend": found[0]["backend"],
            "texts_per_second": speed[optim],
            "throughput_ratio": speed[optim] / speed[names[0]],
            "peak_memory_bytes": statistics.median(r["peak_memory_bytes"] or 0 for r in found) or None,
            "state_bytes": found[0]["state_bytes"],
        }
        for optim, found in runs.items()
    ]


# ---- the program ------------------------------------------------------------------------------------------------


def show(work: Work, weights: str, records: Sequence[dict[str, Any]]) -> None:
    """Print a table for each of the two parts."""
    what = (
        f"{work.model} ({weights} weights), {work.texts} x {work.tokens} tokens, {'bf16' if work.bf16 else 'float32'}"
    )
    rows = []
    for r in (r for r in records if r["part"] == "loop"):
        cells = [r["optimizer"], r["backend"], f"{1e3 * r['median_s']:.1f}", f"{r['ratio']:.4f}"]
        cells += [f"{r['ratio_q25']:.4f}-{r['ratio_q75']:.4f}", f"{r['throughput_ratio']:.4f}"]
        cells += [f"{1e3 * r['optimizer_s']:.1f}", f"{r['ratio_by_parts']:.4f}"] if "optimizer_s" in r else []
        rows.append((False, cells))
    headings = ["optimizer", "backend", "ms per step", "ratio", "quartiles", "throughput ratio"]
    headings += ["optimizer: ms", "ratio by parts"] if rows and len(rows[0][1]) > len(headings) else []
    common.show(f"training step, {what}", headings, rows)
    rows = []
    for r in (r for r in records if r["part"] == "trainer"):
        cells = [r["optimizer"], r["backend"], f"{r['texts_per_second']:.2f}", f"{r['throughput_ratio']:.3f}"]
        cells += [f"{(r['peak_memory_bytes'] or 0) / 1e6:.0f} MB", f"{r['state_bytes'] / 1e6:.0f} MB"]
        rows.append((False, cells))
    if rows:
        headings = ["--optim", "backend", "texts per second", "ratio", "peak memory", "optimizer state"]
        common.show(f"Trainer, {what}", headings, rows)


def measure(
    work: Work, *, rounds: int, steps: int, trainer_rounds: int, trainer_steps: int, device: torch.device
) -> tuple[list[dict[str, Any]], str]:
    """(records of both parts, "published" or "random" weights); `trainer_rounds` 0 leaves the second part out."""
    with tempfile.TemporaryDirectory(prefix="tamft-bench-") as temporary:
        folder, weights = model_folder(work, Path(temporary))
        records = plain_loop(work, folder, rounds=rounds, steps=steps, device=device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if trainer_rounds:
            records += through_trainer(work, folder, rounds=trainer_rounds, steps=trainer_steps, device=device)
    return records, weights


def options() -> Parser:
    """The command line."""
    parser = common.parser("train.py", "Time of a whole training step, and speed through Trainer.", rounds=7)
    parser.add_argument("--model", choices=tuple(MODELS), help="(default: minilm on a CPU, bert on a GPU)")
    return parser


def main(argv: Sequence[str]) -> int:
    """The program. Raises InputError."""
    args = options().parse_words(argv)
    device = common.set_up(args)
    common.no_bars()
    gpu = device.type == "cuda"
    work = MODELS[args.model or ("bert" if gpu else "minilm")]
    if work.bf16 and not gpu:
        raise InputError("--model bert: bf16 autocast is measured on a GPU only; add --device cuda")
    settings = {
        "rounds": 1 if args.short else args.rounds,
        "steps": 1 if args.short else 20 if gpu else 4,
        "trainer_rounds": 0 if args.short else 3,
        "trainer_steps": 60 if gpu else 10,
    }
    records, weights = measure(work, device=device, **settings)
    show(work, weights, records)
    common.say("ratio: seconds over those with torch's fused AdamW; throughput ratio: the other way round.")
    if not gpu:
        common.say(
            "ratio by parts: only the optimizer's own time differs, the rest of the step counted as the baseline's."
        )
    if args.json:
        report = common.provenance("training step", "train.py", argv, device, SEED)
        report |= {"work": asdict(work) | {"weights": weights}, **settings, "results": records}
        common.write(args.json, report)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.command(main))
