"""`tamft COMMAND …`: each command is a few lines over an importable function."""

import argparse
import sys
from collections.abc import Callable, Sequence

from tamft.errors import InputError


def _eval(argv: list[str]) -> int:
    from tamft.evaluation.score import main

    return main(argv)


def _suites(argv: list[str]) -> int:
    from tamft.evaluation.catalogue import main

    return main(argv)


def _train(argv: list[str]) -> int:
    from tamft.train.launch import main

    return main(argv)


def _recipes(argv: list[str]) -> int:
    from tamft.train.catalogue import main

    return main(argv)


def _run(argv: list[str]) -> int:
    from tamft.run import main

    return main(argv)


def _report(argv: list[str]) -> int:
    from tamft.evaluation.report.command import main

    return main(argv)


def _plot(argv: list[str]) -> int:
    from tamft.hf.figure import main

    return main(argv)


def _compare(argv: list[str]) -> int:
    from tamft.compare.command import main

    return main(argv)


def _suggest_lr(argv: list[str]) -> int:
    from tamft.compare.suggest_lr import main

    return main(argv)


def _doctor(argv: list[str]) -> int:
    from tamft.doctor import main

    return main(argv)


def _demo(argv: list[str]) -> int:
    from tamft.demo import main

    return main(argv)


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "run": (_run, "run an unmodified training script with tamft's optimizers known to Trainer"),
    "train": (_train, "train with one of tamft's recipes, through accelerate"),
    "recipes": (_recipes, "list, show and copy the recipes, their configs and accelerate's presets"),
    "eval": (_eval, "score models on MTEB tasks, side by side"),
    "suites": (_suites, "suites of MTEB tasks: list them, look inside, get their data"),
    "compare": (_compare, "is an optimizer better on your data? tuned with equal budgets, confirmed on fresh seeds"),
    "suggest-lr": (_suggest_lr, "carry a learning rate of AdamW or SGD over to a torque optimizer"),
    "report": (_report, "scores side by side, verdicts of a study: table, Markdown, CSV, JSON, a page; model cards"),
    "plot": (_plot, "draw loss, alignment, damping and momentum of a training from its log"),
    "doctor": (_doctor, "what is wrong with this machine, a checkpoint, a model or an adapter"),
    "demo": (_demo, "fine-tune a real model with three optimizers and compare, in a few minutes"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `tamft` command. Returns the exit code (0 ok, 1 failed, 2 bad input, 130 interrupted)."""
    from tamft import __version__

    parser = argparse.ArgumentParser(
        prog="tamft",
        description="Torque-Aware Momentum and Momentum-SAM for people who fine-tune embedding models.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items())
        + "\n\n`tamft COMMAND --help` explains a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tamft {__version__}")
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help=" | ".join(COMMANDS))
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="…", help="the command's own options")
    args = parser.parse_args(sys.argv[1:] if argv is None else list(argv))
    function, _ = COMMANDS[args.command]
    try:
        return function(args.rest)
    except InputError as error:
        print(f"tamft {args.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"tamft {args.command}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
