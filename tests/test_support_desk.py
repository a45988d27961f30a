"""The data that the project makes: the same bytes for a seed, and nothing of the test sets in the training set."""

import json
import random
import re
from collections import Counter

import pytest

from tamft import support_desk
from tamft.errors import InputError
from tamft.support_desk.grammar import SLOTS, ask, fill, pick

# Change these only together with the phrases: they are what "the same data everywhere" means.
TRAINING_SEED_0 = "b9fa9a3f01c7904a066290a2a98fe88a5f7f6cd3abaffda7d73095f58993d266"


def questions_of_test_sets() -> list[support_desk.Question]:
    queries, _ = support_desk.retrieval_set()
    pairs = [question for one, two, _ in support_desk.sts_set() for question in (one, two)]
    probes = [question for questions in support_desk.classification_set().values() for question in questions]
    return [*queries, *pairs, *probes, *support_desk.clustering_set()]


def test_the_intents_are_many_and_confusable():
    intents = support_desk.intents()
    assert len(intents) == len({intent.name for intent in intents}) == 48
    assert set(Counter(intent.topic for intent in intents).values()) == {6}
    siblings = Counter(intent.family for intent in intents)
    assert sum(n for n in siblings.values() if n > 1) >= 36


@pytest.mark.parametrize("intent", support_desk.intents(), ids=lambda intent: intent.name)
def test_an_intent_is_complete(intent):
    assert (len(intent.train), len(intent.held_out)) == (7, 6)
    assert (len(intent.train_answers), len(intent.held_out_answers)) == (1, 2)
    for phrase in (*intent.train, *intent.held_out, *intent.train_answers, *intent.held_out_answers):
        assert phrase == phrase.strip()
        assert set(re.findall(r"\{(\w+)\}", phrase)) <= set(SLOTS)
        assert not re.search(r"[\[\]{}|]", fill(random.Random(0), phrase)[0])


def test_held_out_phrases_are_other_phrases():
    train = {p for intent in support_desk.intents() for p in (*intent.train, *intent.train_answers)}
    held_out = {p for intent in support_desk.intents() for p in (*intent.held_out, *intent.held_out_answers)}
    assert len(held_out) == 48 * 8
    assert not {p.lower() for p in train} & {p.lower() for p in held_out}


def test_a_seed_gives_these_bytes(tmp_path):
    path = tmp_path / "pairs.jsonl"
    digest = support_desk.write_training_pairs(path, 500, seed=0)
    assert digest == TRAINING_SEED_0
    assert b"\r" not in path.read_bytes()
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == list(
        support_desk.training_pairs(500, seed=0)
    )
    assert list(tmp_path.iterdir()) == [path]
    assert support_desk.write_training_pairs(path, 500, seed=1) != digest


def test_a_longer_set_begins_with_the_shorter_one():
    assert list(support_desk.training_pairs(100, seed=3)) == list(support_desk.training_pairs(300, seed=3))[:100]


@pytest.mark.parametrize("seed", [0, 1, 2, 20240607, 2**40])
def test_no_training_text_is_a_test_text(seed):
    tests = {support_desk.normal_form(question.text) for question in questions_of_test_sets()}
    tests |= {support_desk.normal_form(text) for _, text in support_desk.retrieval_set()[1]}
    assert tests == support_desk.test_texts()
    pairs = support_desk.training_pairs(3000, seed=seed)
    train = {support_desk.normal_form(text) for pair in pairs for text in (pair["anchor"], pair["positive"])}
    assert len(train) > 2000
    assert not train & tests


def test_a_training_text_that_would_be_a_test_text_is_drawn_again(monkeypatch):
    # What makes the law above hold for every seed, not only for those that were tried.
    first = next(support_desk.training_pairs(1, seed=0))["anchor"]
    forbidden = frozenset({support_desk.normal_form(first)})
    monkeypatch.setattr("tamft.support_desk.sets.test_texts", lambda: forbidden)
    texts = [pair["anchor"] for pair in support_desk.training_pairs(50, seed=0)]
    assert len(texts) == 50
    assert support_desk.normal_form(first) not in map(support_desk.normal_form, texts)


def pattern(phrase: str) -> str:
    """A phrase as a regular expression: slots and choices match anything."""
    return ".*".join(map(re.escape, re.split(r"\{\w+\}|\[.*?\]", phrase.lower())))


def test_both_texts_of_a_pair_come_from_different_phrases_of_its_intent():
    intents = {intent.name: intent for intent in support_desk.intents()}
    checked = answers = 0
    for pair in support_desk.training_pairs(960, seed=5):
        intent = intents[pair["intent"]]
        anchor, positive = (
            {phrase for phrase in intent.train if re.search(pattern(phrase), text.lower())}
            for text in (pair["anchor"], pair["positive"])
        )
        if anchor and positive:  # neither is mistyped nor an answer
            checked += 1
            assert anchor != positive
        answers += not positive
    assert checked > 300
    assert 0.35 * 960 < answers < 0.6 * 960  # 35 % are answers, some questions are mistyped


@pytest.mark.parametrize("rows", [96, 100])
def test_every_intent_has_its_share(rows):
    shares = Counter(pair["intent"] for pair in support_desk.training_pairs(rows, seed=0))
    assert len(shares) == 48
    assert set(shares.values()) <= {2, 3}
    assert sum(shares.values()) == rows


@pytest.mark.parametrize("rows", [0, -1])
def test_nothing_to_write_is_an_error(tmp_path, rows):
    with pytest.raises(InputError, match=f"rows={rows}"):
        support_desk.write_training_pairs(tmp_path / "pairs.jsonl", rows, seed=0)
    assert not list(tmp_path.iterdir())


def test_picking_follows_random_alone():
    class Fixed(random.Random):
        def random(self):
            return 0.74

    assert pick(Fixed(), "abcd") == "c"


def test_wording_varies_but_meaning_stays():
    intent = next(i for i in support_desk.intents() if i.name == "charge.double")
    rng = random.Random(1)
    texts = [ask(rng, intent, intent.train[0], held_out=False) for _ in range(300)]
    assert len({question.text for question in texts}) > 100
    assert {question.product for question in texts} == set(SLOTS["product"])
    plain = [question for question in texts if "charged twice" in question.text]
    assert 0.7 < len(plain) / len(texts) < 1  # the others hold a typing error


def test_probe_and_test_of_the_classification_set_share_no_phrase():
    sets = support_desk.classification_set()
    assert {split: Counter(Counter(q.intent.name for q in qs).values()) for split, qs in sets.items()} == {
        "train": {12: 48},
        "test": {8: 48},
    }
    texts = {split: {support_desk.normal_form(q.text) for q in qs} for split, qs in sets.items()}
    assert len(texts["train"]) == 48 * 12
    assert len(texts["test"]) == 48 * 8
    assert not texts["train"] & texts["test"]


def test_sts_scores_follow_from_what_is_shared():
    pairs = support_desk.sts_set()
    assert 600 < len(pairs) < 800
    for one, two, score in pairs:
        same = bool(one.product) and one.product == two.product
        different = bool(one.product and two.product) and not same
        if one.intent == two.intent:
            assert score == (4.0 if different else 5.0)
        elif one.intent.family == two.intent.family:
            assert score == 3.0 + 0.5 * same
        elif one.intent.topic == two.intent.topic:
            assert score == 1.5 + 0.5 * same
        else:
            assert score == 0.5 * same
    shares = Counter(score for *_, score in pairs)
    assert min(shares[score] for score in (0.0, 1.5, 3.0, 5.0)) > 100


def test_the_faq_answers_every_question_of_the_retrieval_set():
    queries, passages = support_desk.retrieval_set()
    assert Counter(Counter(q.intent.name for q in queries).values()) == {6: 48}
    assert Counter(Counter(intent.name for intent, _ in passages).values()) == {2: 48}
    assert len({text for _, text in passages}) == 96
