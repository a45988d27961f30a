"""LoRA adapters on a tiny model, saved in the ways that exist."""

from pathlib import Path


def save_adapter(
    base: Path, target: Path, *, kind: str = "sentence-transformers", no_op: bool = False, dora: bool = False
) -> Path:
    """A rank-4 adapter with random weights (`no_op`: with peft's initial weights, which change nothing).

    `dora`: with magnitudes as well, which are not those that they begin with.
    """
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from sentence_transformers import SentenceTransformer

    torch.manual_seed(7)
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=4,
        target_modules=["query", "value"],
        init_lora_weights=no_op,
        use_dora=dora,
    )
    model = SentenceTransformer(str(base), device="cpu")
    if kind == "sentence-transformers":
        model.add_adapter(config)
        saved = model
    else:
        saved = get_peft_model(model.transformers_model, config)
    with torch.no_grad():
        for name, parameter in saved.named_parameters():
            if ".lora_magnitude_vector." in name:
                parameter.mul_(torch.rand(parameter.shape) + 0.5)
    saved.save_pretrained(str(target))
    return target
