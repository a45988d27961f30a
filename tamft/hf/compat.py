"""What tamft expects of other packages: versions, and the places in transformers where it hooks in."""

import warnings
from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from tamft.errors import InputError

# (oldest that is supported, newest that was tested). The oldest are pyproject.toml's lower bounds.
VERSIONS = {
    "torch": ("2.6", "2.15"),
    # 5.0 to 5.5 do not find an adapter's weights where the model has no head, and not BERT's LayerNorms in a checkpoint
    "transformers": ("5.6", "5.23"),
    "accelerate": ("1.10", "1.15"),
    "sentence-transformers": ("6.0", "6.2"),
    "peft": ("0.19", "0.21"),
    "trl": ("0.29", "1.16"),  # not needed by tamft, but its trainers are hooked as well
}


def check_versions() -> None:
    """InputError for a version that is too old; a warning, and no more, for one that nobody has tried yet."""
    for package, (oldest, newest) in VERSIONS.items():
        try:
            found = Version(version(package))
        except PackageNotFoundError:
            continue
        if found < Version(oldest):
            raise InputError(f"{package} {found} is too old for tamft: pip install '{package}>={oldest}'")
        if found.release[:2] > Version(newest).release[:2]:
            warnings.warn(
                f"tamft was tested with {package} up to {newest}; this is {found}. It will try. If something breaks, "
                f"report it with what `tamft doctor` prints (CONTRIBUTING.md says how), and until it is mended: "
                f"pip install '{package}=={newest}.*'",
                stacklevel=2,
            )


def check_hooks() -> None:
    """InputError that names what is missing if a later transformers moved something that tamft builds on."""
    import transformers
    from transformers import Trainer, TrainingArguments, trainer
    from transformers.training_args import OptimizerNames

    needed = {
        "Trainer": (
            Trainer,
            (
                *("get_optimizer_cls_and_kwargs", "train", "_inner_training_loop", "save_model", "_save_checkpoint"),
                *("_load_optimizer_and_scheduler", "_get_output_dir", "get_batch_samples"),
            ),
        ),
        "TrainingArguments": (TrainingArguments, ("__post_init__", "get_warmup_steps")),
        "transformers.trainer": (trainer, ("DEFAULT_CALLBACKS",)),
        "OptimizerNames": (OptimizerNames, ("_member_names_", "_member_map_", "_value2member_map_")),
    }
    missing = [
        f"{where}.{name}" for where, (owner, names) in needed.items() for name in names if not hasattr(owner, name)
    ]
    if missing:
        raise InputError(
            f"transformers {transformers.__version__} has no {', '.join(missing)}, which tamft needs: "
            f"pip install 'transformers=={VERSIONS['transformers'][1]}.*'"
        )
