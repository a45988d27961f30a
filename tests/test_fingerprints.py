"""Hashes of training texts: what counts as the same text, the file, and what is kept of too many."""

import json

import pytest

from tamft import fingerprints
from tamft.errors import InputError
from tamft.fingerprints import HIGHEST, NAME, find, hash_text, join, make, normalise, read, write

TEXTS = [f"text number {i}" for i in range(1000)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I top-up?", "how do i  top up"),
        ("I can not find my card pin.", "I cannot find my card PIN"),
        ("Straße № 1", "STRASSE NO 1"),
        ("ﬁne\tprint\n", "Fine Print"),
        ("don`t", "don’t"),
    ],
)
def test_the_same_text(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"), [("a card", "the card"), ("की", "का"), ("??", "!"), ("1.5", "16"), ("", "a")]
)
def test_not_the_same_text(one, other):
    assert hash_text(one) != hash_text(other)


def test_a_hash_is_the_same_everywhere():
    # a changed hash would make every file that is out there count nothing, and say so nowhere
    assert hash_text("How do I top-up?") == 0x751A90873B7CC2F0


def test_counts_every_asked_text_and_different_ones_of_its_own(tmp_path):
    ours = make([*TEXTS, *(text.upper() + "!" for text in TEXTS)])
    assert (ours.texts, len(ours.hashes), ours.below) == (1000, 1000, HIGHEST)
    assert ours.count(["Text number 7.", "text number 7", "text number 1000"]) == (2, 3)
    assert ours.count([]) == (0, 0)
    assert make([]).count(TEXTS) == (0, 1000)


def test_the_file(tmp_path):
    ours = make(TEXTS)
    path = write(ours, tmp_path)
    assert path == find(tmp_path) == tmp_path / NAME
    assert path.stat().st_size < 8 * 1000 + 100
    again = read(path)
    assert (again.texts, again.below, again.hashes.tolist()) == (1000, HIGHEST, ours.hashes.tolist())
    assert b"text" not in path.read_bytes().split(b"\n", 1)[1]


def test_too_many_texts_leave_a_fair_sample():
    part = make(TEXTS, limit=100)
    assert (part.texts, len(part.hashes)) == (1000, 100)
    # half of the asked texts are known: so is about half of those that the sample can speak of
    found, of = part.count([*TEXTS, *(f"another {i}" for i in range(1000))])
    assert found == 100
    assert 140 < of < 270


def test_joined():
    both = join(make(TEXTS[:600]), make(TEXTS[400:]))
    assert (both.texts, both.hashes.tolist()) == (1000, make(TEXTS).hashes.tolist())
    part = join(make(TEXTS[:600], limit=50), make(TEXTS[400:]))
    assert part.below == make(TEXTS[:600], limit=50).below
    assert part.count(TEXTS)[0] == part.count(TEXTS)[1] == len(part.hashes)


def test_beside_a_checkpoint(tmp_path):
    checkpoint = tmp_path / "checkpoint-4"
    checkpoint.mkdir()
    assert find(checkpoint) is None
    write(make(TEXTS), tmp_path)
    assert find(checkpoint) is None  # any folder: only that of a run counts
    (tmp_path / "run.json").write_text("{}")
    assert find(tmp_path / "all-MiniLM-L6-v2") is None  # a name and no folder
    assert find(checkpoint) == tmp_path / NAME


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"format": 1}\n', "cut", b'{"format": 1, "texts": 1, "kept": 1, "below": 9}\n']
)
def test_a_damaged_file_is_named(tmp_path, damage):
    path = write(make(TEXTS), tmp_path)
    path.write_bytes(path.read_bytes()[:-1] if damage == "cut" else damage)
    with pytest.raises(InputError, match=f"{NAME}: cannot be read.*copy the model again"):
        read(path)


def test_a_newer_format_is_told_from_a_damaged_file(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(json.dumps({"format": fingerprints.FORMAT + 1}).encode() + b"\n")
    with pytest.raises(InputError, match="use a newer tamft"):
        read(path)
