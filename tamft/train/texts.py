"""Which texts a run is trained on: their hashes for later, and how many of them its own evaluation data holds."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamft import fingerprints

if TYPE_CHECKING:
    from tamft.train.trainer import PairsTrainer

BAR_FROM = 200_000  # rows: some seconds


def fingerprint(trainer: "PairsTrainer", base: str) -> tuple[fingerprints.Fingerprint, dict[str, int] | None]:
    """The fingerprint of the training texts (and of those of `base`, if that is a folder that tells), and the overlap.

    The overlap is `{"texts", "of"}`: how many of the evaluation texts are training texts; None without evaluation data.
    """
    made = fingerprints.make(_texts(trainer.train_dataset))
    overlap = None
    if trainer.eval_dataset is not None:
        overlap = dict(zip(("texts", "of"), made.count(_texts(trainer.eval_dataset)), strict=True))
    if (path := fingerprints.find(Path(base).expanduser())) is not None:
        made = fingerprints.join(made, fingerprints.read(path))
    return made, overlap


def note(overlap: dict[str, int] | None) -> str | None:
    """A line for the user, if there is something to say."""
    if not overlap or not overlap["texts"]:
        return None
    return (
        f"overlap: {overlap['texts']} of {overlap['of']} evaluation texts are training texts as well "
        "(case, blanks and punctuation apart): the evaluation loss is too good by that"
    )


def _texts(dataset: Any) -> Iterator[str]:
    from tqdm.auto import tqdm

    rows = tqdm(
        dataset.iter(1000), total=-(-len(dataset) // 1000), desc="hashing texts", disable=len(dataset) < BAR_FROM
    )
    for batch in rows:
        for column in batch.values():
            yield from (text for text in column if isinstance(text, str))
