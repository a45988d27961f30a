"""Real processes that talk over gloo: a program of this folder, run as torchrun would run it."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT

shards_on_cpu = pytest.mark.skipif(
    torch.__version__ < "2.7", reason="fully_shard of this torch does not run on a CPU (Stream.record_event)"
)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run(program: str, processes: int, *words: str, timeout: float = 300) -> list[Any]:
    """Run tests/distributed/<program>.py in so many processes; returns what each of them handed to `report`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = {
            "PYTHONPATH": str(ROOT),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "GLOO_SOCKET_IFNAME": "lo",
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "TAMFT_REPORT": name,
        }
        started = []
        for rank in range(processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with (folder / f"{rank}.log").open("w") as log:
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-m", f"tests.distributed.{program}", *words],
                        cwd=name,
                        env={**os.environ, **common, **own},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        try:
            codes = [process.wait(timeout=timeout) for process in started]
        finally:
            for process in started:
                process.kill()
        logs = [(folder / f"{rank}.log").read_text() for rank in range(processes)]
        assert not any(codes), f"{program}: exit codes {codes}\n" + "\n".join(log[-4000:] for log in logs)
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(processes)]


def report(value: Any) -> None:
    """Hand a value to the test that runs this process, and end it."""
    torch.save(value, Path(os.environ["TAMFT_REPORT"]) / f"{os.environ['RANK']}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    # Threads of gloo that are left now and then abort the interpreter's end.
    sys.stdout.flush()
    os._exit(0)
