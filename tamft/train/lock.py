"""One run at a time in a folder: a lock that ends with the process that holds it, however that ends."""

import contextlib
import errno
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tamft.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None  # type: ignore[assignment]

NAME = "run.lock"
# The system's lock is between processes; two runs of one process would both get it.
_held: set[Path] = set()


@contextlib.contextmanager
def hold(folder: Path, name: str = NAME) -> Iterator[None]:
    """No other run in `folder` while this block runs. Only the main one of several processes may ask.

    `name`: of the lock's file; locks of other names are other locks.

    Raises InputError that says who is running there. Does nothing on file systems (and Windows) without locks. A file
    that a killed run left behind holds nobody up: the lock itself went with the process.
    """
    path = (folder / name).absolute()
    if fcntl is None:
        yield
        return
    stream = _take(path)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        with contextlib.suppress(OSError):
            path.unlink()  # while it is still ours: see _take
        stream.close()


def check(folder: Path) -> None:
    """InputError if another run is in `folder`; writes nothing."""
    path = (folder / NAME).absolute()
    if fcntl is not None and path.is_file():
        with path.open("r+", encoding="utf-8") as stream:
            _lock(path, stream)


def _take(path: Path) -> IO[str]:
    while True:
        stream = path.open("a+", encoding="utf-8")
        try:
            _lock(path, stream)
        except InputError:
            stream.close()
            raise
        # The run before may have removed the file between our open and our lock: then we hold a file without a name.
        if path.exists() and path.stat().st_ino == os.fstat(stream.fileno()).st_ino:
            break
        stream.close()
    who = {"pid": os.getpid(), "host": platform.node(), "started": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    stream.truncate(0)
    stream.write(json.dumps(who))
    stream.flush()
    return stream


def _lock(path: Path, stream: IO[str]) -> None:
    # lockf and not flock: children of a fork (a data loader's workers) must not keep it when this process is killed.
    try:
        if path not in _held:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return  # this file system has no locks
    who = _who(path)
    raise InputError(
        f"--output_dir {path.parent}: another run is writing there (process {who.get('pid', '?')} on "
        f"{who.get('host', '?')}, since {who.get('started', '?')}); wait for it, end it, or take another folder"
    )


def _who(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
