"""Global batches for several processes, as accelerate hands them out."""

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler, NoDuplicatesBatchSampler
from torch.utils.data import SequentialSampler

from tamft.train.batches import Shares


def shares(rows, processes, size, drop_last=False):
    inner = DefaultBatchSampler(SequentialSampler(range(rows)), batch_size=size * processes, drop_last=drop_last)
    return Shares(inner, processes)


def handed_out(batches, processes):
    """What each process gets, by accelerate's own class with the settings of sentence-transformers."""
    shards = [BatchSamplerShard(batches, processes, rank, even_batches=False) for rank in range(processes)]
    assert {len(shard) for shard in shards} == {len(list(shard)) for shard in shards}  # nobody waits for nobody
    return [list(shard) for shard in shards]


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 5, 11, 12, 13, 14, 23, 24])
def test_every_process_gets_as_many_rows_in_every_step(rows, processes, drop_last):
    got = handed_out(shares(rows, processes, 4, drop_last), processes)
    sizes = [[len(batch) for batch in batches] for batches in got]
    assert all(size == sizes[0] for size in sizes)
    seen = [row for step in zip(*got, strict=True) for batch in step for row in batch]
    whole = rows // (4 * processes) * 4 * processes
    rest = 0 if drop_last else (rows - whole) // processes * processes
    assert seen == list(range(whole + rest))


def test_no_duplicates_between_processes():
    # 24 rows, each text three times: batches of 4 without duplicates in two processes would meet the same texts
    data = Dataset.from_dict({"anchor": [f"a{i % 8}" for i in range(24)], "positive": [f"p{i % 8}" for i in range(24)]})
    inner = NoDuplicatesBatchSampler(data, batch_size=8, drop_last=True, seed=1, generator=torch.Generator())
    for one, other in zip(*handed_out(Shares(inner, 2), 2), strict=True):
        assert len({row % 8 for row in one + other}) == 8


def test_the_order_follows_the_epoch():
    class Inner(DefaultBatchSampler):
        def set_epoch(self, epoch):
            self.epoch = epoch

    inner = Inner(SequentialSampler(range(8)), batch_size=4, drop_last=False)
    batches = Shares(inner, 2)
    batches.set_epoch(3)
    assert inner.epoch == 3
    batches.sampler = SequentialSampler(range(4))  # accelerate puts one with a shared seed there
    assert list(batches) == [[0, 1], [2, 3]]
