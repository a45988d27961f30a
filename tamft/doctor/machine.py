"""This machine: versions, devices, the path that a step takes on each, and the traps that cost people a day."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.version import Version

from tamft import registry
from tamft.doctor.finding import PROBLEM, WARNING, Finding
from tamft.hf.compat import VERSIONS
from tamft.optim import AdaTAMW, cpu_kernels

OPTIONAL = ("triton", "numba", "trl", "deepspeed", "bitsandbytes")
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT")
FEW_BYTES = 5_000_000_000  # a checkpoint of a base-sized model with its optimizer takes 1.3 GB, and two are kept
DRIVER = Path("/proc/driver/nvidia/version")


def examine() -> Iterator[Finding]:
    """Everything there is to know without a checkpoint."""
    yield own_version()
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield from versions()
    yield from devices()
    yield Finding("optimizers", f"--optim {' '.join(registry.names())}")
    yield from threads()
    yield from disk(Path.cwd())
    said = [f"{name}={os.environ[name]}" for name in OFFLINE if os.environ.get(name)]
    yield Finding("environment", ", ".join(said) or "none of Hugging Face's variables is set: online, default cache")


def own_version() -> Finding:
    """tamft's version, and where it was imported from: with two copies around, this one answers."""
    try:
        version = importlib.metadata.version("tamft")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed, only imported"
    return Finding("tamft", f"{version}, in {Path(__file__).resolve().parent.parent}")


def requirements() -> dict[str, Requirement]:
    """Package -> what tamft's installation says it needs; what tamft was tested with where it is not installed."""
    try:
        lines = importlib.metadata.requires("tamft") or []
    except importlib.metadata.PackageNotFoundError:
        lines = [f"{name}>={oldest}" for name, (oldest, _) in VERSIONS.items()]
    found = [Requirement(line) for line in lines]
    return {need.name: need for need in found if need.marker is None or need.marker.evaluate({"extra": ""})}


def versions() -> Iterator[Finding]:
    """Installed packages against the ranges that tamft supports."""
    for name, need in requirements().items():
        try:
            found = Version(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, f"not installed; tamft needs {need}", PROBLEM, f"pip install '{need}'")
            continue
        newest = VERSIONS.get(name, (None, None))[1]
        if not need.specifier.contains(found, prereleases=True):
            yield Finding(name, f"{found}; tamft needs {need.specifier}", PROBLEM, f"pip install '{need}'")
        elif newest and found.release[:2] > Version(newest).release[:2]:
            cure = f"if something breaks: pip install '{name}=={newest}.*'"
            yield Finding(name, f"{found}; tested up to {newest}", WARNING, cure)
        else:
            yield Finding(name, str(found))
    for name in OPTIONAL:
        try:
            yield Finding(name, f"{importlib.metadata.version(name)} (optional)")
        except importlib.metadata.PackageNotFoundError:
            continue


def devices() -> Iterator[Finding]:
    """Each device, and which path a step of tamft's optimizers takes there."""
    yield Finding("cpu", f"{os.cpu_count()} cores; a step takes the path: {path_on('cpu')}")
    yield compiled()
    for index in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(index)
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        path = path_on(f"cuda:{index}")
        yield Finding(f"cuda:{index}", f"{name}, {memory:.0f} GiB, CUDA {torch.version.cuda}; path: {path}")
    if torch.backends.mps.is_available():
        yield Finding("mps", f"Apple GPU; a step takes the path: {path_on('mps')}")
    if DRIVER.is_file() and not torch.cuda.is_available():
        driver = DRIVER.read_text(encoding="utf-8", errors="replace").splitlines()[0].partition(":")[2].split()
        here = f"there is an NVIDIA driver ({' '.join(driver[:8])}), but torch {torch.__version__} sees no GPU"
        if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            yield Finding("gpu", here, WARNING, "CUDA_VISIBLE_DEVICES hides it: unset it")
        elif torch.version.cuda is None:
            yield Finding("gpu", here, WARNING, "this torch is a CPU build: install a CUDA build (pytorch.org)")
        else:
            yield Finding("gpu", here, WARNING, f"the driver may be too old for CUDA {torch.version.cuda}: nvidia-smi")


def compiled() -> Finding:
    """Whether the fused path on a CPU has compiled kernels."""
    if cpu_kernels.compiled_kernels() is not None:
        return Finding("cpu kernels", "compiled by numba")
    cure = "pip install 'tamft[numba]'"
    if importlib.util.find_spec("numba") is not None:
        cure = f"pip install -U numba, which must fit Python {platform.python_version()} and the installed numpy"
        return Finding("cpu kernels", "torch's own: numba is installed, but does not work here", WARNING, cure)
    return Finding("cpu kernels", f"torch's own; {cure} has faster ones for large models")


def path_on(device: str) -> str:
    """loop, foreach or fused: what AdaTAMW chooses unasked for float32 weights on `device`."""
    return str(AdaTAMW([torch.nn.Parameter(torch.zeros(2, device=device))]).backend)


def threads() -> Iterator[Finding]:
    """CPU threads, and accelerate's habit of taking one."""
    said = os.environ.get("OMP_NUM_THREADS")
    text = f"torch uses {torch.get_num_threads()}; OMP_NUM_THREADS={said or '(not set)'}"
    if not said and not torch.cuda.is_available() and (os.cpu_count() or 1) > 1:
        cure = "use `tamft train`, or accelerate launch --num_cpu_threads_per_process N"
        yield Finding("threads", f"{text}; accelerate launch would take 1", WARNING, cure)
    else:
        yield Finding("threads", text)


def disk(folder: Path) -> Iterator[Finding]:
    """Room for checkpoints where the command was started."""
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free in {folder}"
    if free < FEW_BYTES:
        yield Finding("disk", text, WARNING, "a full disk ends a run: write elsewhere, or lower --save_total_limit")
    else:
        yield Finding("disk", text)
