"""The benchmark programs as modules, and tensors small enough for a test."""

import sys
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT

PARTS = ("common", "contenders", "memory", "tensors", "work", "chart")
MODULES = (*PARTS, "step", "train", "alignment", "llm", "evaluation")


@pytest.fixture(scope="package")
def bench():
    """The programs' modules, found as Python finds them when one of the programs runs."""
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield SimpleNamespace(**{name: __import__(name) for name in MODULES})
    finally:
        sys.path.remove(folder)
        for name in MODULES:
            del sys.modules[name]


@pytest.fixture
def tiny(bench):
    """Three tensors with 577 parameters, one of them 0-d."""
    return bench.tensors.TensorSet("tiny", "a few numbers", ((64, 8), (64,), ()))
