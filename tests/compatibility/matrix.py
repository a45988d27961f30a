"""What is tried: rows and columns, what cannot be combined and why, and combinations that cover every pair."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from tests.compatibility.cell import Cell
from tests.compatibility.optimizers import COLUMNS, MUON, PERTURBING
from tests.compatibility.trainers import TRAINERS
from tests.compatibility.ways import PRECISIONS, WRAPPERS

# The words before the script; `{python}` is this interpreter. Under the first the script calls tamft.register() itself.
LAUNCHERS: dict[str, tuple[str, int]] = {
    "python script.py": ("", 1),
    "tamft run": ("-m tamft.cli run", 1),
    "python -m tamft.run": ("-m tamft.run", 1),
    "accelerate launch -m tamft.run": (
        "-m accelerate.commands.launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no "
        "--dynamo_backend no -m tamft.run",
        1,
    ),
    "torchrun -m tamft.run": ("-m torch.distributed.run --standalone --nproc_per_node 1 -m tamft.run", 1),
    "torchrun -m tamft.run, 2 processes": (
        "-m torch.distributed.run --standalone --nproc_per_node 2 -m tamft.run",
        2,
    ),
}
AXES: dict[str, list[str]] = {
    "trainer": list(TRAINERS),
    "launcher": list(LAUNCHERS),
    "precision": list(PRECISIONS),
    "wrapper": list(WRAPPERS),
    "optimizer": COLUMNS,
}
Value = tuple[str, str]  # (axis, name)

_TRL = [name for name in TRAINERS if name.startswith(("SFT", "DPO", "KTO", "Reward", "GRPO", "Online"))]
_SENTENCES = ["SentenceTransformerTrainer", "SparseEncoderTrainer", "CrossEncoderTrainer"]
_DDP = ("torchrun -m tamft.run", "torchrun -m tamft.run, 2 processes")
_LOOPS = [name for name in TRAINERS if "loop" in name]


@dataclass(frozen=True)
class Rule:
    """Every name of `one` together with every name of `other`, and why not."""

    one: tuple[str, list[str]]
    other: tuple[str, list[str]]
    reason: str
    pattern: str = ""  # of a refusal: what its error says
    under: tuple[str, ...] = ()  # only under these launchers
    word: str = "refused"  # what the table says

    def holds(self, a: Value, b: Value) -> bool:
        """Whether the pair alone is enough."""
        (x, xs), (y, ys) = self.one, self.other
        if self.under:
            return False
        return any(p[0] == x and p[1] in xs and q[0] == y and q[1] in ys for p, q in ((a, b), (b, a)))

    def applies(self, cell: Cell) -> bool:
        (x, xs), (y, ys) = self.one, self.other
        both = getattr(cell, x) in xs and getattr(cell, y) in ys
        return both and (not self.under or cell.launcher in self.under)

    def matches(self, error: str) -> bool:
        return re.search(self.pattern, error) is not None


# Not tried: there is nothing that could be.
IMPOSSIBLE: list[Rule] = [
    Rule(
        ("trainer", _LOOPS),
        ("wrapper", [name for name, way in WRAPPERS.items() if not way.in_loops]),
        "a feature of Trainer",
    ),
    Rule(
        ("trainer", ["PyTorch loop", "PyTorch loop, closure"]),
        ("launcher", [name for name in LAUNCHERS if name != "python script.py"]),
        "the loop knows neither Trainer nor accelerate: there is nothing to launch",
    ),
    Rule(
        ("trainer", ["Trainer", "SentenceTransformerTrainer", "CrossEncoderTrainer", "RewardTrainer", *_LOOPS]),
        ("wrapper", ["tied embeddings"]),
        "the model has no output embeddings to tie",
    ),
    Rule(("trainer", _SENTENCES), ("wrapper", ["NEFTune"]), "not offered by sentence-transformers' models"),
    Rule(
        ("trainer", _TRL),
        ("wrapper", ["model_init", "hyperparameter_search (Optuna)"]),
        "TRL's trainers take no model_init",
    ),
    Rule(
        ("trainer", ["DPOTrainer", "KTOTrainer", "RewardTrainer", "GRPOTrainer", "OnlineDPOTrainer"]),
        ("wrapper", ["group_by_length"]),
        "the rows have no input_ids to measure",
    ),
    Rule(
        ("trainer", ["OnlineDPOTrainer"]),
        ("wrapper", [name for name, way in WRAPPERS.items() if "eval_strategy" in way.arguments]),
        "TRL's online DPO cannot evaluate on prompts",
    ),
    Rule(("trainer", ["GRPOTrainer"]), ("wrapper", ["auto_find_batch_size"]), "TRL refuses it"),
    Rule(
        ("trainer", ["PyTorch loop, closure"]),
        ("precision", ["GradScaler, one step skipped", "fp16 autocast (--fp16)"]),
        "torch's GradScaler takes no closures",
    ),
    Rule(
        ("trainer", ["SentenceTransformerTrainer", "SparseEncoderTrainer"]),
        ("wrapper", ["gradient checkpointing, reentrant"]),
        "torch's DDP stops: sentence-transformers runs the model twice, and parameters are marked ready twice",
        under=_DDP,
    ),
    Rule(
        ("trainer", _SENTENCES),
        ("wrapper", ["hyperparameter_search (Optuna)"]),
        "sentence-transformers' loss keeps the first trial's model, so the later ones train nothing",
        under=_DDP,
    ),
]
# Tried, and turned down with a clear error, or short of something that is not tamft's to give.
REFUSED: list[Rule] = [
    Rule(
        ("trainer", ["OnlineDPOTrainer"]),
        ("optimizer", PERTURBING),
        "its training step never calls optimizer.train(), so ρ > 0 stops in the second step",
        r"the gradient was not taken at the perturbed weights",
    ),
    Rule(
        ("trainer", ["OnlineDPOTrainer"]),
        ("optimizer", ["schedulefree.AdamWScheduleFree"]),
        "its training step never calls optimizer.train()",
        r"Optimizer was not in train mode",
    ),
    Rule(
        ("wrapper", [name for name, way in WRAPPERS.items() if way.own_optimizer]),
        ("optimizer", ["schedulefree.AdamWScheduleFree"]),
        "Trainer saves the weights of its training point; tamft calls eval() for the optimizers that `--optim` makes",
        r"holds weights that are not the clean ones",
        word="trains",
    ),
    Rule(
        ("precision", ["bf16 weights"]),
        ("optimizer", PERTURBING),
        "16-bit weights lose a small perturbation: float32 weights with --bf16, or allow_low_precision=true",
        r"a perturbation this small is mostly lost to rounding",
    ),
    *(
        Rule(
            (axis, names),
            ("optimizer", [MUON]),
            "torch's Muon takes matrices only; tamft gives AdamW the rest where Trainer makes the optimizer",
            r"Muon only supports 2D parameters",
        )
        for axis, names in (
            ("trainer", _LOOPS),
            ("wrapper", [name for name, way in WRAPPERS.items() if way.own_optimizer]),
        )
    ),
]
# Trained and saved, but the resumed run ends elsewhere; with torch's AdamW too.
NOT_RESUMED: list[Rule] = [
    Rule(
        ("trainer", _SENTENCES),
        ("wrapper", ["DoRA"]),
        "sentence-transformers does not load DoRA's magnitudes from a checkpoint",
    ),
    Rule(
        ("trainer", ["CrossEncoderTrainer"]),
        ("wrapper", ["LoRA"]),
        "the head is not in the adapter's checkpoint, and sentence-transformers makes a new one",
    ),
]


def _first(rules: list[Rule], cell: Cell) -> Rule | None:
    return next((rule for rule in rules if rule.applies(cell)), None)


def impossible(cell: Cell) -> Rule | None:
    return _first(IMPOSSIBLE, cell)


def refused(cell: Cell) -> Rule | None:
    return _first(REFUSED, cell)


def resumes(cell: Cell) -> bool:
    return _first(NOT_RESUMED, cell) is None


def rows() -> dict[str, list[str]]:
    """The table's rows by heading. What a row leaves open is as in an ordinary training."""
    return {axis: [name for name in names if name != "none"] for axis, names in AXES.items() if axis != "optimizer"}


def row_cell(axis: str, name: str, column: str) -> Cell:
    base = {"trainer": WRAPPERS[name].base} if axis == "wrapper" else {}
    return Cell(**{**base, axis: name, "optimizer": column})


def pairs() -> list[tuple[Value, Value]]:
    """All pairs of values of two axes that can be combined, in a fixed order."""
    barred = [*IMPOSSIBLE, *REFUSED]
    return [
        ((one, a), (other, b))
        for one, other in combinations(AXES, 2)
        for a in AXES[one]
        for b in AXES[other]
        if not any(rule.holds((one, a), (other, b)) for rule in barred)
    ]


def covering() -> Iterator[Cell]:
    """Cells in which every pair of `pairs()` occurs: greedy, without chance, and none of them impossible or refused.

    Each cell starts from the first pair that is still open and takes, axis by axis, the value that closes most of the
    open ones (the first such value; ordinary ones stand first).
    """
    allowed = set(pairs())
    open_pairs = dict.fromkeys(pairs())
    order = list(AXES)

    def pair(a: Value, b: Value) -> tuple[Value, Value]:
        return (a, b) if order.index(a[0]) < order.index(b[0]) else (b, a)

    while open_pairs:
        chosen = dict(next(iter(open_pairs)))
        left = [axis for axis in order if axis not in chosen]
        if not _complete(chosen, left, allowed, open_pairs, pair):
            raise AssertionError(f"{chosen} can be combined with nothing: declare it in IMPOSSIBLE")
        for a, b in combinations(chosen.items(), 2):
            open_pairs.pop(pair(a, b), None)
        yield Cell(**chosen)


def _complete(chosen, left, allowed, open_pairs, pair) -> bool:
    """Fill the axes in `left`, best value first, going back where nothing fits."""
    if not left:
        return impossible(Cell(**chosen)) is None
    axis = left[0]
    scored = []
    for name in AXES[axis]:
        made = [pair(value, (axis, name)) for value in chosen.items()]
        if all(p in allowed for p in made):
            scored.append((-sum(p in open_pairs for p in made), len(scored), name))
    for _, _, name in sorted(scored):
        chosen[axis] = name
        if _complete(chosen, left[1:], allowed, open_pairs, pair):
            return True
        del chosen[axis]
    return False
