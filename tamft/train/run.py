"""A training run in a folder: refused early, recorded in run.json, stopped at a NaN, saved whole or not at all."""

import contextlib
import inspect
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from transformers import ProgressCallback, TrainerCallback
from transformers.utils import logging as transformers_logging

from tamft import registry
from tamft.errors import InputError
from tamft.hf.checkpoints import checkpoints
from tamft.hf.resume import check_optimizer, choose, newest
from tamft.train import estimate, failures, lock, record, stop
from tamft.train.failures import Diverged, Ended, RunError
from tamft.train.launch import EXIT_FILE
from tamft.train.saving import MODEL_DIR, Finish, save_model
from tamft.train.trainer import PairsTrainer

__all__ = [
    "MODEL_DIR",
    "Bar",
    "Diverged",
    "PairsTrainer",
    "RunError",
    "command",
    "fit",
    "prepare_output",
    "save_model",
    "say",
]

AUTO = "auto"  # --resume_from_checkpoint auto: go on where there is something to go on from, else start
_RANK = failures.RANK
_command: str | None = None  # what the user typed, for the record


class RunCallback(TrainerCallback):
    """Keeps run.json up to date, weights that are not finite out of the checkpoints, and saves after SIGTERM."""

    def __init__(self, trainer: PairsTrainer, path: Path, content: dict[str, Any], request: stop.Request) -> None:
        self.trainer, self.path, self.content, self.request = trainer, path, content, request
        self.stopped = False
        self.started = time.perf_counter()

    def write(self, **changes: Any) -> None:
        """Bring run.json up to date: measured values of now, and `changes`."""
        self.update()
        if not changes and (theirs := failures.others_failure(self.path)):
            changes = theirs  # another process failed, which this one is about to find out
        self.content |= changes
        if self.trainer.is_world_process_zero():
            record.write_json(self.path, self.content)

    def update(self) -> None:
        """Measure what `content` says of now."""
        trainer = self.trainer
        history = trainer.state.log_history
        if trainer.optimizer is not None:
            self.content["optimizer"] |= record.optimizer_facts(trainer.optimizer)
        if trainer.batches_hash and not self.content["first_batches_sha256"]:
            self.content["first_batches_sha256"] = trainer.batches_hash.hexdigest()
        self.content |= {
            "steps": trainer.state.global_step,
            "seconds": round(time.perf_counter() - self.started, 3),
            "peak_memory_bytes": record.peak_memory_bytes(),
            "loss": [[entry["step"], entry["loss"]] for entry in history if "loss" in entry],
            "eval_loss": [[entry["step"], entry["eval_loss"]] for entry in history if "eval_loss" in entry],
            "telemetry": record.telemetry(history),
        }

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The order of the data is settled by now, the same in all processes; dropout must not be. A resumed run gets
        # its random numbers from the checkpoint after this.
        if args.world_size > 1:
            set_seed(args.seed, device_specific=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # After the last step only the model remains to be saved.
        if state.global_step < state.max_steps and self.request.agreed(self.trainer.accelerator):
            control.should_save = control.should_training_stop = self.stopped = True
            control.should_evaluate = False  # Trainer evaluates before it saves, and there may be no time for both
        # A finite loss can still leave infinite gradients behind: such weights must not replace a good checkpoint.
        if control.should_save:
            check_finite(self.trainer.model, state.global_step)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.stopped:
            self.on_step_end(args, state, control)  # SIGTERM came during the evaluation

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stopped:  # in the middle of the epoch: it is not over
            control.should_save = control.should_evaluate = False

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.write()


class Bar(ProgressCallback):
    """Progress bar with the latest loss beside it, instead of a line of numbers for every log entry."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.4f}")


def check_finite(model: torch.nn.Module, step: int) -> None:
    """Raise Diverged if a weight is NaN or infinite."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise Diverged(f"weight {name} is not finite after step {step}: nothing was saved from it")


def prepare_output(training_args: Any, overwrite: bool) -> str | None:
    """Check the output folder, writing nothing, and return the checkpoint to resume from (None: start anew).

    Raises InputError for no folder or one that cannot be written, for one that another run is in, for a complete run
    or the checkpoints of an unfinished one where neither `overwrite` nor --resume_from_checkpoint is given, and for
    nothing to resume from: see `tamft.hf.resume`.
    """
    if not training_args.output_dir:
        raise InputError("--output_dir is missing: name the folder for run.json, the checkpoints and the model")
    if getattr(training_args, "enable_jit_checkpoint", False):
        raise InputError("--enable_jit_checkpoint: leave it away; a recipe saves on SIGTERM by itself")
    folder = Path(training_args.output_dir)
    record.check_writable(folder)
    if _RANK == 0:  # the main process takes the lock, perhaps while the others are still here
        lock.check(folder)
    wish = str(training_args.resume_from_checkpoint or "no")
    found = _resume_from(wish, folder, training_args) if wish.lower() not in ("false", "no", "0") else None
    if found is not None:
        return str(found)
    status = (record.read_json(folder / "run.json") or {}).get("status")
    unfinished = checkpoints(folder) and wish.lower() != AUTO
    if not overwrite and (status == "complete" or unfinished):
        state = "a complete run" if status == "complete" else "checkpoints of an unfinished run"
        raise InputError(
            f"--output_dir {folder} holds {state}; take another folder, start anew with --overwrite_output_dir, "
            "or go on with --resume_from_checkpoint true"
        )
    return None


def _resume_from(wish: str, folder: Path, args: Any) -> Path | None:
    demands = {"ranks": range(args.world_size), "needed": ["modules.json"], "tell": _RANK == 0}
    if wish.lower() == AUTO:
        path = newest(folder, **demands)
    else:
        path = choose(True if wish.lower() in ("true", "yes", "1") else wish, folder, **demands)
    if path is not None:
        name = str(getattr(args.optim, "value", args.optim))
        check_optimizer(path, name, registry.get(name).cls if name in registry.ENTRIES else None)
    return path


def remove_checkpoints(folder: Path) -> None:
    """An old run's, where a new one starts: a later resume would take the highest number. In the main process."""
    if _RANK == 0:
        for stale in checkpoints(folder):
            shutil.rmtree(stale)


def fit(
    trainer: PairsTrainer,
    facts: dict[str, Any],
    checkpoint: str | None = None,
    also_save: Callable[[Path], Path] | None = None,
) -> Path:
    """Train, save the model, keep run.json; returns the model's folder, `<output_dir>/model`.

    Args:
        trainer: ready to train; its args name the output folder.
        facts: what only the recipe knows: config, data, base_model.
        checkpoint: to resume from, as `prepare_output` returned it.
        also_save: called on the main process with the model's folder, before the run counts as complete; makes and
            returns a folder with another form of the model.

    Raises InputError before anything is written, Diverged and RunError after run.json says so (also where
    training changed nothing, or the saved model is not the trained one: `tamft.train.guards`); KeyboardInterrupt goes
    through after run.json says "interrupted", and so does Terminated, after a checkpoint.
    """
    folder = Path(trainer.args.output_dir)
    with contextlib.ExitStack() as stack:
        if trainer.is_world_process_zero():
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock.hold(folder))
        request = stack.enter_context(stop.listening())
        return _fit(trainer, facts, checkpoint, request, also_save)


def _fit(
    trainer: PairsTrainer,
    facts: dict[str, Any],
    checkpoint: str | None,
    request: stop.Request,
    also_save: Callable[[Path], Path] | None,
) -> Path:
    folder = Path(trainer.args.output_dir)
    path = folder / "run.json"
    before = record.read_json(path) if checkpoint else None
    if checkpoint is None:
        remove_checkpoints(folder)
    trainer.accelerator.wait_for_everyone()
    content = record.start(trainer.args, facts)
    content["first_batches_sha256"] = (before or {}).get("first_batches_sha256")
    content["command"] = _command
    negatives = estimate.count_negatives(trainer.args, trainer.loss, len(trainer.train_dataset.column_names))
    content["negatives_per_anchor"] = negatives.total if negatives else None
    keeper = RunCallback(trainer, path, content, request)
    finish = Finish(trainer, content)
    trainer.add_callback(keeper)
    if trainer.pop_callback(ProgressCallback):
        trainer.add_callback(Bar())
    try:
        keeper.write(status="running")
        failures.on_main(trainer.accelerator, finish.before_training)
        trainer.train(resume_from_checkpoint=checkpoint)
        if keeper.stopped:
            raise stop.Terminated(f"SIGTERM: saved after step {trainer.state.global_step}")
        check_finite(trainer.model, trainer.state.global_step)
        rows = torch.tensor(trainer.rows_seen, device=trainer.args.device)
        content["rows_seen"] = int(trainer.accelerator.reduce(rows, reduction="sum"))
        keeper.update()
        model = save_model(trainer, finish)
        if also_save is not None:
            failures.on_main(trainer.accelerator, lambda: finish.also(also_save, model))
        keeper.write(status="complete", model_dir=MODEL_DIR)
    except BaseException as error:
        _remove_half_checkpoint(trainer)
        if (last := _ended(keeper, error)) is not error:
            raise last from error
        raise
    return model


def _ended(keeper: RunCallback, error: BaseException) -> BaseException:
    """Bring an ending into run.json; returns the error to go on with."""
    folder = keeper.path.parent
    if (ended := failures.consequence(keeper.path, error)) is not None:
        error = ended
    ends = {KeyboardInterrupt: "interrupted", Diverged: "diverged"}
    status = next((status for kind, status in ends.items() if isinstance(error, kind)), "failed")
    with contextlib.suppress(OSError):  # a full disk: the error on its way out says so
        if _RANK:
            failures.leave_note(keeper.path, status, error)
        else:
            theirs = failures.others_failure(keeper.path) if ended else None
            keeper.write(**(theirs or {"status": status, "error": failures.text(error)}))
    if cause := record.disk_error(error):
        return RunError(f"{folder}: cannot write: {cause}; earlier checkpoints are kept")
    if isinstance(error, torch.OutOfMemoryError):
        return RunError(f"out of memory: lower --per_device_train_batch_size ({error})")
    return error


def command(main: Callable[[list[str]], int], argv: list[str] | None = None) -> int:
    """Run a recipe's `main`; one line instead of a traceback for what users can mend. Returns the exit code.

    0 complete · 1 failed or diverged · 2 bad input, nothing written · 130 interrupted · 143 ended by SIGTERM.
    """
    global _command
    argv = sys.argv[1:] if argv is None else argv
    _command = record.command_line(Path(inspect.getfile(main)).stem, argv)
    exit_file = os.environ.get(EXIT_FILE)
    if exit_file:  # the launcher starts accelerate deaf to both signals, so that only the training answers
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, stop.raise_terminated)
    transformers_logging.disable_progress_bar()  # of reading and writing files; training keeps its bar
    code, message = 0, ""
    try:
        code = main(argv)
    except InputError as error:
        code, message = 2, f"error: {error}"
    except Ended as error:
        code, message = 1, "" if _RANK else f"error: {error}"
    except RunError as error:
        code, message = 1, f"error: {error}"
    except stop.Terminated as error:
        code, message = stop.EXIT_CODE, "" if _RANK else f"terminated by {error}"
    except KeyboardInterrupt:
        code, message = 130, "" if _RANK else "interrupted"
    except Exception as error:
        failures.keep_exit_code(exit_file, 1)
        if failures.WORLD > 1:  # a bug: its traceback follows, among those of the others
            failures.tell(f"error: {failures.text(error)}")
        raise
    failures.keep_exit_code(exit_file, code)
    if message:
        failures.tell(message)
    return code


def say(text: str, file: Any = None) -> None:
    """Print once, however many processes train."""
    if _RANK == 0:
        print(text, file=file, flush=True)


def _remove_half_checkpoint(trainer: PairsTrainer) -> None:
    """A checkpoint that was being written when the run ended is worth nothing, and resume would choose it."""
    half = Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"
    # Trainer writes this file last.
    if trainer.is_world_process_zero() and half.is_dir() and record.read_json(half / "trainer_state.json") is None:
        shutil.rmtree(half, ignore_errors=True)
