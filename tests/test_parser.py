"""Flags as people type them, and mistakes in one line."""

import pytest

from tamft.errors import InputError
from tamft.parser import Parser


@pytest.fixture
def parser():
    parser = Parser(prog="tamft try", allow_abbrev=False)
    parser.add_argument("--output_dir")
    return parser


@pytest.mark.parametrize("words", [["--output-dir=a-b"], ["--output-dir", "a-b"], ["--output_dir", "a-b"]])
def test_hyphens_in_flags_become_underscores_and_values_stay(parser, words):
    assert parser.parse_words(words).output_dir == "a-b"


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--output_dri", "x"], "did you mean --output_dir"), (["--output_dir"], "see `tamft try --help`")],
)
def test_mistakes_are_input_errors(parser, words, message):
    with pytest.raises(InputError, match=message):
        parser.parse_words(words)
