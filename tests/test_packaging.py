"""What is installed and shipped: dependencies, constraints, wheel, sdist, Makefile, CI."""

import ast
import email
import importlib.metadata
import itertools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tamft
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {name: reqs for name, reqs in PROJECT["optional-dependencies"].items() if name != "all"}
REQUIREMENTS = [Requirement(text) for text in [*PROJECT["dependencies"], *itertools.chain(*EXTRAS.values())]]


def pins(name: str) -> dict[str, str]:
    """Package -> version of a constraints file; a line that is no plain pin is an error."""
    found = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", line)
        assert match, f"{name}: {line!r} is no plain pin (no paths, no editable lines, no local versions)"
        key = canonicalize_name(match[1])
        assert key not in found, f"{name}: {key} is pinned twice"
        found[key] = match[2]
    return found


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


# ---- dependencies ---------------------------------------------------------------------------------------------------


def test_lower_bounds_are_the_lowest_constraints():
    bounds = {}
    for requirement in REQUIREMENTS:
        lowest = [s.version for s in requirement.specifier if s.operator in (">=", "==")]
        assert len(lowest) == 1, f"{requirement} has no lower bound"
        name = canonicalize_name(requirement.name)
        assert bounds.setdefault(name, lowest[0]) == lowest[0], f"{name} has two different lower bounds"
    lowest = pins("constraints-lowest.txt")
    assert set(lowest) == set(bounds)
    for name, bound in bounds.items():
        # 2.6 and 2.6.0 are the same version
        assert Requirement(f"{name}=={bound}").specifier.contains(lowest[name]), (name, bound, lowest[name])


def test_constraints_satisfy_every_requirement():
    tested = pins("constraints.txt")
    assert tested["torch"] == "2.13.0"
    for requirement in REQUIREMENTS:
        version = tested[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} does not allow the tested {version}"


def test_constraints_are_closed():
    """What the pinned packages need is pinned as well, so that two installations a year apart are the same."""
    tested = pins("constraints.txt")
    open_ends = []
    installed = {canonicalize_name(dist.name): dist for dist in importlib.metadata.distributions()}
    for name, version in tested.items():
        # Only the pinned version can say what it needs: other jobs install others, extras may be missing.
        if name not in installed or installed[name].version.partition("+")[0] != version:
            continue
        for need in map(Requirement, installed[name].requires or []):
            wanted = need.marker is None or need.marker.evaluate({"extra": ""})
            # torch's CUDA packages exist in its Linux GPU build alone, which is not what was tested
            if wanted and not re.match("nvidia|cuda|triton", need.name) and canonicalize_name(need.name) not in tested:
                open_ends.append(f"{name} needs {need.name}")
    assert not open_ends


def test_all_extra_holds_every_other_extra():
    (text,) = PROJECT["optional-dependencies"]["all"]
    assert Requirement(text).extras == set(EXTRAS)


# Modules that are themselves imported only when they are chosen.
WHEN_CHOSEN = {"fused_cuda.py", "numba_kernels.py", "numba_step.py", "triton_kernels.py", "triton_tiles.py"}


def test_imports_are_declared():
    """Every third-party package that tamft or a recipe imports is a dependency, or of an extra if imported lazily."""
    dists = importlib.metadata.packages_distributions()
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    extra = declared | {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
    missing = []
    for path in sources("tamft", "recipes", "eval"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            else:
                continue
            for module in {name.partition(".")[0] for name in modules}:
                if module in sys.stdlib_module_names or module == "tamft":
                    continue
                owners = {canonicalize_name(name) for name in dists.get(module, [module])}
                lazily = id(node) not in top or path.name in WHEN_CHOSEN
                if not owners & (extra if lazily else declared):
                    missing.append(f"{path.relative_to(ROOT)}: {module}")
    assert not missing


def test_python_versions_agree():
    versions = {
        c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.fullmatch(r"Programming Language .* 3\.\d+", c)
    }
    assert PROJECT["requires-python"] == f">={min(versions, key=lambda v: int(v[2:]))}"
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]["include"]
    assert {job["python"] for job in matrix} <= versions
    installs = {job["name"].partition(",")[0]: job["install"] for job in matrix}
    assert installs == {"pinned": "-c constraints.txt", "lowest": "-c constraints-lowest.txt", "newest": ""}


# ---- what travels ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling (extra `dev`) is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    return Path(next(builders.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])))


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_wheel_holds_package_recipes_and_suites(unpacked):
    assert files(unpacked / "tamft" / "_recipes") == files(ROOT / "recipes")
    assert files(unpacked / "tamft" / "_suites") == files(ROOT / "eval" / "suites")
    assert {"encoder_pairs.py", "configs/encoder/minilm_banking77.yaml"} <= files(unpacked / "tamft" / "_recipes")
    assert "embedded.yaml" in files(unpacked / "tamft" / "_suites")
    inside = {name for name in files(unpacked / "tamft") if not name.startswith(("_recipes/", "_suites/"))}
    assert inside == files(ROOT / "tamft")
    assert "py.typed" in inside


def test_wheel_holds_nothing_else(unpacked):
    info = f"tamft-{tamft.__version__}.dist-info"
    assert {path.name for path in unpacked.iterdir()} == {"tamft", info}
    assert files(unpacked / info) == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert (unpacked / info / "licenses/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_wheel_metadata(unpacked):
    info = unpacked / f"tamft-{tamft.__version__}.dist-info"
    meta = email.message_from_string((info / "METADATA").read_text(encoding="utf-8"))
    assert (meta["Name"], meta["Version"]) == ("tamft", tamft.__version__)
    assert (meta["License-Expression"], meta["Requires-Python"]) == ("Apache-2.0", ">=3.11")
    assert set(meta.get_all("Provides-Extra")) == {"demo", "compare", "numba", "ray", "rivals", "dev", "all"}
    assert "tamft = tamft.cli:main" in (info / "entry_points.txt").read_text(encoding="utf-8")


def test_wheel_works_without_a_checkout(unpacked, run_python):
    code = (
        "import tamft, tamft.cli\n"
        "from tamft.train.shipped import configs, find_recipe\n"
        "print(tamft.__file__, find_recipe('encoder_pairs'), configs()['minilm_banking77'], sep='\\n')\n"
        "tamft.cli.main(['--version'])"
    )
    # -P and the path: neither the checkout nor the editable installation may answer instead
    result = run_python("-P", "-c", code, env={"PYTHONPATH": str(unpacked)}, check=True)
    *paths, version = result.stdout.split("\n")[:4]
    assert all(Path(path).is_relative_to(unpacked) for path in paths), paths
    assert version == f"tamft {tamft.__version__}"


def test_recipes_are_listed_shown_and_copied_from_a_wheel(unpacked, run_python, tmp_path):
    def recipes(*words):
        env = {"PYTHONPATH": str(unpacked)}
        return run_python("-P", "-m", "tamft.cli", "recipes", *words, cwd=tmp_path, env=env, check=True)

    listed = recipes("ls").stdout
    for path in (ROOT / "recipes").rglob("*.yaml"):
        assert f"\t{path.stem}\t" in listed
    shown = recipes("show", "ddp")
    assert shown.stdout == (ROOT / "recipes" / "accelerate" / "ddp.yaml").read_text(encoding="utf-8")
    assert Path(shown.stderr.strip().removeprefix("# ")).is_relative_to(unpacked)
    recipes("cp", "llm_lora")
    assert (tmp_path / "llm_lora.py").read_bytes() == (ROOT / "recipes" / "llm_lora.py").read_bytes()


def test_sdist_can_build_the_wheel(tmp_path):
    builders = pytest.importorskip("hatchling.builders.sdist", reason="hatchling (extra `dev`) is not installed")
    with tarfile.open(next(builders.SdistBuilder(str(ROOT)).build(directory=str(tmp_path)))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "Makefile", "constraints.txt"} <= names
    for folder in ("tamft", "recipes", "eval/suites", "tests", "docs"):
        assert {f"{folder}/{name}" for name in files(ROOT / folder)} <= names
    assert not [name for name in names if name.startswith((".venv", "demo/", "runs/", "dist/"))]


# ---- words about the project ----------------------------------------------------------------------------------------


def test_licence_is_the_generic_text():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.lstrip().startswith("Apache License\n")
    assert "Version 2.0, January 2004" in text
    assert "Copyright [yyyy] [name of copyright owner]" in text
    assert len(text.split()) > 1500


def test_citation_agrees_with_the_package():
    cite = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cite["version"], cite["license"]) == (tamft.__version__, PROJECT["license"])
    papers = {entry["identifiers"][0]["value"] for entry in cite["references"]}
    assert papers == {"arXiv:2412.18790", "arXiv:2401.12033"}
    assert re.search(rf"^## {re.escape(tamft.__version__)}\b", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)


# ---- the two commands -----------------------------------------------------------------------------------------------

# These tests may themselves run under make, which hands its variables (ARGS, PYTHON, …) on in the environment.
BARE = {"PATH": os.environ.get("PATH", os.defpath)}
FAKE_PYTHON = """\
#!/bin/sh
echo "$@" >> "{log}"
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
esac
"""
OLD_PYTHON = """\
#!/bin/sh
exec "{python}" -c "import sys; sys.version_info = (3, 9, 18)
$2"
"""


@pytest.fixture
def fresh(tmp_path):
    """A folder with the Makefile, and `make(target, …)` that runs it; interpreters are scripts that note the calls."""
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    log = tmp_path / "calls"

    def make(*args, python=FAKE_PYTHON):
        fake = tmp_path / "python-fake"
        fake.write_text(python.format(log=log, python=sys.executable), encoding="utf-8")
        fake.chmod(0o755)
        log.write_text("", encoding="utf-8")
        result = subprocess.run(
            ["make", *args, *([] if any(a.startswith("PYTHON=") for a in args) else [f"PYTHON={fake}"])],
            cwd=folder,
            env=BARE,
            capture_output=True,
            text=True,
        )
        return result, [line for line in log.read_text(encoding="utf-8").splitlines() if not line.startswith("-c")]

    make.folder = folder
    return make


@pytest.mark.parametrize(
    ("target", "work"),
    [("demo", "-m tamft.cli demo"), ("test", "-m pytest -n 2"), ("bench", "benchmarks/step.py --short")],
)
def test_make_installs_once(fresh, target, work):
    result, calls = fresh(target)
    assert result.returncode == 0, result.stderr
    venv, install, job = calls
    assert venv == "-m venv .venv"
    assert install.startswith("-m pip install") and install.endswith("-c constraints.txt -e .[demo,dev]")
    assert job.strip() == work
    assert fresh(target)[1] == [job], "the second call must not install again"
    newer = (fresh.folder / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(fresh.folder / "pyproject.toml", (newer, newer))
    assert fresh(target)[1] == calls, "a changed pyproject.toml must install again"


def test_make_hands_arguments_on(fresh):
    _, calls = fresh("test", "ARGS=tests/optim -x")
    assert calls[-1] == "-m pytest -n 2 tests/optim -x"


def test_make_refuses_an_old_python(fresh):
    result, _ = fresh("test", python=OLD_PYTHON)
    assert result.returncode != 0
    assert "needs Python 3.11 or newer" in result.stderr
    assert "is 3.9" in result.stderr
    assert not (fresh.folder / ".venv").exists()


def test_make_without_python(fresh):
    result, _ = fresh("demo", "PYTHON=no-such-python")
    assert result.returncode != 0
    assert "'no-such-python' is not here" in result.stderr
    assert "make PYTHON=python3.12 demo" in result.stderr


@pytest.mark.parametrize("data", [True, False])
def test_ci_run_finds_the_data(tmp_path, data):
    if not (shutil.which("make") and shutil.which("bash")):
        pytest.skip("make or bash is not installed")
    checkout = tmp_path / "checkout"
    (checkout / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", checkout / ".ci")
    (checkout / "Makefile").write_text("lint test:\n\t@echo $@ at [$$TAMFT_TEST_DATA]\n", encoding="utf-8")
    if data:
        (tmp_path / "shared" / "data").mkdir(parents=True)
    result = subprocess.run([checkout / ".ci" / "run"], cwd="/", env=BARE, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    where = (tmp_path / "shared" / "data").resolve() if data else ""
    assert result.stdout.splitlines() == [f"lint at [{where}]", f"test at [{where}]"]
