"""How to score: batches, precision, devices, what may be reused. Checked before any work."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tamft.errors import InputError

# Measured with all-MiniLM-L6-v2: a CPU is fastest with what fits into its caches, a GPU wants to be filled.
CPU_TOKENS, GPU_TOKENS = 2048, 16384
DTYPES = ("float32", "bfloat16", "float16")
CACHE_MB = 1024


@dataclass(frozen=True)
class Options:
    """Everything but the models and the tasks. It is pickled for worker processes.

    Args:
        batch_tokens: tokens per batch, padding included; None: 2048 on a CPU, 16384 elsewhere. Not with `batch_size`.
        batch_size: texts per batch, in exactly the batches that mteb makes.
        dtype: "float32", "bfloat16" or "float16"; None: as the weights were saved.
        cache_mb: megabytes of embeddings to keep for texts that occur again; None: 1024, or 0 with `batch_size`.
        devices: one for each process; (None,): the best there is, in this process.
        mix_versions: use stored results of other versions of mteb and of the data as they are.
        command: what the records say made them.
    """

    batch_tokens: int | None = None
    batch_size: int | None = None
    dtype: str | None = None
    cache_mb: int | None = None
    devices: tuple[str | None, ...] = (None,)
    mix_versions: bool = False
    command: str | None = None

    def __post_init__(self) -> None:
        """Raise InputError for what can be known without loading anything."""
        for flag, value, least in (
            ("--batch_tokens", self.batch_tokens, 1),
            ("--batch_size", self.batch_size, 1),
            ("--cache_mb", self.cache_mb, 0),
        ):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise InputError(f"{flag} {value!r}: it must be a whole number of at least {least}")
        if self.batch_tokens is not None and self.batch_size is not None:
            raise InputError("--batch_tokens and --batch_size are two ways to say the same; give one of them")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InputError(f"--dtype {self.dtype!r}: there are {', '.join(DTYPES)}")

    @property
    def cache_megabytes(self) -> int:
        """Megabytes of the cache, 0 for none.

        None with `batch_size`: it promises mteb's own batches, and a text that came from another task's batch would
        differ in the last bit.
        """
        if self.cache_mb is not None:
            return self.cache_mb
        return 0 if self.batch_size is not None else CACHE_MB


def choose_devices(
    device: str | None = None, devices: Sequence[str] | None = None, num_processes: int | None = None
) -> tuple[str | None, ...]:
    """The device of each process.

    Args:
        device: the device of all processes; None: the best there is.
        devices: one for each process, or ["all"]: every GPU that torch sees.
        num_processes: how many; without `device` they take turns on the GPUs.

    Raises:
        InputError: they contradict each other, or a device cannot be used here.
    """
    import torch

    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if devices is not None:
        if device is not None or num_processes is not None:
            raise InputError("--devices says it all: give it alone, without --device and --num_processes")
        if list(devices) == ["all"]:
            if not gpus:
                raise InputError("--devices all: torch sees no GPU here; --num_processes N uses N processes on the CPU")
            return tuple(gpus)
        if not devices:
            raise InputError("--devices: name at least one, for example --devices cuda:0 cuda:1")
        for one in dict.fromkeys(devices):
            check_device("--devices", one)
        return tuple(devices)
    if device is not None:
        check_device("--device", device)
    if num_processes is None:
        return (device,)
    if isinstance(num_processes, bool) or not isinstance(num_processes, int) or num_processes < 1:
        raise InputError(f"--num_processes {num_processes!r}: it must be a whole number of at least 1")
    if device is None and gpus:
        return tuple(gpus[i % len(gpus)] for i in range(num_processes))
    return (device,) * num_processes


def check_device(flag: str, device: str) -> None:
    """InputError unless tensors can be made on `device`."""
    import torch

    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("the meta device holds no numbers")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        here = ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]
        raise InputError(
            f"{flag} {device!r} cannot be used here ({str(error).splitlines()[0][:120]}); there is {', '.join(here)}"
        ) from None


def check_results(folder: Path) -> None:
    """InputError unless results can be written to `folder`; nothing is made to find out."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--results {str(folder)!r} is a file; give a folder")
    check_writable("--results", folder)


def check_json(json_file: str | os.PathLike[str]) -> None:
    """InputError unless the records can be written to `json_file`; nothing is made to find out."""
    path = Path(json_file)
    if path.exists() and not path.is_file():
        raise InputError(f"--json {str(path)!r} is not an ordinary file; give the name of a file to write")
    check_writable("--json", path.absolute().parent)


def check_writable(flag: str, folder: Path) -> None:
    """InputError unless something can be written to `folder`, or it can be made; nothing is made to find out."""
    place = existing(folder)
    if not place.is_dir():
        raise InputError(f"{flag}: {str(place)!r} is a file, so nothing can be written below it; give another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{flag}: {str(place)!r} cannot be written; give another place or change its permissions")
    if shutil.disk_usage(place).free < 1 << 20:
        raise InputError(f"{flag}: the disk of {str(place)!r} is full; free some space or give another place")


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return place
