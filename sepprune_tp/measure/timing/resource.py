"""Latency of the pruned model, predicted from tables of its layers and confirmed by measuring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..._modes import device_of
from ..._unwrap import eagerly
from ...gates import GateGroup, GateSet, Resource
from ...profile import call_arguments
from ...pruner import pruned_copy
from ..latency import Turns, compare_runs
from .cache import TimeCache, cache_folder, machine_key
from .layers import TimedLayer, Timer, time_call, timed_layers
from .table import TimeTable

__all__ = ["LatencyResource"]

_SHARES = (0.75, 0.5, 0.35, 0.6)  # of the channels of the models that the rest is fitted to
_STEPS = (1, 2, 4, 8)
_BEST_STEP = 16
_EXCESS = 0.03  # of a layer's time: what a step may cost above the best one

_DOUBT = 0.15  # by how much the share of the layers may differ from what was measured

Compare = Callable[[nn.Module, nn.Module, Any], Turns]
"""Times two models in turns on the example input."""


class LatencyResource(Resource):
    """Time of one forward pass on the example input, in ms, on this machine.

    The layers are measured one by one at a few widths (kept on disk for the next time); they make
    up a share of the dense model's time. The rest grows with the activations, or is constant: in
    which proportion follows from a few pruned models, measured in turns with the dense one.

    Attributes:
        dense: Time of the dense model when the resource was made.
        error: Largest relative error on the models that it was fitted to.
    """

    name, unit = "latency", "ms"
    tolerance: ClassVar[float] = 0.05
    predicted: ClassVar[bool] = True

    def __init__(
        self,
        gates: GateSet,
        *,
        threads: int = 1,
        timer: Timer = time_call,
        compare: Compare | None = None,
        folder: Path | None = None,
        cache: bool = True,
    ) -> None:
        """Measure the layers and a few pruned models.

        Args:
            gates: Gates of the dense model.
            threads: CPU threads.
            timer: Measures a layer.
            compare: Measures two models in turns.
            folder: Where times are kept; default: the user's cache.
            cache: Whether they are kept.
        """
        self._gates, self.threads = gates, threads
        self._compare = compare or (lambda a, b, x: compare_runs(a, b, x, threads=threads))
        sides = gates.cost_model.sides
        rows = {key: index for index, key in enumerate(sides)}
        args, kwargs = call_arguments(gates.example_inputs)
        model = gates.model
        wanted = {module for module, _ in sides}
        before, modes = torch.get_num_threads(), [(m, m.training) for m in model.modules()]
        machine = machine_key(threads, device_of(model))
        self._cache = TimeCache(machine, (folder or cache_folder()) if cache else None)
        self._timer = timer
        try:
            torch.set_num_threads(threads)
            model.eval()
            with eagerly():
                found = timed_layers(model, lambda: model(*args, **kwargs), wanted)
            self.layers = [layer for layer in found if _works(layer, timer, self._cache)]
            self._table = self._measure_layers()
        finally:
            torch.set_num_threads(before)
            for module, training in modes:
                module.training = training
            self._cache.write()
        self._rows = torch.tensor([_rows_of(layer, rows) for layer in self.layers]).long()
        self._volumes = self._activations(rows)
        self._fit()

    def _measure_layers(self) -> TimeTable:
        layers = self.layers
        return TimeTable(
            [(e.rule.n_in(e.module), e.rule.n_out(e.module)) for e in layers],
            [e.rule.ties(e.module) for e in layers],
            [e.through for e in layers],
            lambda index, i, o: (
                layers[index].calls * layers[index].seconds(i, o, self._timer, self._cache)
            ),
            [e.rule.kind == "rnn" for e in layers],
        )

    def _activations(self, rows: dict[tuple[nn.Module, str], int]) -> Tensor:
        """Share of all activations that each side's channels are, shape (R,)."""
        volumes = torch.zeros(len(rows), dtype=torch.float64)
        for layer in self.layers:
            index = rows.get((layer.module, "in"), rows.get((layer.module, "out")))
            if index is not None:
                volumes[index] += layer.example.numel() * layer.calls
        return volumes / volumes.sum().clamp(min=1)

    # -- prediction -------------------------------------------------------------------------------

    def exact_many(self, keeps: Tensor) -> Tensor:
        """Predicted times in ms of several hard masks, (K, N) to (K,)."""
        features = self._features(keeps.double().cpu(), self._table.exact)
        return features @ self._weights

    def exact(self, keep: Tensor) -> float:
        """Predicted time in ms with hard masks."""
        return float(self.exact_many(keep[None])[0])

    def expected(self, probability: Tensor) -> Tensor:
        """Predicted time in ms when gates are open with some probabilities; differentiable."""
        features = self._features(probability.double()[None], self._table.expected)
        total: Tensor = (features @ self._weights.to(features.device))[0]
        return total

    def measure(self, keep: Tensor) -> float:
        """Time in ms of the pruned model: that of the dense one by their ratio, in turns."""
        model = pruned_copy(self._gates, keep)
        turns = self._compare(self._gates.model, model, self._gates.example_inputs)
        return self.dense * turns.ratio

    def steps(self, groups: Sequence[GateGroup]) -> dict[str, int]:
        """Steps of widths that this machine likes, by group name.

        For each group the smallest step whose multiples cost its layers no more than a line between
        multiples of 16 (to 3 %); 16 if there is none, and at most a quarter of the group.
        """
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(self.threads)
            found = {group.name: self._step_of(group) for group in groups}
        finally:
            torch.set_num_threads(before)
        self._cache.write()
        return found

    def _step_of(self, group: GateGroup) -> int:
        """The step of one group, from its layers with all other widths as they are."""
        most = max(1, group.size // 4)
        middle = group.size // 2 // _BEST_STEP * _BEST_STEP
        if middle < _BEST_STEP:
            return 1
        closed = torch.ones(1, len(self._gates), dtype=torch.float64)
        closed[0, group.gates] = 0
        shares = self._gates.cost_model.open_shares(closed)[0]
        touched = [i for i, side in enumerate(self._gates.cost_model.sides) if shares[i] == 0]
        times = {
            width: self._time_at(set(touched), width / group.size)
            for width in (middle, *(middle + s for s in _STEPS), middle + _BEST_STEP)
            if width <= group.size
        }
        if middle + _BEST_STEP not in times or not times[middle]:
            return 1
        rise = (times[middle + _BEST_STEP] - times[middle]) / _BEST_STEP
        for step in _STEPS:
            later = [s for s in _STEPS if s >= step]
            if all(times[middle + s] <= (1 + _EXCESS) * (times[middle] + rise * s) for s in later):
                return min(step, most)
        return min(_BEST_STEP, most)

    def _time_at(self, touched: set[int], share: float) -> float:
        """Seconds of the layers that some sides belong to, with this share of those channels."""
        total = 0.0
        for layer, (into, out) in zip(self.layers, self._rows.tolist(), strict=True):
            if not {into, out} & touched:
                continue
            n_in, n_out = layer.rule.n_in(layer.module), layer.rule.n_out(layer.module)
            n_in = round(n_in * share) if into in touched else n_in
            n_out = round(n_out * share) if out in touched else n_out
            total += layer.calls * layer.seconds(n_in, n_out, self._timer, self._cache)
        return total

    def _features(self, gates: Tensor, look_up: Callable[[Tensor], Tensor]) -> Tensor:
        """Layers in ms, share of activations, and 1, shape (K, 3)."""
        shares = self._gates.cost_model.open_shares(gates)
        padded = torch.cat([shares, shares.new_ones(len(shares), 1)], 1)
        widths = [(e.rule.n_in(e.module), e.rule.n_out(e.module)) for e in self.layers]
        dense = torch.tensor(widths, dtype=torch.float64, device=shares.device)
        counts = padded[:, self._rows.to(shares.device)] * dense
        if look_up == self._table.exact:
            counts = counts.round()
        layers = 1e3 * look_up(counts).sum(1)
        volume = shares @ self._volumes.to(shares.device)
        return torch.stack([layers, volume, torch.ones_like(volume)], 1)

    def _fit(self) -> None:
        """Weights of the features, from the dense and a few pruned models."""
        generator = torch.Generator().manual_seed(0)
        keeps = [torch.ones(len(self._gates), dtype=torch.bool)]
        keeps += [_random_widths(self._gates.groups, s, generator) for s in _SHARES]
        turns = []
        for keep in keeps[1:]:
            model = pruned_copy(self._gates, keep)
            turns.append(self._compare(self._gates.model, model, self._gates.example_inputs))
        self.dense = 1e3 * sorted(t.median for t in turns)[len(turns) // 2]
        features = self._features(torch.stack(keeps).double(), self._table.exact)
        scale = features[0].clamp(min=1e-12)  # every feature is 1 for the dense model
        ratios = torch.tensor([1.0, *(t.ratio for t in turns)], dtype=torch.float64)
        layers = float(features[0, 0]) / (1e3 * min(t.best for t in turns))
        weights = _proportions(features / scale, ratios, layers)
        self._weights = self.dense * weights / scale
        self.error = float((features @ self._weights / (ratios * self.dense) - 1).abs().max())


def _works(layer: TimedLayer, timer: Timer, cache: TimeCache) -> bool:
    """Whether a layer can be cut and run on its own."""
    n_in, n_out = layer.rule.n_in(layer.module), layer.rule.n_out(layer.module)
    t_in, t_out = layer.rule.ties(layer.module)
    try:
        layer.seconds(
            t_in * max(1, n_in // t_in // 2), t_out * max(1, n_out // t_out // 2), timer, cache
        )
    except Exception:  # what a layer needs beside its input; its time is left to the fit
        return False
    return True


def _rows_of(layer: TimedLayer, rows: dict[tuple[nn.Module, str], int]) -> tuple[int, int]:
    """Rows of its inputs and outputs; the last row for what is never cut."""
    out = rows.get((layer.module, "out"), -1)
    into = out if layer.through else rows.get((layer.module, "in"), -1)
    return (into, out)


def _random_widths(groups: list[GateGroup], share: float, generator: torch.Generator) -> Tensor:
    """Masks that keep about a share of each group's channels, more of some than of others."""
    keep = torch.zeros(sum(g.size for g in groups), dtype=torch.bool)
    for group in groups:
        own = share * (0.7 + 0.6 * float(torch.rand(1, generator=generator)))
        size = min(group.size, max(1, round(own * group.size)))
        keep[group.start : group.start + size] = True
    return keep


def _proportions(features: Tensor, ratios: Tensor, layers: float) -> Tensor:
    """Shares of the three features, adding up to 1, that come closest to measured ratios.

    Args:
        features: (K, 3), each 1 for the dense model.
        ratios: Time of each model by that of the dense one, (K,).
        layers: Share of the layers, as far as it is known.
    """
    low, high = (min(1.0, max(0.0, layers + d)) for d in (-_DOUBT, _DOUBT))
    own = torch.linspace(low, high, 31, dtype=torch.float64)[:, None]
    volume = (1 - own) * torch.linspace(0, 1, 41, dtype=torch.float64)
    weights = torch.stack([own.expand_as(volume), volume, 1 - own - volume], -1).flatten(0, 1)
    errors = ((weights @ features.T) / ratios - 1).square().sum(1)
    return weights[int(errors.argmin())]
