"""One line of a diagnosis."""

from dataclasses import dataclass

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, how bad that is ("ok", "warning", "problem"), and what to do about it."""

    what: str
    text: str
    level: str = OK
    cure: str = ""
