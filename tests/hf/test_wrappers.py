"""What people put around a training: adapters, accumulation, searches, schedules, optimizers of their own, several ranks."""

import pytest
from transformers import TrainingArguments

from tests.cases import NAMES
from tests.hf import small


class OtherRank(TrainingArguments):
    """What a process that is not the first one sees: it takes part in a save and writes nothing."""

    @property
    def should_save(self) -> bool:
        return False


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_that_writes_no_checkpoint_ends_at_the_same_bits(tmp_path, name):
    """Under two processes the ranks drifted apart by 4e-9 after the first save: only the first looked at the state."""
    settings = {"save_strategy": "steps", "save_steps": 2}
    first = small.trainer(tmp_path / "a", name, **settings)
    other = small.trainer(tmp_path / "b", name, **settings)
    other.args.__class__ = OtherRank
    for trainer in (first, other):
        trainer.train()
    assert list((tmp_path / "a").glob("checkpoint-*"))
    assert not list((tmp_path / "b").glob("checkpoint-*/optimizer.pt"))
    assert small.distance(small.weights(first.model), small.weights(other.model)) == 0
