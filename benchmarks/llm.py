"""What LoRA on a decoder of 0.6 billion weights costs: samples per second and peak memory, by optimizer.

    python benchmarks/llm.py --device cuda --json benchmarks/results/llm_cuda.json
    python benchmarks/llm.py --short

The shape of Qwen3-Embedding-0.6B with random bf16 weights, float32 adapters (r = 16 on all linear layers), the cached
contrastive loss over 1,024 pairs of random tokens, bf16 autocast: what recipes/llm_lora.py does in a step. All
optimizers take turns on the same model and batch, and the order rotates. --short: a tiny model, also on a CPU.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import common
import contenders as field
import torch

from tamft.errors import InputError
from tamft.parser import Parser
from tamft.train import lora, losses, record

SEED = 0
# name and path in the table of contenders -> name for --optim; the first is what the others are divided by
RIVALS = {
    ("torch AdamW", "fused"): "adamw_torch_fused",
    ("AdaTAMW", "default"): "adatamw",
    ("AdamW-MSAM", "default"): "adamw_msam",
}


@dataclass(frozen=True)
class Work:
    """A decoder's shape and a batch: `pairs` of texts of `tokens` tokens, `mini_batch_tokens` of them at once."""

    model: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    inner: int
    pairs: int
    tokens: int
    mini_batch_tokens: int
    lora_r: int = 16


FULL = Work("Qwen3 0.6B", 151_669, 1024, 28, 16, 3072, pairs=1024, tokens=128, mini_batch_tokens=8192)
SHORT = replace(FULL, model="Qwen3 tiny", vocabulary=500, hidden=64, layers=2, heads=4, inner=128, pairs=16, tokens=16)


def decoder(work: Work, device: torch.device) -> Any:
    """The SentenceTransformer: random bf16 weights, last-token pooling, float32 adapters."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

    torch.manual_seed(SEED)
    sizes = {
        "vocab_size": work.vocabulary,
        "hidden_size": work.hidden,
        "intermediate_size": work.inner,
        "num_hidden_layers": work.layers,
        "num_attention_heads": work.heads,
        "num_key_value_heads": work.heads // 2,
        "head_dim": 2 * work.hidden // work.heads,
        "use_cache": False,
    }
    with tempfile.TemporaryDirectory(prefix="tamft-bench-") as folder:
        # sentence-transformers reads a folder: a small one, whose model is replaced by the large one in memory.
        Qwen3Model(Qwen3Config(**sizes | {"vocab_size": 8, "num_hidden_layers": 1})).save_pretrained(folder)
        tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[UNK]").save_pretrained(folder)
        word = Transformer(folder)
    word.model = None
    with torch.device(device):
        word.model = Qwen3Model(Qwen3Config(**sizes)).to(torch.bfloat16)
    model = SentenceTransformer(modules=[word, Pooling(work.hidden, "lasttoken")], device=str(device))
    options = {"lora_alpha": 32, "lora_dropout": 0.0, "lora_target_modules": [lora.ALL_LINEAR]}
    off = dict.fromkeys(("use_rslora", "use_dora", "loraplus_lr_ratio", "load_in_4bit"))
    lora.add_adapters(model, SimpleNamespace(model=work.model, lora_r=work.lora_r, **options, **off), None)
    return model.train()


def measure(work: Work, *, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """A record for each optimizer; seconds are those of a training step, `peak_memory_bytes` is None on a CPU."""
    model = decoder(work, device)
    loss = losses.make_loss(
        model,
        "CachedMultipleNegativesRankingLoss",
        mini_batch_tokens=work.mini_batch_tokens,
        mini_batch_size=work.pairs,
    )
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(1, work.vocabulary, (2, work.pairs, work.tokens), generator=generator).to(device)
    batch = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids]
    params = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rivals = [rival for rival in field.contenders() if (rival.name, rival.path) in RIVALS]
    optimizers = [rival.make(params) for rival in rivals]

    def step(optimizer: torch.optim.Optimizer) -> None:
        if hasattr(optimizer, "train"):
            optimizer.train()
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            value = loss(batch, None)
            value.backward()  # inside: the cached loss runs the model again here
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()

    def turn(optimizer: torch.optim.Optimizer) -> common.Measures:
        if device.type == "cpu":
            return common.cpu_time(partial(step, optimizer))
        torch.cuda.reset_peak_memory_stats()
        found = common.cuda_time(partial(step, optimizer))
        others = sum(record.state_bytes(other) for other in optimizers if other is not optimizer)
        return found | {"peak_bytes": float(torch.cuda.max_memory_allocated() - others)}

    measured = common.alternate([partial(turn, optimizer) for optimizer in optimizers], rounds=rounds, warmup=1)
    records = []
    for rival, optimizer, measures in zip(rivals, optimizers, measured, strict=True):
        peak = max((int(m.pop("peak_bytes")) for m in measures if "peak_bytes" in m), default=None)
        numbers = common.summary(measures, measured[0])
        records.append(
            {
                "optimizer": RIVALS[rival.name, rival.path],
                "backend": field.backend(rival, optimizer),
                **numbers,
                "samples_per_second": work.pairs / numbers["median_s"],
                "peak_memory_bytes": peak,
                "state_bytes": record.state_bytes(optimizer),
            }
        )
    return records


def show(work: Work, records: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    rows = []
    for r in records:
        cells = [r["optimizer"], r["backend"], f"{r['samples_per_second']:.1f}", f"{r['ratio']:.4f}"]
        cells += [f"{r['ratio_q25']:.4f}-{r['ratio_q75']:.4f}", f"{r['state_bytes'] / 1e6:.1f} MB"]
        cells += ["" if r["peak_memory_bytes"] is None else f"{r['peak_memory_bytes'] / 1e9:.2f} GB"]
        rows.append((False, cells))
    headings = ["optimizer", "backend", "pairs per second", "ratio of times", "quartiles", "state", "peak memory"]
    common.show(f"LoRA step, {work.model}, {work.pairs} pairs, 2 x {work.tokens} tokens", headings, rows)


def options() -> Parser:
    """The command line."""
    return common.parser("llm.py", "Speed and peak memory of LoRA on a decoder of 0.6B weights.", rounds=5)


def main(argv: Sequence[str]) -> int:
    """The program. Raises InputError."""
    args = options().parse_words(argv)
    device = common.set_up(args)
    if device.type == "cpu" and not args.short:
        raise InputError(
            "a decoder of 0.6B weights needs a GPU: add --device cuda where there is one, or --short for a tiny model"
        )
    common.no_bars()
    work = SHORT if args.short else FULL
    records = measure(work, rounds=2 if args.short else args.rounds, device=device)
    show(work, records)
    if args.json:
        report = common.provenance("LoRA step", "llm.py", argv, device, SEED)
        common.write(args.json, report | {"work": asdict(work), "results": records})
    return 0


if __name__ == "__main__":
    raise SystemExit(common.command(main))
