"""Console commands of installed packages (`trl sft`, `accelerate launch`, `torchrun`), with tamft in what they start.

They train in processes of their own, where nothing would be registered: so these processes run `-m tamft.run` with the
overrides, and the script after them.
"""

import functools
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from tamft.errors import InputError
from tamft.hf.overrides import Overrides
from tamft.optim_args import nearest


def find_command(name: str) -> EntryPoint:
    """The shell command `name`, not loaded yet. Raises InputError if no installed package has such a Python command."""
    known = {found.name: found for found in entry_points(group="console_scripts")}
    if name not in known:
        reason = (
            f"{name!r} is a program, but not a Python command of an installed package: tamft cannot reach inside it"
            if shutil.which(name)
            else f"there is no file, and no command of an installed package, called {name!r} (looked in {Path.cwd()})"
        )
        raise InputError(f"{reason}{nearest(name, known, 0.8)} Give the path of a Python script, or -m MODULE")
    return known[name]


def run_command(name: str, rest: list[str], overrides: Overrides) -> Any:
    """What the shell's `name *rest` would do, in this process; returns what the command's function returns."""
    found = find_command(name)
    reach_into_launchers(overrides)  # before the command imports them
    try:
        function = found.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"the command {name!r} cannot be loaded: {error}") from error
    sys.argv = [shutil.which(name) or name, *rest]
    return function()


def reach_into_launchers(overrides: Overrides) -> None:
    """Processes started by accelerate's and torch's launchers run through tamft, with `overrides`."""
    import torch.distributed.run
    from accelerate.commands import launch

    launch.launch_command = _through_tamft(launch.launch_command, overrides)
    torch.distributed.run.run = _through_tamft(torch.distributed.run.run, overrides)


def _through_tamft(original: Callable[[Namespace], None], overrides: Overrides) -> Callable[[Namespace], None]:
    @functools.wraps(original)
    def run(args: Namespace) -> None:
        # accelerate starts several processes through torch's launcher: once is enough. On a TPU it starts none.
        if args.training_script != "tamft.run" and not (args.no_python or getattr(args, "tpu", False)):
            target = ["-m", args.training_script] if args.module else [args.training_script]
            args.training_script_args = [*overrides.hand_on(), *target, *args.training_script_args]
            args.training_script, args.module = "tamft.run", True
            args.run_path = False  # torchrun's other way to run a file
        try:
            original(args)
        except subprocess.CalledProcessError as error:
            # The script has said what is wrong: accelerate's traceback would hide it, and its exit code with it.
            sys.exit(error.returncode if error.returncode > 0 else 128 - error.returncode)

    return run
