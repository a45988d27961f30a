"""LoRA adapters on a SentenceTransformer: added, given their learning rates, merged into the base."""

import importlib.util
import math
import shutil
from pathlib import Path
from typing import Any

from tamft.atomic import recover_folder, replace_folder
from tamft.errors import InputError
from tamft.registry import nearest

ALL_LINEAR = "all-linear"
WEIGHTS = "adapter_model.safetensors"
ADAPTER = "default"  # the name that transformers gives the one adapter there is
# What LoRA+ gives a rate of its own; sentence-transformers looks these up in the parameters' names.
B_MATRICES = r"\.lora_(embedding_)?B\."


def check(args: Any) -> None:
    """Refuse LoRA options that are out of range or do not go together, before anything is loaded.

    Args:
        args: the recipe's options: lora_*, use_rslora, use_dora, loraplus_lr_ratio, load_in_4bit, save_merged.

    Raises InputError.
    """
    if args.lora_r < 0:
        raise InputError(f"--lora_r {args.lora_r}: has to be 1 or more, or 0 to train all weights")
    if args.lora_alpha < 1:
        raise InputError(f"--lora_alpha {args.lora_alpha}: has to be 1 or more")
    if not 0 <= args.lora_dropout < 1:
        raise InputError(f"--lora_dropout {args.lora_dropout}: has to be 0 or more and below 1")
    ratio = args.loraplus_lr_ratio
    if ratio is not None and not 0 < ratio < math.inf:
        raise InputError(f"--loraplus_lr_ratio {ratio}: has to be a number above 0")
    if not args.lora_r:
        for flag in ("use_rslora", "use_dora", "loraplus_lr_ratio", "load_in_4bit", "save_merged"):
            if getattr(args, flag):
                raise InputError(f"--{flag}: needs adapters, and --lora_r 0 trains all weights; leave it away")
    if args.load_in_4bit:
        quantization()


def quantization() -> dict[str, Any]:
    """`from_pretrained` options for 4-bit NormalFloat base weights (QLoRA). InputError without bitsandbytes or GPU."""
    import torch

    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("--load_in_4bit: needs bitsandbytes; install it: pip install bitsandbytes")
    if not torch.cuda.is_available():
        raise InputError("--load_in_4bit: needs a GPU, and there is none here; leave it away")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}


def add_adapters(model: Any, args: Any, training_args: Any) -> None:
    """Freeze the model's transformer and put LoRA adapters into it; --lora_r 0 leaves all weights trainable.

    The adapters' weights are float32 whatever the base's dtype is. LoRA+ becomes a learning rate of its own for the B
    matrices in `training_args.learning_rate_mapping`.

    Raises InputError for a target that the model has not, and for a model without a transformer.
    """
    if not args.lora_r:
        return
    from peft import LoraConfig, TaskType, prepare_model_for_kbit_training
    from peft.tuners.tuners_utils import cast_adapter_dtype

    inner = model.transformers_model
    if inner is None:
        raise InputError(f"model {args.model}: has no transformer that adapters could go into; give --lora_r 0")
    if args.load_in_4bit:
        prepare_model_for_kbit_training(inner, use_gradient_checkpointing=False)
    _keep_base_path(inner)
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=_targets(inner, args.lora_target_modules),
        use_rslora=args.use_rslora,
        use_dora=args.use_dora,
    )
    model.requires_grad_(False)
    model.add_adapter(config)
    cast_adapter_dtype(inner, ADAPTER)  # float32 over a 16-bit base, which transformers' add_adapter leaves out
    _save_magnitudes_findably(inner)
    if args.loraplus_lr_ratio is not None:
        rate = training_args.learning_rate * args.loraplus_lr_ratio
        training_args.learning_rate_mapping = {**training_args.learning_rate_mapping, B_MATRICES: rate}


def _targets(inner: Any, wanted: list[str]) -> list[str]:
    """Full names of the linear layers to adapt."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

    linear = [name for name, module in inner.named_modules() if isinstance(module, Linear | Conv1D)]
    # BERT's pooler makes an output that no embedding reads: adapters there would never get a gradient.
    linear = [name for name in linear if not name.startswith("pooler.")]
    if wanted == [ALL_LINEAR]:
        return linear
    kinds = sorted({name.rpartition(".")[2] for name in linear} | set(linear))
    for name in wanted:
        if not any(layer == name or layer.endswith(f".{name}") for layer in linear):
            short = sorted({layer.rpartition(".")[2] for layer in linear})
            raise InputError(
                f"--lora_target_modules {name}: the model has no such linear layer{nearest(name, kinds)} "
                f"It has: {', '.join(short)}; or {ALL_LINEAR}"
            )
    return [layer for layer in linear if any(layer == name or layer.endswith(f".{name}") for name in wanted)]


def _keep_base_path(inner: Any) -> None:
    """The adapter names its base by this: a folder's full path, so that the adapter works from any folder."""
    path = Path(inner.name_or_path)
    if path.is_dir():
        inner.name_or_path = str(path.resolve())


def _save_magnitudes_findably(inner: Any) -> None:
    """DoRA: peft saves its magnitudes as `…lora_magnitude_vector`, which transformers (up to 5.23) does not find again.

    It only warns, and the adapter goes on with other magnitudes, in a resumed training as well. Under the name
    `….weight` transformers and peft both find them.
    """
    original = inner.get_adapter_state_dict

    def get_adapter_state_dict(*args: Any, **kwargs: Any) -> dict[str, Any]:
        saved = original(*args, **kwargs)
        return {f"{key}.weight" if key.endswith(".lora_magnitude_vector") else key: saved[key] for key in saved}

    inner.get_adapter_state_dict = get_adapter_state_dict


def has_adapter(model: Any) -> bool:
    """Whether a SentenceTransformer's transformer carries an adapter."""
    return bool(getattr(model.transformers_model, "_hf_peft_config_loaded", False))


def load_weights(model: Any, folder: Path) -> None:
    """Put the adapter weights saved in `folder` into the model's adapters, each number as it was saved.

    (Loading the whole checkpoint, as sentence-transformers resumes, reads the base a second time and rounds the adapter
    to the base's dtype.) Raises InputError where they are not the weights of these adapters.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    inner = model.transformers_model
    saved = {key.removeprefix("base_model.model."): value for key, value in load_file(folder / WEIGHTS).items()}
    trained = sum(parameter.requires_grad for parameter in inner.parameters())
    problem = f"{len(saved)} weights, {trained} are trained" if len(saved) != trained else ""
    try:
        found = set_peft_model_state_dict(inner, saved, ADAPTER)
        problem = problem or ", ".join(found.unexpected_keys)
    except RuntimeError as error:  # another rank
        problem = " ".join(str(error).split())
    if problem:
        raise InputError(f"{folder / WEIGHTS}: belongs to other --lora_* options than these: {problem}; start anew")


def describe(model: Any) -> str:
    """One line for people: how many weights are trained."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    return f"{trained:,} of {everything:,} weights are trained ({100 * trained / everything:.2f} %)"


def save_merged(adapter: Path, dtype: str = "float32") -> Path:
    """Write `merged` beside the folder `adapter`: its base model with the adapter merged in, without peft.

    The base is read again, so that the merged model is made of what was saved, and of whole weights after QLoRA.

    Args:
        adapter: sentence-transformers folder with an adapter.
        dtype: of the weights, as in training; one of models.DTYPES.
    """
    import torch
    from peft import PeftModel
    from sentence_transformers import SentenceTransformer

    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    options = {"dtype": kind, "trust_remote_code": False}
    model = SentenceTransformer(str(adapter), device="cpu", model_kwargs=options)
    # Through PeftModel, because a transformers model that has loaded an adapter itself saves under peft's names.
    inner = model[0].model
    base = inner.peft_config[ADAPTER].base_model_name_or_path
    model[0].model = None  # not twice in memory
    whole = type(inner).from_pretrained(base, config=inner.config, **options)
    model[0].model = PeftModel.from_pretrained(whole, str(adapter)).merge_and_unload(safe_merge=True)
    target, fresh = adapter.parent / "merged", adapter.parent / ".merged.new"
    recover_folder(target)
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(str(fresh))
    replace_folder(target, fresh)
    return target
