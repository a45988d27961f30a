"""Fixtures of the evaluation tests."""

import functools
import shutil
from pathlib import Path

import pytest

from tests.evaluation.tiny_tasks import TASKS
from tests.tiny import save_tiny_bert


@pytest.fixture(autouse=True)
def _own_hash_cache(tmp_path, monkeypatch):
    """The user's file of remembered hashes is neither read nor written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    """A private copy of the tiny model: tests change its files."""
    return Path(shutil.copytree(tiny_model, tmp_path / "one" / "model"))


@pytest.fixture(scope="session")
def other_tiny_model(tmp_path_factory) -> Path:
    """The same architecture with other weights, in a folder of the same name."""
    return save_tiny_bert(tmp_path_factory.mktemp("other") / "bert", seed=1)


@pytest.fixture
def tiny_tasks(monkeypatch):
    """The tiny tasks can be named like any other."""
    from tamft.evaluation import embedded

    for name, task in TASKS.items():
        monkeypatch.setitem(embedded.TASKS, name, task)


@pytest.fixture
def score(tmp_path):
    """evaluate() on the CPU, with results in this test's folder."""

    from tamft.evaluation.score import evaluate

    def run(*models, tasks=("TinySTS",), **options):
        folder = {"results": tmp_path / "results"}
        return evaluate([str(m) for m in models], tasks=tasks, device="cpu", **(folder | options))

    return run


@pytest.fixture
def small_memory(monkeypatch):
    """After a call, the tiny model runs out of memory with more than `rows` texts at once."""
    from transformers import BertModel

    forward = BertModel.forward

    def limit(rows):
        @functools.wraps(forward)
        def hungry(self, input_ids=None, **kwargs):
            if len(input_ids) > rows:
                raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return forward(self, input_ids=input_ids, **kwargs)

        monkeypatch.setattr(BertModel, "forward", hungry)

    return limit


@pytest.fixture
def forbid_loading(monkeypatch):
    """After a call, loading a model is an error: everything must come from stored results."""

    from tamft.evaluation import scorer

    def load(*args):
        raise AssertionError("a model was loaded")

    return lambda: monkeypatch.setattr(scorer, "load", load)
