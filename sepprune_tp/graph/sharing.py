"""Weights that several layers share, or that a model also uses directly.

Layers that share a weight lose the same channels of it: those of each axis are united, whatever
side of each layer they are. Each layer's own pruning function then cuts its copy, and
:func:`tie_again` makes them one tensor again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..layers import LayerRule, base_rule_of, rule_of
from .labels import Channels
from .tracing import Sites

__all__ = ["DirectUses", "Holder", "couple", "shared_parameters", "tie_again"]


@dataclass(frozen=True)
class Holder:
    """A layer that holds a parameter under a name."""

    module: nn.Module
    rule: LayerRule
    name: str


def shared_parameters(model: nn.Module) -> dict[nn.Parameter, list[Holder]]:
    """Parameters that several layers with rules hold, with those layers."""
    holders: dict[nn.Parameter, list[Holder]] = {}
    for module in model.modules():
        rule = rule_of(module) or base_rule_of(module)
        if rule is not None:
            for name, parameter in module.named_parameters():
                if parameter is not None:
                    holders.setdefault(parameter, []).append(Holder(module, rule, name))
    return {p: found for p, found in holders.items() if len({h.module for h in found}) > 1}


def couple(
    shared: Mapping[nn.Parameter, list[Holder]],
    sites: Mapping[nn.Module | nn.Parameter, Sites],
    channels: Channels,
    name_of: Callable[[nn.Module], str],
) -> None:
    """Unite the channels along each axis of shared parameters.

    Args:
        shared: What :func:`shared_parameters` found.
        sites: Labels of each layer.
        channels: Where unions are recorded.
        name_of: Names of layers, for reasons.
    """
    for parameter, holders in shared.items():
        for axis in range(parameter.dim()):
            labels = [(_along(holder, axis, sites), holder) for holder in holders]
            known = [found for found, _ in labels if found is not None]
            for other in known[1:]:
                for one, two in zip(known[0].tolist(), other.tolist(), strict=True):
                    channels.unite(one, two)
            fixed = [name_of(holder.module) for found, holder in labels if found is None]
            if known and fixed:
                reason = f"its weight is shared with '{fixed[0]}', which uses all of this axis"
                channels.protect(known[0].tolist(), reason)


def _along(
    holder: Holder, axis: int, sites: Mapping[nn.Module | nn.Parameter, Sites]
) -> Tensor | None:
    """Labels along an axis of a holder's parameter, or None if they may not go."""
    found = sites.get(holder.module)
    if found is None:
        return None
    side = holder.rule.sides(holder.module)[holder.name][axis]
    if side is None:
        return None
    return found.inputs if side == "in" else found.outputs


def tie_again(shared: list[list[Holder]]) -> None:
    """Make parameters that were one before a cut one again."""
    for first, *others in shared:
        parameter = first.module.get_parameter(first.name)
        for holder in others:
            path, _, leaf = holder.name.rpartition(".")
            held = holder.module.get_submodule(path)
            present = held._parameters[leaf]
            assert present is not None and present.shape == parameter.shape, "cut alike"
            held._parameters[leaf] = parameter


class DirectUses:
    """Layers whose weights a model also reads by itself, outside of them.

    Attributes:
        layer_of: For each parameter and buffer of a layer with a rule, that layer.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layer_of: dict[Tensor, nn.Module] = {
            tensor: module
            for module in model.modules()
            if rule_of(module) is not None
            for tensor in (*module.parameters(), *module.buffers())
        }
        self._by_storage = {t.untyped_storage()._cdata: t for t in self.layer_of}
        self._places: dict[nn.Module, str] = {}

    def owner_of(self, tensor: Tensor) -> Tensor | None:
        """The parameter or buffer of such a layer that a tensor is, or is a view of."""
        return self._by_storage.get(tensor.untyped_storage()._cdata)

    def used(self) -> set[nn.Module]:
        """The layers whose weights were read."""
        return set(self._places)

    def note(self, tensor: Tensor, where: str) -> None:
        """A tensor of a layer was read; ``where`` is the place in the code."""
        self._places.setdefault(self.layer_of[tensor], where)

    def protect(
        self,
        sites: Mapping[nn.Module | nn.Parameter, Sites],
        channels: Channels,
        name_of: Callable[[nn.Module], str],
    ) -> None:
        """Protect all channels of these layers, with the reason."""
        for layer, where in self._places.items():
            why = f"the model uses the weights of layer '{name_of(layer)}' outside of it, {where}"
            found = sites.get(layer)
            for labels in () if found is None else (found.inputs, found.outputs):
                if labels is not None:
                    channels.protect(labels.tolist(), why)
