"""Fetch the data of tasks through mteb's own code, then see that each loads without a network."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
from tqdm.auto import tqdm

from tamft.errors import InputError
from tamft.evaluation.data import hub_answers, is_offline, load_data, offline, on_disk, parts
from tamft.evaluation.options import check_writable

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask


def prefetch(tasks: Sequence["AbsTask"]) -> dict[str, str | None]:
    """Fetch what is not here and load every task offline. What was fetched stays: run it again after an interruption.

    Returns:
        Name of each task (of the parts, where a task is the mean of others) to why it cannot be used offline; None for
        those that can.

    Raises:
        InputError: something has to be fetched and cannot be: offline mode, no network, a cache that cannot be written.
    """
    every = parts(tasks)
    lacking = [task for task in every if on_disk(task) is False]
    wanted = [task for task in every if on_disk(task) is not True]  # where only loading can tell, it is tried
    cut_off = "offline mode (HF_HUB_OFFLINE, HF_DATASETS_OFFLINE) is on" if is_offline() else None
    if wanted and not cut_off and not hub_answers():
        cut_off = "the Hub does not answer"
    if lacking and cut_off:
        names = f"{', '.join(task.metadata.name for task in lacking[:5])}{' …' if len(lacking) > 5 else ''}"
        raise InputError(f"{cut_off}, so {names} cannot be fetched; run this where there is a network")
    if cut_off:
        wanted = []
    if wanted:
        check_writable("HF_HOME", Path(datasets.config.HF_DATASETS_CACHE))
    print(f"{len(every) - len(wanted)} of {len(every)} data sets are here; fetching {len(wanted)}", file=sys.stderr)
    outcomes: dict[str, str | None] = {}
    with tqdm(total=2 * len(every), unit="step", disable=None, file=sys.stderr) as bar:
        for task in every:
            name = task.metadata.name
            bar.set_description(f"fetch {name}")
            problem = _try(task, online=True) if task in wanted else None
            bar.update()
            bar.set_description(f"check {name}")
            # The Hub's own error says more than the one that follows from it offline.
            outcomes[name] = problem or _try(task, online=False)
            bar.update()
            if outcomes[name]:
                tqdm.write(f"{name}: {outcomes[name]}", file=sys.stderr)
    return outcomes


def _try(task: "AbsTask", *, online: bool) -> str | None:
    try:
        with offline(not online):
            (datasets.enable_progress_bars if online else datasets.disable_progress_bars)()
            load_data(task)
    except Exception as error:  # noqa: BLE001 - one data set that fails must not cost the others
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    finally:
        with suppress(Exception):
            if task.data_loaded:
                task.unload_data()
    return None
