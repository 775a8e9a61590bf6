"""Does the model still run once its groups are cut? Tried on a copy before anyone relies on it.

The trace sees what a model does with its tensors, not the numbers in its code:
``x.view(b, 64, -1)`` runs while there are 64 channels and fails with 63. So a copy is cut, a few
channels of every group at once and of different groups different numbers, and run. The copy of a
large model holds no data (its tensors are on the ``meta`` device, where a recurrent layer is slow)
unless the model reads values, e.g. with ``.item()``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..architectures import sync_attributes
from ..layers.composite import named_layers
from ..layers.held import HeldBuffer
from .assembly import ChannelSet, Owner, Site
from .tracer import shapes_of

__all__ = ["Trial", "try_sets"]

_LARGE = 1 << 28
"""Bytes of parameters from which a copy holds no data."""

Cut = Callable[[Site, Owner, list[int]], Any]
"""(site, the copy of its owner, channels) -> what the pruning function returns."""


@dataclass(frozen=True)
class Trial:
    """What a trial found.

    Attributes:
        refused: For each set that the model does not run without, by position: the reason.
        skipped: Why there was no trial, or None.
    """

    refused: dict[int, str] = field(default_factory=dict)
    skipped: str | None = None


class _Bench:
    """Copies of one model, cut and run."""

    def __init__(
        self,
        model: nn.Module,
        call: Callable[[nn.Module, Any], Any],
        inputs: Any,
        expected: Any,
        cut: Cut,
    ) -> None:
        self.model, self.call, self.cut = model, call, cut
        self.inputs, self.expected = inputs, expected
        self.names = {layer: name for name, layer in named_layers(model)}
        self.empty = sum(p.nbytes for p in model.parameters()) > _LARGE

    def shapes(self, sets: Sequence[tuple[int, ChannelSet]]) -> Any:
        """Shapes of the outputs of a copy without some channels of each set."""
        copied = _empty if self.empty else _clone
        memo: dict[int, Any] = {
            id(t): copied(t) for t in [*self.model.parameters(), *self.model.buffers()]
        }
        inputs = tree_map(lambda v: copied(v) if isinstance(v, Tensor) else v, self.inputs)
        model = copy.deepcopy(self.model, memo).eval()
        for module in model.modules():  # torch copies what a compiled RNN calls: the original
            module.__dict__.pop("_compiled_call_impl", None)
        layers = dict(named_layers(model))
        for site, indices in _indices(sets):
            owner = site.owner
            if isinstance(owner, nn.Parameter):
                found: Owner = memo[id(owner)]
            elif isinstance(owner, HeldBuffer):
                found = owner.of(layers[self.names[owner.host]])
            else:
                found = layers[self.names[owner]]
            self._cut(model, site, found, sorted(indices))
        sync_attributes(model)
        return shapes_of(self.call(model, inputs))

    def _cut(self, model: nn.Module, site: Site, owner: Owner, indices: list[int]) -> None:
        made = self.cut(site, owner, indices)
        if isinstance(owner, nn.Parameter):
            for module in model.modules():
                for name, parameter in module._parameters.items():
                    if parameter is owner:
                        module._parameters[name] = made

    def fails(self, sets: Sequence[tuple[int, ChannelSet]]) -> str | None:
        """Why a copy without some channels of each set does not do, or None."""
        try:
            found = self.shapes(sets)
        except Exception as error:  # a model may raise anything
            return _first_line(error)
        return None if found == self.expected else "its outputs have other shapes"


def try_sets(
    model: nn.Module,
    call: Callable[[nn.Module, Any], Any],
    inputs: Any,
    expected: Any,
    sets: Sequence[tuple[int, ChannelSet]],
    cut: Cut,
) -> Trial:
    """Find the sets that a model does not run without.

    Args:
        model: The model; it is copied and left as it is.
        call: Runs a model on inputs.
        inputs: The example.
        expected: Shapes of the model's outputs on it.
        sets: Sets that are to be prunable, with their positions.
        cut: Cuts one side of one layer.

    Returns:
        What was found.
    """
    if not sets:
        return Trial()
    bench = _Bench(model, call, inputs, expected, cut)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
        warnings.simplefilter("ignore")
        if bench.fails(sets) is None:
            return Trial()
        for empty in dict.fromkeys((bench.empty, False)):
            bench.empty = empty
            why = bench.fails([])
            if why is None:
                refused: dict[int, str] = {}
                _search(bench, list(sets), [], refused)
                return Trial(refused)
        return Trial(skipped=f"a copy of the model does not run: {why}")


def _search(
    bench: _Bench,
    sets: list[tuple[int, ChannelSet]],
    good: list[tuple[int, ChannelSet]],
    refused: dict[int, str],
) -> None:
    """Add to ``good`` what can go together with it, by halves; the rest to ``refused``."""
    why = bench.fails([*good, *sets])
    if why is None:
        good.extend(sets)
    elif len(sets) == 1:
        refused[sets[0][0]] = (
            f"the model does not run without it ({why}): is a size written as a number in its code?"
        )
    else:
        half = len(sets) // 2
        _search(bench, sets[:half], good, refused)
        _search(bench, sets[half:], good, refused)


def _indices(sets: Sequence[tuple[int, ChannelSet]]) -> list[tuple[Site, set[int]]]:
    """For each side of each layer, the channels of 1 to 3 components of each set."""
    found: dict[tuple[int, str], tuple[Site, set[int]]] = {}
    for number, channel_set in sets:
        chosen = channel_set.components[: min(1 + number % 3, channel_set.size - 1)]
        for site in channel_set.sites:
            indices = site.where(chosen).tolist()
            if indices:
                key = (id(site.owner), site.side)
                found.setdefault(key, (site, set()))[1].update(indices)
    return list(found.values())


def _clone(tensor: Tensor) -> Tensor:
    return _like(tensor, tensor.detach().clone())


def _empty(tensor: Tensor) -> Tensor:
    return _like(tensor, torch.empty_like(tensor, device="meta", requires_grad=False))


def _like(tensor: Tensor, made: Tensor) -> Tensor:
    return nn.Parameter(made, requires_grad=False) if isinstance(tensor, nn.Parameter) else made


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
