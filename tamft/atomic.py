"""Files that are there whole or not at all: run.json, scores, reports, data, remembered hashes."""

import os
import secrets
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
