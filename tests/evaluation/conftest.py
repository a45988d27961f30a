"""Fixtures of the evaluation tests."""

import shutil
from pathlib import Path

import pytest

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
