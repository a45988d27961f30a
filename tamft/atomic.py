"""Files and folders that are there whole or not at all: run.json, scores, reports, data, models."""

import os
import secrets
import shutil
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` in one move: a reader, or a crash, meets the old content or the new one, never half of one.

    Text is written as UTF-8 with its line ends as they are. The folder has to exist. Raises OSError (a full disk, a
    folder that cannot be written); `path` is then as it was and nothing is left beside it.
    """
    # In the same folder, because a move between file systems is a copy; opened by name, so that the umask decides who
    # may read it (temporary files of the library are for their owner alone).
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_folder(target: Path, fresh: Path) -> None:
    """Put the folder `fresh` where `target` is; what was there is deleted when the new one is in its place.

    A folder cannot be replaced in one move. A crash between the two leaves `.NAME.old`; `recover_folder` puts it back.
    """
    old = _old(target)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        recover_folder(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(target: Path) -> None:
    """Put back what `replace_folder` had moved away, if it was stopped before the new folder was there."""
    if _old(target).is_dir() and not target.exists():
        _old(target).rename(target)


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")
