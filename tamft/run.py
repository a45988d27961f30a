"""`tamft run script.py …`: run a training script that never heard of tamft, with its optimizers known to Trainer.

Also `python -m tamft.run script.py …`, and the same after `torchrun` or `accelerate launch`.
"""

import importlib.util
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from tamft import registry
from tamft.errors import InputError

HELP = """\
usage: tamft run SCRIPT.py [the script's own options]
       tamft run -m MODULE [the module's own options]

Runs a training script, unchanged, with tamft's optimizers known to Hugging Face's Trainer. Everything after the script
belongs to the script. For a script that reads TrainingArguments from the command line:

  tamft run train.py --output_dir out --optim adatamw --learning_rate 1e-4
  tamft run train.py --output_dir out --optim adamw_msam --optim_args "rho=0.3,rho_start=warmup"
  accelerate launch -m tamft.run train.py --output_dir out --optim adatamw
  torchrun --nproc_per_node 2 -m tamft.run train.py --output_dir out --optim adatamw

optimizers: {names}
A wrong key in --optim_args lists what exists: try --optim adatamw --optim_args help=1
A script that sets its arguments itself needs two lines instead: import tamft; tamft.register()
exit codes: the script's own; 2 if the script is missing or an option of tamft's is wrong
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script or module in `argv`. Returns 0, or 2 for bad input; the script's own exit passes through."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP.format(names=" ".join(registry.names())), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    try:
        _run(argv)
    except InputError as error:
        # Only tamft raises it, about something the user typed: a traceback through Trainer would hide it.
        print(f"tamft run: error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(argv: list[str]) -> None:
    as_module = argv[0] == "-m"
    target = argv[1] if as_module and len(argv) > 1 else argv[0]
    if as_module:
        _check_module(target)
    else:
        _check_script(target)

    from tamft.hf import register

    register()
    # What `python script.py` would have set: sibling imports and argparse's program name depend on it.
    sys.argv = argv[1:] if as_module else argv
    if not sys.flags.safe_path:
        sys.path[0] = str(Path.cwd() if as_module else Path(target).resolve().parent)
    if as_module:
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(target, run_name="__main__")


def _check_script(script: str) -> None:
    if script.startswith("-"):
        raise InputError(f"{script} is not an option of tamft run: the script comes first, its options after it")
    if not Path(script).is_file():
        raise InputError(f"there is no file {script!r} (looked in {Path.cwd()}): give the path of a Python script")


def _check_module(module: str) -> None:
    if module == "-m":
        raise InputError("-m needs the name of a module: tamft run -m package.module")
    if not sys.flags.safe_path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # its parent package
        found = None
    finally:
        if not sys.flags.safe_path:
            sys.path.pop(0)
    if found is None:
        raise InputError(f"there is no module {module!r}: check the name, or give the path of a script without -m")


if __name__ == "__main__":
    sys.exit(main())
