"""The optimizers, in pure torch: importable without transformers."""

from tamft.optim.adatam import AdamWMSAM, AdaTAM, AdaTAMW
from tamft.optim.param_groups import param_groups
from tamft.optim.tam import MSAM, TAM
from tamft.optim.transfer import transfer_lr

__all__ = ["MSAM", "TAM", "AdaTAM", "AdaTAMW", "AdamWMSAM", "param_groups", "transfer_lr"]
