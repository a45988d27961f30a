"""The model at the end of a run: saved beside its place, checked, and only then put there."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamft import fingerprints
from tamft.atomic import recover_folder, replace_folder
from tamft.train import card, texts
from tamft.train.failures import RunError, on_main
from tamft.train.guards import Guard

if TYPE_CHECKING:
    from tamft.train.trainer import PairsTrainer

MODEL_DIR = "model"
REJECTED = ".rejected"


def save_model(trainer: "PairsTrainer", finish: Callable[[Path], None] | None = None) -> Path:
    """Save the final model into `<output_dir>/model`: written beside it first, so that it is never half there.

    `finish` is called in the main process with the new folder, before it is moved to its place. If it raises RunError,
    the folder is kept as `model.rejected`, an earlier `model` stays, and RunError is raised in all processes.
    """
    folder = Path(trainer.args.output_dir)
    target, fresh = folder / MODEL_DIR, folder / f".{MODEL_DIR}.new"
    main = trainer.is_world_process_zero()
    try:
        if main:
            recover_folder(target)  # of a run that was killed
            for stale in (fresh, folder / f"{MODEL_DIR}{REJECTED}"):
                shutil.rmtree(stale, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        if trainer.is_fsdp_enabled:  # with SHARDED_STATE_DICT Trainer saves no model
            trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        trainer.save_model(str(fresh), _internal_call=True)
        trainer.accelerator.wait_for_everyone()
        if finish is not None:
            on_main(trainer.accelerator, lambda: _or_reject(finish, fresh, target))
        if main:
            replace_folder(target, fresh)
    finally:
        if main:
            shutil.rmtree(fresh, ignore_errors=True)
    return target


class Finish:
    """What the main process adds to a run around the training: see `before_training` and a call."""

    def __init__(self, trainer: "PairsTrainer", content: dict[str, Any]) -> None:
        """`content`: of run.json, which gets the keys `overlap` and `checks`."""
        self.trainer, self.content = trainer, content

    def before_training(self) -> None:
        """Embed a few sentences with the base model; hash the training texts and say which are evaluation texts too."""
        self.guard = Guard(self.trainer)
        self.content["checks"] = self.guard.facts
        base = self.content["base_model"]["name"]
        card.prepare(self.trainer.model, base)
        self.trained_on, self.content["overlap"] = texts.fingerprint(self.trainer, base)
        fingerprints.write(self.trained_on, Path(self.trainer.args.output_dir))
        if note := texts.note(self.content["overlap"]):
            print(note, flush=True)

    def __call__(self, folder: Path) -> None:
        """Complete the model just saved in `folder` and check it. Raises RunError."""
        fingerprints.write(self.trained_on, folder)
        card.write(folder, self.content)
        if self.guard.trained is None:
            self.guard.after_training()
        self.guard.check_saved(folder)

    def also(self, save: Callable[[Path], Path], model: Path) -> None:
        """Another form of the model (the merged one), which the recipe makes from the saved one: the same treatment."""
        folder = save(model)
        shutil.copyfile(model / card.NAME, folder / card.NAME)
        _or_reject(self, folder, folder)


def _or_reject(finish: Callable[[Path], None], folder: Path, target: Path) -> None:
    try:
        finish(folder)
    except RunError as error:
        rejected = target.with_name(f"{target.name}{REJECTED}")
        shutil.rmtree(rejected, ignore_errors=True)
        folder.rename(rejected)
        text = str(error).replace(folder.name, target.name)
        raise RunError(f"{text} It is kept as {rejected.name} in {target.parent}") from error
