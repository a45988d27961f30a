"""`tamft run script.py …`: run a training script that never heard of tamft, with its optimizers known to Trainer.

Also `python -m tamft.run script.py …`, and the same after `torchrun` or `accelerate launch`.
"""

import builtins
import importlib.util
import re
import shutil
import sys
import types
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamft import registry
from tamft.errors import InputError

if TYPE_CHECKING:
    from tamft.hf.overrides import Overrides

HELP = """\
usage: tamft run [OPTIONS] SCRIPT.py [the script's own options]
       tamft run [OPTIONS] -m MODULE [the module's own options]
       tamft run [OPTIONS] COMMAND [the command's own options]     trl, accelerate, torchrun, …

Runs a training script, unchanged, with tamft's optimizers known to Hugging Face's Trainer.

OPTIONS are TrainingArguments, or fields of the script's own subclass (SFTConfig, …). They win over whatever the script
sets: in Python, on its command line, in JSON or YAML. One line says what changed; it is an error if nothing did.

  tamft run --optim adatamw --learning_rate 4e-5 train.py           a script with hard-coded arguments
  tamft run --optim adamw_msam --optim_args rho=0.1 trl sft --config sft.yaml
  tamft run --optim schedulefree.AdamWScheduleFree train.py         any torch optimizer that is installed
  accelerate launch -m tamft.run --optim adatamw train.py           or: tamft run --optim adatamw accelerate launch …
  torchrun --nproc_per_node 2 -m tamft.run --optim adatamw train.py

Everything after the script belongs to the script. One that reads TrainingArguments from its command line needs no more:

  tamft run train.py --output_dir out --optim adatamw --optim_args "gamma=0.9,rho=0.1,rho_start=warmup"

optimizers: {names}
--optim_args: key=value,key=value. A wrong key lists what exists: try --optim adatamw --optim_args help=1
A list needs `--` after it, unless the script's name ends with .py: tamft run --label_names a b -- COMMAND
exit codes: the script's own; 2 if the script is missing, an option is wrong, or nothing was overridden
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script, module or command in `argv`. Returns 0, or 2 for bad input; the script's own exit goes on."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP.format(names=" ".join(registry.names())), file=sys.stdout if argv else sys.stderr, end="")
        return 0 if argv else 2
    try:
        _run(argv)
    except InputError as error:
        # Only tamft raises it, about something the user typed: a traceback through Trainer would hide it.
        print(f"tamft run: error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(argv: list[str]) -> None:
    # What costs nothing to check comes before the seconds that transformers takes to import.
    if not argv[0].startswith("--"):
        _check_target(argv)
    from tamft.hf import register
    from tamft.hf.overrides import Overrides, active, split

    register()
    words, rest = split(argv)
    if not rest:
        Overrides(words)  # what is wrong with the options says more than that there is no script
    if words or rest != argv:
        _check_target(rest)
    if not sys.flags.safe_path:
        sys.path[0] = _folder(rest[0])  # already now: --optim may name a class in a file beside the script
    with active(Overrides(words)) as overrides:
        try:
            _start(rest, overrides)
        except SystemExit as ending:
            if ending.code not in (None, 0):
                raise
            overrides.check_used()
            raise
        overrides.check_used()


def _folder(target: str) -> str:
    """What Python puts first into sys.path."""
    if target == "-m":
        return str(Path.cwd())
    path = target if Path(target).is_file() else shutil.which(target)
    return str(Path(path or sys.executable).resolve().parent)


def _check_target(rest: list[str]) -> None:
    """InputError if `rest` does not begin with something that can be run."""
    if not rest:
        raise InputError("there is no script: tamft run [options] SCRIPT.py [the script's own options]")
    target = rest[0]
    if target == "-m":
        if len(rest) < 2:
            raise InputError("-m needs the name of a module: tamft run -m package.module")
        _module_spec(rest[1])
    elif target.startswith("-"):
        raise InputError(f"{target} is not an option of tamft run: see tamft run --help")
    elif not Path(target).is_file():
        if target.endswith(".py") or not re.fullmatch(r"[\w.-]*\w[\w.-]*", target):
            raise InputError(f"there is no file {target!r} (looked in {Path.cwd()}): give the path of a Python script")
        from tamft.hf.launchers import find_command

        find_command(target)


def _start(rest: list[str], overrides: "Overrides") -> None:
    target = rest[0]
    if target != "-m" and not Path(target).is_file():
        from tamft.hf.launchers import run_command

        sys.exit(run_command(target, rest[1:], overrides))
    if target == "-m":
        spec = _module_spec(rest[1])
        sys.argv = [spec.origin or rest[1], *rest[2:]]
        code = spec.loader.get_code(spec.name)
        facts = {"__spec__": spec, "__package__": spec.parent, "__file__": spec.origin, "__cached__": spec.cached}
        loader = spec.loader
    else:
        path = Path(target).absolute()
        sys.argv = rest
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        facts = {"__spec__": None, "__package__": None, "__file__": str(path), "__cached__": None}
        loader = SourceFileLoader("__main__", str(path))
    # runpy would take the module out of sys.modules again when the script ends: an atexit handler or a thread that
    # pickles a class of the script would not find it any more.
    script = types.ModuleType("__main__")
    script.__dict__.update(facts, __loader__=loader, __annotations__={}, __builtins__=builtins)
    sys.modules["__main__"] = script
    exec(code, script.__dict__)


def _module_spec(module: str) -> Any:
    """Where `module` (of a package: its __main__) is; InputError if it is nowhere or cannot be run."""
    if not sys.flags.safe_path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.submodule_search_locations is not None:
            module = f"{module}.__main__"
            spec = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the package is there and misses something itself
        spec = None
    finally:
        if not sys.flags.safe_path:
            sys.path.pop(0)
    if spec is None or spec.loader is None or not hasattr(spec.loader, "get_code"):
        raise InputError(f"there is no module {module!r}: check the name, or give the path of a script without -m")
    return spec


if __name__ == "__main__":
    sys.exit(main())
