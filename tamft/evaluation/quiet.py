"""The libraries' voices, turned down before they are imported."""

import logging
import os
import warnings


class _Once(logging.Filter):
    """Lets a message through the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in self.seen
        self.seen.add(message)
        return new


def quiet_libraries() -> None:
    """What the libraries tell their own developers would bury what the user must read."""
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*is ill-defined", module="sklearn")  # other metrics than the main score
    warnings.filterwarnings("ignore", message="The task .* is superseded")  # mteb logs the same, for every model
    logging.getLogger("mteb.abstasks.abstask").addFilter(_Once())
