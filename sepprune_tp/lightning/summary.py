"""What a pruning in a training did, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Pruned"]


@dataclass(frozen=True)
class Pruned:
    """What a callback did to a model.

    Attributes:
        epoch: At the start of which epoch.
        params: Parameters that are left.
        macs: MACs that are left, on one training mixture.
        dense_params: Parameters before.
        dense_macs: MACs before.
        kept: For each group of coupled channels: channels kept, and before.
    """

    epoch: int
    params: int
    macs: int
    dense_params: int
    dense_macs: int
    kept: dict[str, list[int]] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """What a logger gets."""
        names = ("params", "macs", "dense_params", "dense_macs")
        return {f"prune/{name}": float(getattr(self, name)) for name in names}

    def __str__(self) -> str:
        return (
            f"Pruned at epoch {self.epoch}: {self.params:,} of {self.dense_params:,} parameters, "
            f"{self.macs / 1e6:.4g} M of {self.dense_macs / 1e6:.4g} M MACs."
        )
