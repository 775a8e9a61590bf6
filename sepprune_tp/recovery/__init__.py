"""Recovery: what makes a pruned model separate again, with training and without."""

from .finetuning import RecoveryResult, finetune, fingerprint
from .recalibration import recalibrate
from .reconstruction import reconstruct, step_and_reconstruct
from .settings import RecoverySettings

__all__ = [
    "RecoveryResult",
    "RecoverySettings",
    "finetune",
    "fingerprint",
    "recalibrate",
    "reconstruct",
    "step_and_reconstruct",
]
