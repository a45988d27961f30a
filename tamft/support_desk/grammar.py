"""From phrases to texts: choices, slots, small talk and typing errors, all drawn from one `random.Random`."""

import random
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple, TypeVar

T = TypeVar("T")

SLOTS: dict[str, tuple[str, ...]] = {
    "product": ("Kestrel", "Otter", "Ember", "Tansy", "Bellows", "Moth"),
    "plan": ("Sprig", "Bramble", "Canopy"),
    "amount": ("9.90", "14.90", "23.50", "39", "48.20", "59", "79.99", "112", "149", "205.40"),
    "days": ("2", "3", "4", "5", "6", "7", "9", "11", "12", "16", "21"),
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "colour": ("moss", "slate", "copper", "sand", "plum", "ivory"),
    "place": ("garage", "station", "cellar", "attic", "garden", "hallway", "old town", "guest room"),
    "person": ("my sister", "my flatmate", "my mother", "my ex", "my neighbour", "our babysitter", "my son", "Noor"),
}
# Small talk around the question carries no meaning; the test sets have their own.
OPENINGS = (
    "Hi,",
    "Hello,",
    "Hey there,",
    "Good morning,",
    "Quick question:",
    "Dear team,",
    "Sorry to ask, but",
    "Help!",
)
HELD_OUT_OPENINGS = ("Evening all,", "Me again,", "To whom it may concern:", "Hiya,", "So,", "Nice shop, but", "Ugh.")
CLOSINGS = ("Thanks.", "Thank you!", "Please help.", "Best, Jo", "Any ideas?", "It is urgent.", "Regards")
HELD_OUT_CLOSINGS = ("Cheers", "Waiting for an answer.", "Much obliged.", "I wrote before.", "ta", "Ms Okafor")


class Intent(NamedTuple):
    """One thing that customers want: phrases of questions, and passages of the FAQ that answer them."""

    name: str
    topic: str
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    train_answers: tuple[str, ...]
    held_out_answers: tuple[str, ...]

    @property
    def family(self) -> str:
        """What siblings share: the part of the name before the dot."""
        return self.name.partition(".")[0]


class Question(NamedTuple):
    """A question and what it is about. `product` is "" where the text names none."""

    text: str
    intent: Intent
    product: str


@cache
def intents() -> tuple[Intent, ...]:
    """All intents, in a fixed order, from `phrases/<number>_<topic>.txt`.

    A file holds blocks: `## name`, then lines that begin with `- ` (phrase for training), `+ ` (held-out phrase),
    `> ` (answer for training) or `< ` (held-out answer). `[a|b]` is a choice, `{product}` a slot.
    """
    found = []
    for file in sorted((files(__package__) / "phrases").iterdir(), key=lambda file: file.name):
        topic = file.name.removesuffix(".txt").partition("_")[2]
        for block in file.read_text(encoding="utf-8").split("## ")[1:]:
            name, *lines = block.strip().splitlines()
            kinds = [tuple(line[2:] for line in lines if line.startswith(mark)) for mark in ("- ", "+ ", "> ", "< ")]
            found.append(Intent(name, topic, *kinds))
    return tuple(found)


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """One item. Not `random.choice`: only the sequence of `random()` is promised to stay the same for ever."""
    return items[int(rng.random() * len(items))]


def fill(rng: random.Random, phrase: str) -> tuple[str, str]:
    """Decide the choices and slots of a phrase: (text, product named in it or "")."""
    text = re.sub(r"\[([^]]*)\]", lambda match: pick(rng, match[1].split("|")), phrase)
    values = {slot: pick(rng, SLOTS[slot]) for slot in re.findall(r"\{(\w+)\}", text)}
    return text.format(**values), values.get("product", "")


def ask(rng: random.Random, intent: Intent, phrase: str, *, held_out: bool) -> Question:
    """A question as a customer would type it: with or without small talk, capitals, a full stop and an error."""
    text, product = fill(rng, phrase)
    if rng.random() < 0.4:
        text = f"{pick(rng, HELD_OUT_OPENINGS if held_out else OPENINGS)} {text}"
    if text[-1].isalnum() and rng.random() < 0.6:
        text += "?" if re.match(r"(how|what|where|when|why|can|is|do|does|who|would|could)\b", text) else "."
    if rng.random() < 0.3:
        text = f"{text} {pick(rng, HELD_OUT_CLOSINGS if held_out else CLOSINGS)}"
    if rng.random() < 0.25:
        text = _mistype(rng, text)
    if rng.random() < 0.25:
        return Question(text.lower(), intent, product)
    return Question(text[0].upper() + text[1:], intent, product)


def _mistype(rng: random.Random, text: str) -> str:
    """Swap, drop or double one letter inside a word of five letters or more."""
    inner = [match.start() + i for match in re.finditer(r"[A-Za-z]{5,}", text) for i in range(1, len(match[0]) - 2)]
    if not inner:
        return text
    at = pick(rng, inner)
    one, two = text[at], text[at + 1]
    return text[:at] + pick(rng, (two + one, two, one + one + two)) + text[at + 2 :]
