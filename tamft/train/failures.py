"""How a run fails, in one process of one or of many: the errors, and who of them says what.

One process fails and the others meet its silence: a closed connection, a SIGTERM from the launcher. So the one that
fails first says so in run.json, with its number; the others find that there, and do not report their own end as news.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tamft.train import record

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
BAD_ENDS = ("failed", "diverged")
# Where all processes fail alike, process 0 speaks and the launcher ends the others meanwhile: one line, not eight.
GRACE = 3.0
# What gloo and NCCL say when another process is gone.
_GONE = ("Connection closed by peer", "Connection reset", "Broken pipe", "remote process exited")


class RunError(RuntimeError):
    """The run started and failed; the message says all that the user needs."""


class Diverged(RunError):
    """The loss, or a weight about to be saved, is NaN or infinite."""


class Ended(RunError):
    """This process did nothing wrong: another one failed."""


def text(error: BaseException) -> str:
    """One line for run.json."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def others_failure(path: Path) -> dict[str, Any] | None:
    """`{status, error}` that another process left in run.json; None if the run was going on."""
    content = record.read_json(path) or {}
    error = str(content.get("error"))
    if content.get("status") in BAD_ENDS and error.startswith("process ") and not error.startswith(_me()):
        return {"status": content["status"], "error": error}
    return None


def leave_note(path: Path, status: str, error: BaseException) -> None:
    """Say in run.json that this process failed (the first one's word counts)."""
    content = record.read_json(path)
    if content and content.get("status") == "running" and status in BAD_ENDS:
        record.write_json(path, content | {"status": status, "error": f"{_me()}: {text(error)}"})


def consequence(path: Path, error: BaseException) -> Ended | None:
    """An Ended if `error` only came because another process failed or vanished; None: it is this one's own."""
    if WORLD == 1 or isinstance(error, RunError | KeyboardInterrupt):
        return None
    if theirs := others_failure(path):
        return Ended(theirs["error"])
    if any(words in str(error) for words in _GONE):
        return Ended("a process ended without a word: killed, or out of memory? The launcher's report names it")
    return None


def on_main(accelerator: Any, work: Callable[[], None]) -> None:
    """Do `work` in the main process while the others wait; if it fails, it fails in all of them."""
    if accelerator.num_processes == 1:
        work()
        return
    from accelerate.utils import broadcast_object_list

    error: Exception | None = None
    if accelerator.is_main_process:
        try:
            work()
        except Exception as caught:  # noqa: BLE001 - whatever it is: the others must not wait for ever
            error = caught
    said = [str(error) if error else None]
    broadcast_object_list(said)
    if error is not None:
        raise error
    if said[0] is not None:
        raise Ended(said[0])


def tell(message: str) -> None:
    """Print an ending to stderr: in process 0 as it is, elsewhere with the process's number."""
    if RANK:
        time.sleep(GRACE)
        message = f"{_me()}: {message}"
    print(message, file=sys.stderr, flush=True)


def keep_exit_code(file: str | None, code: int) -> None:
    """Write the exit code where the launcher looks for it; the first process that fails is the one that counts."""
    if not file or (RANK and not code):
        return
    try:
        with Path(file).open("x", encoding="utf-8") as stream:
            stream.write(str(code))
    except FileExistsError:
        return


def _me() -> str:
    return f"process {RANK} of {WORLD}"
