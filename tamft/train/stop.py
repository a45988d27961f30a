"""SIGTERM, the way a batch system says "you have seconds left": the step is finished, saved, and the run ends.

Not Trainer's just-in-time checkpoint: it waits three seconds first, saves between backward and step, when the random
numbers of the step are drawn already (with dropout a resumed run is then another run), and ends as if training were
done.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import torch

EXIT_CODE = 128 + signal.SIGTERM  # 143, what a shell says of a process that SIGTERM ended


class Terminated(KeyboardInterrupt):
    """The run was asked to end by SIGTERM."""


class Request:
    """Whether SIGTERM has come. Later ones change nothing: launchers of several processes send more than one."""

    asked = False

    def note(self, number: int, frame: Any) -> None:
        """The signal's handler."""
        self.asked = True

    def agreed(self, accelerator: Any) -> bool:
        """Whether any process was asked: they get the signal in different steps, and must save in the same one."""
        if accelerator.num_processes == 1:
            return self.asked
        flag = torch.tensor(float(self.asked), device=accelerator.device)
        return bool(accelerator.reduce(flag, reduction="sum").item() > 0)


@contextlib.contextmanager
def listening() -> Iterator[Request]:
    """A Request that takes SIGTERM while this block runs (in the main thread only: others cannot have handlers)."""
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = signal.signal(signal.SIGTERM, request.note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)


def raise_terminated(number: int, frame: Any) -> NoReturn:
    """SIGTERM's handler where there is nothing to save yet."""
    raise Terminated("SIGTERM")
