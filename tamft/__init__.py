"""tamft: Torque-Aware Momentum and Momentum-SAM for Hugging Face fine-tuning."""

from typing import TYPE_CHECKING, Any

from tamft.optim import MSAM, TAM, AdamWMSAM, AdaTAM, AdaTAMW, param_groups, transfer_lr

if TYPE_CHECKING:
    from tamft.hf import register
    from tamft.hf.figure import TelemetryFigure

__version__ = "0.1.0"
__all__ = [
    "MSAM",
    "TAM",
    "AdaTAM",
    "AdaTAMW",
    "AdamWMSAM",
    "TelemetryFigure",
    "__version__",
    "param_groups",
    "register",
    "transfer_lr",
]


def __getattr__(name: str) -> Any:
    # These live beside Trainer: importing them here would pull transformers into every `import tamft`.
    if name == "register":
        from tamft.hf import register

        return register
    if name == "TelemetryFigure":
        from tamft.hf.figure import TelemetryFigure

        return TelemetryFigure
    raise AttributeError(f"module 'tamft' has no attribute {name!r}")
