"""`tamft train RECIPE …`: a recipe through accelerate, with the machine's cores and the recipe's own exit code."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tamft.errors import InputError
from tamft.train.shipped import configs, find_preset, find_recipe, presets, recipe_of, recipes
from tamft.yaml_file import read_yaml

# Environment variable with the file for the recipe's exit code: accelerate turns every failure into a 1.
EXIT_FILE = "TAMFT_EXIT_FILE"
USAGE = """\
usage: tamft train RECIPE [--num_processes N] [--num_cpu_threads_per_process N] [--accelerate_config NAME]
                          [the recipe's own options]

Runs a recipe through accelerate. A recipe is a name or the path of a .py file of your own. --config takes the name of a
shipped config or the path of a YAML file, which holds defaults: the command line wins, an unknown option is an error.

  recipe               configs
{recipes}

  --num_processes N                 processes, one GPU each (default: all GPUs; 1 without any)
  --num_cpu_threads_per_process N   CPU threads of each (default: OMP_NUM_THREADS, else the cores shared out)
  --accelerate_config NAME          {presets}, or a file: `accelerate config` makes one

  tamft train encoder_pairs --config minilm_banking77 --train_file pairs.jsonl --output_dir runs/a --optim adatamw
  tamft train llm_lora --config qwen3_embedding_0.6b --output_dir runs/b --dry_run true   steps, negatives, memory
  tamft train llm_lora --config qwen3_embedding_0.6b --output_dir runs/b --accelerate_config ddp --num_processes 4
  tamft train encoder_pairs --help     all options of a recipe
  tamft recipes ls                     what each config trains, on which data and hardware; cp NAME copies one
exit codes: 0 complete · 1 failed or diverged · 2 bad input, nothing written · 130 interrupted · 143 ended by SIGTERM
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `tamft train`; returns the recipe's exit code. Raises InputError for an unknown recipe or a bad option."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage(), end="", file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    script = find_recipe(argv[0])
    options, rest = _own_options(argv[1:])
    with tempfile.TemporaryDirectory(prefix="tamft-") as folder:
        exit_file = Path(folder) / "code"
        code = _run([*accelerate_command(options), str(script), *rest], {**os.environ, EXIT_FILE: str(exit_file)})
        # accelerate says 1 for every failure: the recipe's own code is in the file.
        told = exit_file.read_text(encoding="utf-8") if exit_file.is_file() else ""
    if told.isdigit() and (code != 0 or told != "0"):
        return int(told) or code
    return 128 - code if code < 0 else code


def _usage() -> str:
    lines = []
    for recipe in recipes():
        names = ", ".join(name for name, path in configs().items() if recipe_of(path) == recipe)
        indent = " " * 23
        lines.append(textwrap.fill(names or "-", 118, initial_indent=f"  {recipe:<21}", subsequent_indent=indent))
    return USAGE.format(recipes="\n".join(lines), presets=", ".join(presets()))


def accelerate_command(options: argparse.Namespace) -> list[str]:
    """`accelerate launch` with everything said that it would otherwise warn about having guessed."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    config = _accelerate_config(options.accelerate_config)
    if config is None:
        gpus = _gpus()
        processes = options.num_processes or max(1, gpus)
        if processes > max(1, gpus):
            raise InputError(
                f"--num_processes {processes}: one GPU is needed for each and there are {gpus}; several processes on "
                "CPUs: --accelerate_config ddp --use_cpu true"
            )
        command += ["--num_processes", str(processes), "--num_machines", "1"]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
        command += ["--multi_gpu"] if processes > 1 else []
    else:
        path, content = config
        processes = options.num_processes or int(content.get("num_processes") or 1)
        machines = int(content.get("num_machines") or 1)
        command += ["--config_file", str(path)]
        command += ["--num_processes", str(options.num_processes)] if options.num_processes else []
        processes = max(1, processes // machines)
    threads = options.num_cpu_threads_per_process or threads_per_process(processes)
    return [*command, "--num_cpu_threads_per_process", str(threads)]


def threads_per_process(processes: int) -> int:
    """CPU threads for each of `processes` here: OMP_NUM_THREADS if set, else the usable physical cores shared out.

    accelerate would take 1 and leave the other cores idle.
    """
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdigit() and int(said) > 0:
        return int(said)
    import psutil

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    physical = psutil.cpu_count(logical=False) or usable
    return max(1, min(usable, physical) // processes)


def _own_options(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("num_processes", "num_cpu_threads_per_process"):
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", type=_positive)
    parser.add_argument("--accelerate_config", "--accelerate-config")
    try:
        return parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise InputError(str(error).removeprefix("argument ")) from error


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _accelerate_config(name: str | None) -> tuple[Path, dict[str, Any]] | None:
    """The accelerate config to use and its content: the named one, else the user's default one if there is any."""
    from accelerate.commands.config.config_args import default_config_file

    if name is None and not Path(default_config_file).is_file():
        return None
    try:
        path = find_preset(name) if name is not None else Path(default_config_file)
        content = read_yaml(path, f"--accelerate_config {path}")
    except InputError as error:
        raise InputError(f"{error}; make one: accelerate config") from error
    if not isinstance(content, dict):
        raise InputError(f"--accelerate_config {path}: is not a config of accelerate; make one: accelerate config")
    return path, content


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Run to the end; Ctrl-C goes on to the training, SIGTERM and SIGHUP do as SIGTERM, and it ends in good order.

    accelerate ignores both (it would die before the training has written its checkpoint and its run.json); the recipe
    listens to them again. Their own process group keeps a terminal's Ctrl-C from arriving twice.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process = subprocess.Popen(command, env=environment, process_group=0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: Any) -> None:
        os.killpg(process.pid, signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    names = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    old = {name: signal.signal(name, stop) for name in names}
    try:
        return process.wait()
    finally:
        for name, handler in old.items():
            signal.signal(name, handler)
