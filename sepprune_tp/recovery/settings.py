"""How to fine-tune: the settings of recovery, and the learning rate that follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sepprune_tp.errors import InputError

__all__ = ["RecoverySettings", "cosine_rate"]

SCHEDULES = ("plateau", "cosine")


@dataclass(frozen=True)
class RecoverySettings:
    """How to fine-tune; validates itself.

    Attributes:
        steps: Optimiser steps in all.
        lr: Adam's learning rate at the start.
        clip: Largest gradient norm; 0 does not clip.
        schedule: ``"plateau"`` multiplies the rate by ``factor`` after ``patience`` validations
            without improvement; ``"cosine"`` lowers it to 1 % over the steps, or over the minutes
            if those run out first (then a run is not reproducible to the bit).
        patience: In validations.
        factor: Between 0 and 1.
        early_stop: Validations without improvement that end the run; 0 never does.
        val_every: Steps between validations, which are also the points to resume from.
        seed: Of the order of the batches and of dropout.
        precision: Lightning's name: ``"32"``, ``"bf16-mixed"``, ``"16-mixed"``, ``"64"``.
        compile: Train through ``torch.compile`` with static shapes.
        max_minutes: Time for the run and those that it resumes; None has no limit.
    """

    steps: int = 1000
    lr: float = 1e-3
    clip: float = 5.0
    schedule: str = "plateau"
    patience: int = 15
    factor: float = 0.5
    early_stop: int = 30
    val_every: int = 100
    seed: int = 0
    precision: str = "32"
    compile: bool = False
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each by name."""
        at_least = {"steps": 1, "val_every": 1, "clip": 0, "patience": 0, "early_stop": 0}
        for name, lowest in (*at_least.items(), ("seed", 0)):
            if getattr(self, name) < lowest:
                raise InputError(f"{name} must be at least {lowest}, got {getattr(self, name)}.")
        if self.schedule not in SCHEDULES:
            raise InputError(f"Unknown schedule {self.schedule!r}; use one of {SCHEDULES}.")
        if not (0 < self.factor < 1 and self.lr > 0):
            raise InputError(
                f"factor must lie between 0 and 1 and lr above 0, got {self.factor} and {self.lr}."
            )
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise InputError(f"max_minutes must be above 0 or None, got {self.max_minutes}.")


def cosine_rate(lr: float, progress: float) -> float:
    """Learning rate after a share of the run: from ``lr`` to 1 % of it, along half a cosine."""
    return lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))))
