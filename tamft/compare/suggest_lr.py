"""`tamft suggest-lr`: a learning rate that is known for AdamW or SGD, carried over to one of tamft's optimizers.

The rule is `tamft.optim.transfer_lr`: a torque optimizer's steps are E[d] = (1 + E[ŝ])/2 times as long as its parent's.
E[ŝ] belongs to the model and the data, so a short training measures it.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamft import registry
from tamft.compare.runs import as_words
from tamft.errors import InputError
from tamft.optim import AdamWMSAM, AdaTAM, AdaTAMW
from tamft.optim.transfer import transfer_lr
from tamft.optim_args import nearest
from tamft.parser import Parser

ADAMS = ("adamw_torch", "adamw_torch_fused", "torch.optim.AdamW", "torch.optim.Adam")
HEAVY_BALLS = ("sgd", "torch.optim.SGD")
STEPS, LEAST = 30, 10
# Options of a recipe that the measurement sets itself.
OURS = ("optim", "optim_args", "learning_rate", "output_dir", "max_steps", "weight_decay", "overwrite_output_dir")
EXAMPLES = """\
examples:
  tamft suggest-lr --from adamw_torch 2e-5 --optim adatamw --config minilm_banking77 --train_file pairs.jsonl
  tamft suggest-lr --from sgd 0.1 --optim tam --config minilm_banking77 --train_file pairs.jsonl
  tamft suggest-lr --from adamw_torch 2e-5 --optim adatamw --optim_args first_moment=sum --no_run

Every option that is not listed above goes to the recipe. The rate is where steps are about as long as the parent's:
where a search should begin, not where it should end.
"""


@dataclass(frozen=True)
class Measured:
    """ŝ of the second half of a short training: its mean, quantiles over tensors, and spread over steps."""

    mean: float
    q10: float
    q90: float
    over_time: float
    steps: int


@dataclass(frozen=True)
class Rule:
    """How steps of an optimizer compare with its parent's."""

    torque: bool  # whether d is in the way of the step
    first_moment: str
    decoupled: bool

    def rate(self, lr: float, alignment: float, beta1: float) -> float:
        """The rate at which steps are as long as the parent's at `lr`."""
        if self.torque:
            return transfer_lr(lr, alignment=alignment, first_moment=self.first_moment, beta1=beta1)
        return lr * (1 - beta1 if self.first_moment == "sum" else 1.0)

    def decay(self, weight_decay: float, lr: float, rate: float) -> float:
        """The weight decay that is as strong at `rate`: a decoupled one is multiplied by the rate."""
        return weight_decay * lr / rate if self.decoupled and rate else weight_decay


def rule_for(optim: str, options: dict[str, Any], parent: str) -> Rule:
    """The rule from `parent` to `optim` with `options` of its own. Raises InputError where there is none."""
    entry = registry.get(optim)
    adam = issubclass(entry.cls, AdaTAM | AdaTAMW | AdamWMSAM)
    parents = ADAMS if adam else HEAVY_BALLS
    if parent not in parents:
        raise InputError(
            f"--from {parent}: no rule leads from it to {optim}{nearest(parent, parents)} The rate has to be one for "
            f"{' or '.join(parents)}; another family's says nothing about it"
        )
    known = registry.options(optim)
    values = {key: option.default for key, option in known.items()} | options
    torque = bool(values.get("torque", False)) and not values.get("rescale", False)
    return Rule(torque, values.get("first_moment", "ema"), issubclass(entry.cls, AdaTAMW | AdamWMSAM))


def measure(record: dict[str, Any]) -> Measured:
    """ŝ from run.json. Raises InputError where the run has none."""
    entries = [values for _, values in record.get("telemetry") or [] if "alignment_mean" in values]
    late = entries[len(entries) // 2 :]
    if not late:
        raise InputError(
            f"the run logged no alignment (status {record.get('status')}); give it --steps {STEPS} or more"
        )
    means = [one["alignment_mean"] for one in late]
    low, high = (statistics.fmean(one[f"alignment_{key}"] for one in late) for key in ("q10", "q90"))
    return Measured(statistics.fmean(means), low, high, statistics.pstdev(means), len(entries))


def main(argv: Sequence[str]) -> int:
    """`tamft suggest-lr …`. Returns the exit code: the recipe's where it did not end well. Raises InputError."""
    args, rest = _parse(argv)
    parent, lr = args.parent[0], _rate(args.parent[1])
    options = registry.parse_optim_args(args.optim, args.optim_args)
    rule = rule_for(args.optim, options, parent)
    frozen = options.get("gamma") == 1
    guess = rule.rate(lr, 0.0, args.adam_beta1)
    found = None
    if rule.torque and not frozen and not args.no_run:
        code, record = _run(args, rest, guess)
        if code != 0:
            return code
        found = measure(record)
    print(_text(args, rule, parent, lr, guess, found))
    return 0


def _run(args: argparse.Namespace, rest: list[str], rate: float) -> tuple[int, dict[str, Any]]:
    """A short training with the recipe in a process group of its own: exit code and run.json."""
    from tamft.train.launch import main as launch

    with tempfile.TemporaryDirectory(prefix="tamft-") as folder:
        ours = {
            "config": args.config,
            "optim": args.optim,
            "optim_args": args.optim_args,
            "learning_rate": rate,
            "weight_decay": args.weight_decay,
            "adam_beta1": args.adam_beta1,
            "max_steps": args.steps,
            "logging_steps": 1,
            "save_strategy": "no",
            "eval_strategy": "no",
            "report_to": "none",
            "output_dir": str(Path(folder) / "run"),
        }
        code = launch([args.recipe, *rest, *as_words(ours)])
        path = Path(folder) / "run" / "run.json"
        return code, json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _text(args: argparse.Namespace, rule: Rule, parent: str, lr: float, guess: float, found: Measured | None) -> str:
    rate = rule.rate(lr, found.mean, args.adam_beta1) if found else guess
    decay = rule.decay(args.weight_decay, lr, rate)
    lines = []
    if found:
        ends = sorted(rule.rate(lr, s, args.adam_beta1) for s in (found.q10, found.q90))
        lines += [
            f"measured   ŝ {found.mean:.3f} in the last {found.steps - found.steps // 2} of {found.steps} steps; "
            f"{found.q10:.3f} to {found.q90:.3f} over tensors (10 % to 90 %), ± {found.over_time:.3f} over steps",
            f"so         d is {(1 + found.mean) / 2:.3f} on average; unmeasured, the rate would be {guess:.3g}",
        ]
    elif rule.torque:
        lines.append("not measured: ŝ is taken as 0, which is about right for small batches")
    lines.append(f"rate       {rate:.3g}   (--learning_rate {rate:.3g}; {parent} {lr:g})")
    if found:
        lines.append(
            f"sure       {ends[0]:.3g} to {ends[1]:.3g}, by the spread over tensors; a search tries half and double"
        )
    if args.weight_decay:
        why = f"decay times rate stays {lr * args.weight_decay:.3g}" if rule.decoupled else "part of the gradient"
        lines.append(f"decay      {decay:.3g}   (--weight_decay {decay:.3g}; {why})")
    if "rho" in registry.options(args.optim) and (registry.options(args.optim)["rho"].default or 0) > 0:
        lines.append(
            "rho        not covered: the perturbation changes where gradients are taken, not how long steps are"
        )
    return "\n".join(lines)


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(
        prog="tamft suggest-lr",
        description="Carry a learning rate over to a torque optimizer, with a short measured run.",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "--from",
        dest="parent",
        nargs=2,
        required=True,
        metavar=("NAME", "RATE"),
        help="adamw_torch or sgd, and its rate",
    )
    parser.add_argument("--optim", required=True, metavar="NAME", help=", ".join(registry.names()))
    parser.add_argument("--optim_args", metavar="TEXT", help="its options, as in training")
    parser.add_argument("--weight_decay", type=float, default=0.0, metavar="W", help="that goes with the known rate")
    parser.add_argument("--adam_beta1", type=float, default=0.9, metavar="B", help="(default: 0.9)")
    parser.add_argument("--recipe", default="encoder_pairs", metavar="NAME", help="(default: encoder_pairs)")
    parser.add_argument("--config", metavar="NAME", help="the recipe's config")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help=f"of the measured run (default: {STEPS})")
    parser.add_argument("--no_run", action="store_true", help="the rule alone, with ŝ = 0")
    args, rest = parser.parse_known_args([_flag(word) for word in argv])
    if args.steps < LEAST:
        raise InputError(f"--steps {args.steps}: ŝ needs {LEAST} steps to settle")
    given = [word[2:].partition("=")[0] for word in rest if word.startswith("--")]
    taken = next((key for key in given if key in OURS), None)
    if taken:
        raise InputError(f"--{taken}: the measured run sets this itself; leave it out (--steps N sets its length)")
    if rest and args.no_run:
        raise InputError(f"{rest[0]} is of a training, and --no_run asks for none; leave one of them out")
    return args, rest


def _flag(word: str) -> str:
    """Hyphens in flags are underscores."""
    flag, equals, value = word.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value if flag.startswith("--") else word


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"--from …: the rate {text!r} is no number above 0")
    return value
