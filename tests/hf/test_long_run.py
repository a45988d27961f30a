"""Two thousand steps: memory, open files and threads stay where they are."""

import gc

import psutil
import pytest
from transformers import TrainerCallback

from tests.hf import small

WARM_UP = 400


class Watch(TrainerCallback):
    """(resident bytes, open files, threads) every 100 steps."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= WARM_UP and state.global_step % 100 == 0:
            gc.collect()
            process = psutil.Process()
            self.seen.append((process.memory_info().rss, process.num_fds(), process.num_threads()))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(psutil.Process, "num_fds"), reason="open files cannot be counted here")
@pytest.mark.parametrize("optim_args", ["", "fused=false"])
def test_nothing_grows(tmp_path, optim_args):
    watch = Watch()
    trainer = small.trainer(
        tmp_path,
        "adatamw_msam",
        callbacks=[watch],
        max_steps=2000,
        optim_args=optim_args or None,
        save_strategy="steps",
        save_steps=150,
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=50,
        learning_rate=1e-3,
    )
    trainer.train()
    assert len(watch.seen) == 17
    memory, files, threads = zip(*watch.seen, strict=True)
    # A state of 5,000 weights has 40 kB: kept once per step it would be 64 MB, once per save 0.4 MB.
    assert max(memory[8:]) - max(memory[:8]) < 4_000_000, memory
    assert max(files) - min(files) <= 1, files
    assert max(threads) == min(threads), threads
    assert len(list(tmp_path.iterdir())) == 2
