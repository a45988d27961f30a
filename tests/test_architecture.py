"""The house's rules: which part may import which, how long a file may be, what `import tamft` costs."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tamft"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if not {"_recipes", "_suites"} & set(path.parts))
# Each part and what it may import of tamft; imports inside functions count too. `train` and `evaluation` meet only
# through files; programs at the top (cli, demo) may use everything.
LEAVES = {"atomic", "errors", "fingerprints", "parser", "probes", "row_files", "support_desk", "yaml_file"}
BELOW: dict[str, set[str]] = {
    "errors": set(),
    "atomic": set(),
    "probes": set(),
    "fingerprints": {"atomic", "errors"},
    "parser": {"errors"},
    "row_files": {"errors"},
    "yaml_file": {"errors"},
    "support_desk": {"atomic", "errors"},
    "optim": {"optim", "errors"},
    "optim_args": {"errors"},
    "registry": {"optim", "optim_args", *LEAVES},
    "hf": {"hf", "registry", "optim_args", "optim", *LEAVES},
    "run": {"hf", "registry", "optim_args", "optim", *LEAVES},
    "doctor": {"doctor", "hf", "registry", "optim", *LEAVES},
    "train": {"train", "hf", "registry", "optim", *LEAVES},
    "evaluation": {"evaluation", "hf", "registry", "optim", *LEAVES},
    # it trains and scores, so it stands above both, which still meet only through files
    "compare": {"compare", "train", "evaluation", "hf", "registry", "optim_args", "optim", *LEAVES},
    "__init__": {"optim", "hf", "registry"},
}
TOP = {"cli", "demo", "__main__"}
PROGRAMS = {"recipes", "eval", "benchmarks", "tests"}


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere in it; relative imports are resolved."""
    names: set[str] = set()
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_imports_flow_one_way(path):
    part = part_of(path)
    names = imported(path)
    assert not {name.split(".")[0] for name in names} & PROGRAMS, "programs are imported by nobody"
    if part in TOP:
        return
    assert part in BELOW, f"tamft/{part} has no place in the layers: add it to this test and to the design page"
    tamft = {name.split(".")[1] for name in names if name.startswith("tamft.")}
    tamft &= {part_of(other) for other in FILES}  # `from tamft import AdaTAM` names no part
    assert tamft <= BELOW[part] | {part}, f"imports upwards: {sorted(tamft - BELOW[part])}"
    if part != "__init__":
        assert "tamft" not in names and not any(
            name.startswith("tamft.") and name.split(".")[1] not in {part_of(f) for f in FILES} for name in names
        ), "import from the part, not from the package's front door"


@pytest.mark.parametrize("path", [f for f in FILES if part_of(f) == "optim"], ids=ids)
def test_optimizers_are_pure_torch(path):
    import sys

    outside = {name.split(".")[0] for name in imported(path)} - {"tamft", "torch", "triton"}
    if path.name in ("numba_kernels.py", "numba_step.py"):
        outside -= {"numba", "numpy"}
    assert outside <= sys.stdlib_module_names


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


@pytest.mark.parametrize("folder", sorted(PROGRAMS - {"tests"}))
def test_programs_do_not_import_each_other(folder):
    for path in (ROOT / folder).rglob("*.py"):
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & PROGRAMS, path


def test_eval_is_a_folder_of_programs_and_no_package():
    assert not list((ROOT / "eval").rglob("__init__.py"))
    assert not list((ROOT / "recipes").rglob("__init__.py"))


@pytest.mark.parametrize("module", ["tamft", "tamft.optim", "tamft.registry"])
def test_import_is_light(run_python, module):
    """A user of the optimizers waits for torch and for nothing else."""
    program = (
        "import sys, torch; before = set(sys.modules)\n"
        f"import {module}\n"
        "heavy = {'transformers', 'triton', 'numba', 'mteb', 'datasets', 'accelerate', 'peft'}\n"
        "heavy |= {'sentence_transformers'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    assert run_python("-c", program, check=True).stdout.strip() == "[]"
