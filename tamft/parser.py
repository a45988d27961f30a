"""The argument parser of tamft's own commands."""

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

from tamft.errors import InputError


class Parser(argparse.ArgumentParser):
    """argparse with tamft's words: hyphens in flags are underscores, and a mistake is an InputError of one line."""

    def __init__(self, *, examples: str | None = None, **options: Any) -> None:
        """As argparse; `examples` stand below the help as they are written, and flags are then said in full."""
        if examples is not None:
            options |= {"epilog": examples, "allow_abbrev": False}
            options["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(**options)

    def parse_words(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse a command line. Raises InputError for an unknown flag, with the nearest one, and for a bad value."""
        return self.parse_args([_underscores(word) for word in words])

    def error(self, message: str) -> NoReturn:
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        unknown = [word.split("=")[0] for word in message.split() if word.startswith("--")]
        close = difflib.get_close_matches(unknown[0], flags, n=1) if "unrecognized" in message and unknown else []
        raise InputError(message + (f"; did you mean {close[0]}?" if close else f"; see `{self.prog} --help`"))


def _underscores(word: str) -> str:
    """--batch-size=a-b -> --batch_size=a-b: values stay as they are."""
    flag, equals, value = word.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value if flag.startswith("--") else word
