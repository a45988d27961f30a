"""Training pairs for a seed, and the four test sets of the `embedded` suite, which never change."""

import hashlib
import json
import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tamft.atomic import write_atomically
from tamft.errors import InputError
from tamft.support_desk.grammar import Intent, Question, ask, fill, intents, pick

TEST_SEED = 20240607  # of the test sets; training may use any seed


def normal_form(text: str) -> str:
    """Letters and digits in lower case: two texts with equal forms count as the same text."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def training_pairs(rows: int, *, seed: int) -> Iterator[dict[str, str]]:
    """Yield `rows` pairs {anchor, positive, intent}: a question, and another of its intent or a part of the answer.

    The intents take turns, so that each has the same share (to within one) in any stretch of the data.
    """
    rng = random.Random(seed)
    made = 0
    while made < rows:
        for _, intent in sorted((rng.random(), intent) for intent in intents()):
            if made == rows:
                return
            phrase = pick(rng, intent.train)
            if rng.random() < 0.35:
                # A part of the passage: whole passages are three times as long as questions, and in a batch all
                # texts cost as much as the longest.
                answer, _ = fill(rng, pick(rng, intent.train_answers))
                positive = pick(rng, re.split(r"(?<=[.?;:]) ", answer))
            else:
                positive = _training_text(rng, intent, pick(rng, [other for other in intent.train if other != phrase]))
            yield {"anchor": _training_text(rng, intent, phrase), "positive": positive, "intent": intent.name}
            made += 1


def _training_text(rng: random.Random, intent: Intent, phrase: str) -> str:
    # Held-out phrases differ from training phrases, but a typing error could make two of them equal for some seed:
    # looking it up makes "no training text is a test text" true for all of them.
    while normal_form(text := ask(rng, intent, phrase, held_out=False).text) in test_texts():
        pass
    return text


def write_training_pairs(path: Path, rows: int, *, seed: int) -> str:
    """Write `training_pairs` as JSON lines (UTF-8, \\n), replacing `path` in one step; return the file's sha256.

    Raises `InputError` for fewer than one row.
    """
    if rows < 1:
        raise InputError(f"rows={rows}: there is nothing to write; ask for at least 1 row")
    lines = (json.dumps(pair, ensure_ascii=False, sort_keys=True) + "\n" for pair in training_pairs(rows, seed=seed))
    content = "".join(lines).encode()
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def _questions(rng: random.Random, intent: Intent, phrases: tuple[str, ...], number: int) -> list[Question]:
    """`number` different questions from the phrases in turn."""
    found: dict[str, Question] = {}
    while len(found) < number:
        question = ask(rng, intent, phrases[len(found) % len(phrases)], held_out=True)
        found.setdefault(normal_form(question.text), question)
    return list(found.values())


def classification_set() -> dict[str, list[Question]]:
    """{"train": 12, "test": 8 questions per intent}; train (what a probe is fitted on) and test share no phrase."""
    rng = random.Random(TEST_SEED + 1)

    def half(first: int, number: int) -> list[Question]:
        return [question for i in intents() for question in _questions(rng, i, i.held_out[first::2], number)]

    return {"train": half(0, 12), "test": half(1, 8)}


def sts_set() -> list[tuple[Question, Question, float]]:
    """Up to 15 pairs per intent, with a score in [0, 5].

    5 the same intent, 3 siblings, 1.5 the same topic, 0 nothing in common; naming different products costs 1 in a pair
    of the same intent, and the same product is worth 0.5 in any other pair.
    """
    rng = random.Random(TEST_SEED + 2)
    pairs = []
    for intent in intents():
        siblings = [other for other in intents() if other.family == intent.family and other is not intent]
        colleagues = [other for other in intents() if other.topic == intent.topic and other.family != intent.family]
        strangers = [other for other in intents() if other.topic != intent.topic]
        for others, score, number in (
            ((intent,), 5.0, 5),
            (siblings, 3.0, 3),
            (colleagues, 1.5, 3),
            (strangers, 0.0, 4),
        ):
            for _ in range(number if others else 0):
                one, two = _two(rng, intent, pick(rng, others))
                same = bool(one.product) and one.product == two.product
                if score == 5.0:
                    pairs.append((one, two, 4.0 if one.product and two.product and not same else 5.0))
                else:
                    pairs.append((one, two, score + 0.5 * same))
    return pairs


def _two(rng: random.Random, first: Intent, second: Intent) -> tuple[Question, Question]:
    """One question of each intent, from different phrases."""
    phrase = pick(rng, first.held_out)
    other = pick(rng, [candidate for candidate in second.held_out if candidate != phrase])
    return ask(rng, first, phrase, held_out=True), ask(rng, second, other, held_out=True)


def retrieval_set() -> tuple[list[Question], list[tuple[Intent, str]]]:
    """(6 questions per intent, the held-out passages of the FAQ with the intent that each answers)."""
    rng = random.Random(TEST_SEED + 3)
    queries = [question for intent in intents() for question in _questions(rng, intent, intent.held_out, 6)]
    return queries, [(intent, fill(rng, answer)[0]) for intent in intents() for answer in intent.held_out_answers]


def clustering_set() -> list[Question]:
    """12 questions per intent."""
    rng = random.Random(TEST_SEED + 4)
    return [question for intent in intents() for question in _questions(rng, intent, intent.held_out, 12)]


@cache
def test_texts() -> frozenset[str]:
    """The normal forms of all texts of the four test sets."""
    queries, passages = retrieval_set()
    questions = [*(q for split in classification_set().values() for q in split), *queries, *clustering_set()]
    questions += [question for one, two, _ in sts_set() for question in (one, two)]
    return frozenset(normal_form(text) for text in [*(q.text for q in questions), *(text for _, text in passages)])
