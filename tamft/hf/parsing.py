"""HfArgumentParser with one-line errors: for the recipes' options, and for those before a script."""

import argparse
from typing import Any, NoReturn

from transformers import HfArgumentParser

from tamft import registry
from tamft.errors import InputError
from tamft.optim_args import nearest


class StrictParser(HfArgumentParser):
    """HfArgumentParser that raises InputError where argparse prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message.removeprefix("argument "))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            words = [str(choice) for choice in action.choices]
            flag = action.option_strings[0]
            # Trainer knows some 50 optimizers: a list of all would hide the message.
            listed = registry.names() if flag == "--optim" else words
            others = " and transformers' own" if flag == "--optim" else ""
            raise InputError(
                f"{flag} {value!r} is not known{nearest(str(value), words)} Known: {', '.join(listed)}{others}"
            )
