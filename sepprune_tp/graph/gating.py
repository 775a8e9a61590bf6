"""Run a model with gates: layers and calls see masks for a while, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..layers import LayerRule, rule_of
from ..layers.bare import BareTensor
from ..layers.base import GatedCall
from ..layers.patched import PatchedForward
from .assembly import ChannelSet
from .calls import CallGate, CallPlace, GatedCode, Key

__all__ = [
    "GatedLayer",
    "Places",
    "check_fits",
    "gated_layers",
    "gated_places",
    "patch",
    "patch_code",
    "unpatch",
    "unpatch_code",
]

Places = dict[tuple[nn.Module, Key], CallPlace]
"""Calls that see gates, by the module whose code makes them and the place in it."""


@dataclass
class GatedLayer:
    """A layer that a closed gate changes.

    Attributes:
        module: The layer.
        rule: Its rule.
        index_in: Gate of each input channel, shape (n_in,), N where always open; or None.
        index_out: Gate of each output channel, for layers that read their own output; or None.
    """

    module: nn.Module
    rule: LayerRule
    index_in: Tensor | None
    index_out: Tensor | None


def gated_layers(
    sets: Sequence[ChannelSet], gate_of: Mapping[int, int], graph: Any = None
) -> list[GatedLayer]:
    """Find the layers that must see the gates: readers, poolers and recurrences.

    Args:
        sets: The gated channel sets.
        gate_of: Component to index of its gate.
        graph: The graph; layers that it gates by calls, or knows a rule for, are those.

    Returns:
        One entry a layer.
    """
    always = len(gate_of)
    sites = {id(s): s for channel_set in sets for s in channel_set.sites}.values()
    layers: dict[nn.Module, GatedLayer] = {}
    by_calls = set() if graph is None else graph.by_calls
    for site in sites:
        owner = site.owner
        if not isinstance(owner, nn.Module) or isinstance(owner, BareTensor) or owner in by_calls:
            continue
        rule = site.rule or rule_of(owner)
        assert rule is not None, "a site of the graph has a rule"
        index = torch.tensor([gate_of.get(c, always) for c in site.components.tolist()])
        through = rule.relation == "through"
        if through and not rule.pools_channels(owner):
            continue
        if site.side == "out" and not through and not rule.remembers(owner):
            continue
        layer = layers.setdefault(owner, GatedLayer(owner, rule, None, None))
        if site.side == "in" or through:
            layer.index_in = index
        else:
            layer.index_out = index
    return list(layers.values())


def gated_places(places: Places, roots: Tensor, gate_of: Mapping[int, int]) -> Places:
    """The calls that some gates change, with the gate of each element.

    Args:
        places: All calls that read or pool channels.
        roots: Component of each label.
        gate_of: Component to index of its gate.
    """
    always = len(gate_of)
    found: Places = {}
    for at, place in places.items():
        made = CallPlace({}, place.turns)
        for turn, gates in place.gates.items():
            first = gates[0]  # others are of other runs, or for other arguments: one for all
            every = {n: labels for gate in reversed(gates) for n, labels in gate.labels.items()}
            indices = {}
            for number, labels in every.items():
                components = roots[labels].flatten().tolist()
                index = [gate_of.get(c, always) for c in components]
                indices[number] = torch.tensor(index).view(labels.shape)
            made.gates[turn] = [
                CallGate(first.module, first.key, first.name, first.pools, every, indices)
            ]
        made.unite()
        if any(
            bool((index < always).any()) for gate in made.every() for index in gate.indices.values()
        ):
            found[at] = made
    return found


def check_fits(layer: GatedLayer, name: str) -> None:
    """Refuse a layer that has other channels than when its gates were made.

    Raises:
        InputError: With the name of the layer.
    """
    sides = ((layer.index_in, layer.rule.n_in), (layer.index_out, layer.rule.n_out))
    for index, count in sides:
        if index is not None and index.numel() != count(layer.module):
            raise InputError(
                f"'{name}' has {count(layer.module)} channels, its gates were made for "
                f"{index.numel()}: the model was pruned since. Make a new GateSet of it."
            )


def patch(
    layer: GatedLayer,
    gates: Callable[[], Tensor | None],
    device: torch.device,
    reading: Callable[[GatedLayer, Tensor], Tensor | None],
) -> None:
    """Let a layer run gated until :func:`unpatch`.

    Args:
        layer: The layer.
        gates: Returns the gates (N + 1,), the last 1, or None: all open.
        device: Of the gates.
        reading: From the layer and the gates to a matrix that it reads its input through, or None:
            through its own gates.
    """
    module, rule = layer.module, layer.rule
    layer.index_in, layer.index_out = (
        None if index is None else index.to(device) for index in (layer.index_in, layer.index_out)
    )
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        values = gates()
        if values is None:
            return original(*args, **kwargs)
        mask_in = _mask(values, layer.index_in)
        if mask_in is not None and (mixture := reading(layer, values)) is not None:
            mask_in = mixture
        mask_out = _mask(values, layer.index_out)
        return rule.run_gated(module, GatedCall(original, args, kwargs, mask_in, mask_out))

    module.__dict__["forward"] = PatchedForward(module, forward)


def unpatch(layer: GatedLayer) -> None:
    """Give a layer its own forward back."""
    layer.module.__dict__.pop("forward", None)


def patch_code(places: Places, gates: Callable[[], Tensor | None]) -> list[nn.Module]:
    """Let the calls at some places run gated until :func:`unpatch_code`.

    Args:
        places: What :func:`gated_places` found.
        gates: As for :func:`patch`.

    Returns:
        The modules whose code makes these calls.
    """
    code = GatedCode(places, gates)
    for module in code.modules:
        forward = code.forward(module, module.forward)
        module.__dict__["forward"] = PatchedForward(module, forward)
    return code.modules


def unpatch_code(modules: Sequence[nn.Module]) -> None:
    """Give modules their own forward back."""
    for module in modules:
        module.__dict__.pop("forward", None)


def _mask(values: Tensor, index: Tensor | None) -> Tensor | None:
    """The mask of one side of a layer, or None where every channel is surely open."""
    if index is None:
        return None
    mask = values[index]
    if not values.requires_grad and bool((mask == 1).all()):
        return None
    return mask
