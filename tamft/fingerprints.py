"""The training texts of a model as hashes in a file: small, and enough to count how many of them a test contains.

Training writes `training_texts.hashes` into the run's folder and into the model's; `tamft eval` reads it there. One
line of JSON, then sorted 8-byte numbers (little-endian, unsigned), one for each different text. A hash tells no text,
but whoever has a text can ask whether it is there: remove the file before publishing a model whose training data are
secret.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tamft.atomic import write_atomically
from tamft.errors import InputError

if TYPE_CHECKING:
    import numpy as np

NAME = "training_texts.hashes"
FORMAT = 1
# 16 MB. Of more texts the smallest hashes are kept: a fair sample, and everybody knows which texts are in it.
LIMIT = 2_000_000
HIGHEST = 2**64 - 1


def normalise(text: str) -> str:
    """Letters and digits only, lower case, no blanks: "can not" is "cannot", "Top-up?" is "topup".

    A text without letters and digits is only stripped.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    # Marks belong to their letters: without them different words of Hindi would be the same.
    return "".join(c for c in text if c.isalnum() or unicodedata.category(c)[0] == "M") or text.strip()


def hash_text(text: str) -> int:
    """64 bits of the normalised text: two of a billion different texts meet with a probability of 3 %."""
    return int.from_bytes(hashlib.blake2b(normalise(text).encode("utf-8", "replace"), digest_size=8).digest(), "big")


@dataclass(frozen=True)
class Fingerprint:
    """Hashes of different texts.

    Args:
        hashes: sorted.
        texts: how many different texts there were.
        below: texts with a larger hash were not kept; HIGHEST where all were.
    """

    hashes: "np.ndarray"
    texts: int
    below: int = HIGHEST

    def count(self, texts: Iterable[str]) -> tuple[int, int]:
        """How many of `texts` are among these, of how many that could be (all of them, unless this is a sample)."""
        import numpy as np

        asked = np.fromiter((hash_text(text) for text in texts), dtype=np.uint64)
        asked = asked[asked <= np.uint64(self.below)]
        return int(np.isin(asked, self.hashes).sum()), len(asked)


def make(texts: Iterable[str], limit: int = LIMIT) -> Fingerprint:
    """The fingerprint of these texts: all of them, or `limit` of them where there are more."""
    import numpy as np

    return _cut(np.unique(np.fromiter((hash_text(text) for text in texts), dtype=np.uint64)), HIGHEST, limit)


def join(one: Fingerprint, other: Fingerprint, limit: int = LIMIT) -> Fingerprint:
    """The fingerprint of the texts of both."""
    import numpy as np

    below = min(one.below, other.below)
    hashes = np.union1d(one.hashes, other.hashes)
    joined = _cut(hashes[hashes <= np.uint64(below)], below, limit)
    # of a sample the number is not known: at least
    return joined if below == HIGHEST else Fingerprint(joined.hashes, max(one.texts, other.texts), joined.below)


def _cut(hashes: "np.ndarray", below: int, limit: int) -> Fingerprint:
    texts = len(hashes)
    if texts > limit:
        hashes = hashes[:limit]
        below = int(hashes[-1])
    return Fingerprint(hashes, texts, below)


def write(fingerprint: Fingerprint, folder: Path) -> Path:
    """Write NAME into `folder`, whole or not at all."""
    head = {"format": FORMAT, "texts": fingerprint.texts, "kept": len(fingerprint.hashes), "below": fingerprint.below}
    path = folder / NAME
    write_atomically(path, json.dumps(head).encode() + b"\n" + fingerprint.hashes.astype("<u8").tobytes())
    return path


def find(folder: Path) -> Path | None:
    """The file of the model in `folder`: there, or beside run.json one folder up (a checkpoint's); None: none."""
    if not folder.is_dir():  # a name of the Hub
        return None
    if (folder / NAME).is_file():
        return folder / NAME
    above = folder.resolve().parent
    return above / NAME if (above / NAME).is_file() and (above / "run.json").is_file() else None


def read(path: Path) -> Fingerprint:
    """The fingerprint in a file. Raises InputError for one that is cut off, broken or of a newer format."""
    import numpy as np

    try:
        line, _, body = path.read_bytes().partition(b"\n")
        head = json.loads(line)
        if head["format"] != FORMAT:
            raise InputError(f"{path}: format {head['format']} is not known here; use a newer tamft")
        if len(body) != 8 * head["kept"]:
            raise ValueError(f"{len(body)} bytes where {8 * head['kept']} should be")
        return Fingerprint(np.frombuffer(body, dtype="<u8").astype(np.uint64), head["texts"], head["below"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({error}); copy the model again, or remove the file") from error
