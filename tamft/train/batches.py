"""Batches for several processes: each batch of the sampler is one global batch, cut into equal parts.

sentence-transformers deals out whole small batches instead, and turns off accelerate's filling up of the last round.
Then some processes would get one batch more than others, and the run would hang: so it drops the rows of the last
round, which may be all of a small data set. And "no duplicates" holds in each process, not between them, where
negatives across devices need it.
"""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import BatchSampler


class Shares(BatchSampler):
    """The batches of `inner`, each cut into `processes` consecutive batches of equal size.

    accelerate hands them out in turn. Rows that cannot be shared out evenly are left out, in the last batch of an
    epoch: at most `processes` - 1. There is no `batch_size`: accelerate would drop batches of another one.
    """

    drop_last = False

    def __init__(self, inner: Any, processes: int) -> None:
        self.inner, self.processes = inner, processes

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.inner:
            share = len(rows) // self.processes
            if share:
                for i in range(self.processes):
                    yield rows[i * share : (i + 1) * share]

    def __len__(self) -> int:
        rest = len(self.sampler) % self.inner.batch_size if not self.inner.drop_last else 0
        return (len(self.inner) - (0 < rest < self.processes)) * self.processes  # a rest that is too small to share

    # accelerate replaces the sampler by one whose seed is the same in all processes, and counts the epochs.
    @property
    def sampler(self) -> Any:
        return self.inner.sampler

    @sampler.setter
    def sampler(self, value: Any) -> None:
        self.inner.sampler = value

    def set_epoch(self, epoch: int) -> None:
        """Pass the number of the epoch on: the order of the rows follows from it."""
        if hasattr(self.inner, "set_epoch"):
            self.inner.set_epoch(epoch)
