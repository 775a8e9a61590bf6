"""What the models of a report are measured on, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sepprune_tp.evaluate import evaluate
from sepprune_tp.measure.latency import compare_latency
from sepprune_tp.profile import profile

from .audio import MOST_CLIPS, Clip, listen
from .summary import stage_figures

__all__ = ["Measuring"]


@dataclass(frozen=True)
class Measuring:
    """An example input to count on, and mixtures to separate if there are any.

    Attributes:
        example: A mixture (1, T) on the models' device.
        rate: Of all audio, in Hz.
        mixtures: Sized map from index to a mixture (T,) and its sources (S, T); None: costs alone.
        names: Of the first mixtures, where they are known otherwise than by the data set's files.
    """

    example: Tensor
    rate: int
    mixtures: Any = None
    names: tuple[str, ...] = ()

    def figures(self, models: Mapping[str, nn.Module]) -> dict[str, dict[str, Any]]:
        """The figures of each model, as they stand in a report; times are taken in turns."""
        times = compare_latency(models, 1.0, self.rate).latencies
        return {
            name: stage_figures(
                profile(model, self.example),
                times[name],
                None
                if self.mixtures is None
                else evaluate(model, self.mixtures, sample_rate=self.rate),
            )
            for name, model in models.items()
        }

    def clips(self, models: Mapping[str, nn.Module]) -> list[Clip]:
        """A few of the mixtures, and what models make of them."""
        if self.mixtures is None:
            return []
        count = min(MOST_CLIPS, len(self.mixtures))
        chosen = [(self._name(index), *self.mixtures[index]) for index in range(count)]
        return listen(models, chosen, self.rate)

    def _name(self, index: int) -> str:
        if index < len(self.names):
            return self.names[index]
        files = getattr(self.mixtures, "files", None)  # of stored mixtures
        return files[index].mixture.name if files else f"mixture {index + 1}"
