"""Layers whose weight is computed from other parameters before each call.

Weight normalisation (w = g v / |v|) is cut exactly: the weight that it computes is cut, and taken
apart again into ``g`` and ``v``. Spectral normalisation and other parametrisations divide by what
all channels have in common, so their layers cannot be cut.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm
from torch_pruning.pruner.function import BasePruningFunc

from .base import Count, GatedCall, LayerRule, Side, masked
from .unit_weights import LinearView, row_view

__all__ = ["ComputedWeightRule", "weight_source"]


def weight_source(module: nn.Module) -> str | None:
    """What computes the weight of a layer: ``weight_norm``, another word, or None for nothing."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            return "weight_norm"
        if type(hook).__module__ == "torch.nn.utils.spectral_norm":
            return "spectral_norm"
    if not parametrize.is_parametrized(module):
        return None
    held: Any = module.parametrizations
    kinds = [type(p).__name__ for found in held.values() for p in found]
    return "weight_norm" if set(kinds) == {"_WeightNorm"} else ", ".join(kinds)


def _normalised(module: Any) -> list[tuple[str, int]]:
    """Names of the weights that are normalised, each with the axis that keeps its norm."""
    old = [h for h in module._forward_pre_hooks.values() if isinstance(h, WeightNorm)]
    if old:
        return [(hook.name, hook.dim) for hook in old]
    return [(name, found[0].dim) for name, found in module.parametrizations.items()]


class _Pruner(BasePruningFunc):
    """Cuts the weight that is computed, and takes it apart again."""

    def __init__(self, rule: LayerRule) -> None:
        super().__init__()
        self._rule = rule

    def _cut(self, layer: Any, idxs: Sequence[int], side: str) -> Any:
        """Cut a plain layer with the computed weight, and take over what is left of it."""
        plain = _plain(layer)
        getattr(self._rule.pruner(plain), f"prune_{side}_channels")(plain, list(idxs))
        names = [name for name, _ in _normalised(layer)]
        for name, value in plain.__dict__.items():
            if name in layer.__dict__ and not name.startswith("_"):
                layer.__dict__[name] = value
        for name, parameter in plain._parameters.items():
            if name not in names:
                layer._parameters[name] = parameter
        for name, dim in _normalised(layer):
            weight = plain._parameters[name]
            assert weight is not None
            _decompose(layer, name, dim, weight.detach())
        return layer

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove outputs ``idxs``."""
        return self._cut(layer, idxs, "out")

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove inputs ``idxs``."""
        return self._cut(layer, idxs, "in")

    def get_out_channels(self, layer: Any) -> Any:
        """As of the plain layer."""
        return self._rule.pruner(layer).get_out_channels(layer)

    def get_in_channels(self, layer: Any) -> Any:
        """As of the plain layer."""
        return self._rule.pruner(layer).get_in_channels(layer)


def _plain(layer: Any) -> Any:
    """A layer of the class below the parametrisation, with the weight that is computed now."""
    old = not parametrize.is_parametrized(layer)
    cls = type(layer) if old else type(layer).__mro__[1]
    plain: Any = object.__new__(cls)
    plain.__dict__.update(layer.__dict__)
    plain.__dict__["_parameters"] = dict(layer._parameters)
    plain.__dict__["_modules"] = {}
    plain.__dict__["_forward_pre_hooks"] = OrderedDict()
    for name, dim in _normalised(layer):
        gain, direction = _sources(layer, name)
        weight = torch._weight_norm(direction.detach(), gain.detach(), dim)
        plain.__dict__.pop(name, None)
        plain._parameters[name] = nn.Parameter(weight, requires_grad=False)
        for part in (f"{name}_g", f"{name}_v"):
            plain._parameters.pop(part, None)
    return plain


def _sources(layer: Any, name: str) -> tuple[nn.Parameter, nn.Parameter]:
    if not parametrize.is_parametrized(layer):
        return layer._parameters[f"{name}_g"], layer._parameters[f"{name}_v"]
    found = layer.parametrizations[name]
    return found.original0, found.original1


def _decompose(layer: Any, name: str, dim: int, weight: Tensor) -> None:
    """Let a layer compute this weight."""
    gain, direction = _sources(layer, name)
    norm = torch.norm_except_dim(weight, 2, dim)
    made = [
        nn.Parameter(value, requires_grad=old.requires_grad)
        for value, old in ((norm, gain), (weight.clone(), direction))
    ]
    if parametrize.is_parametrized(layer):
        holder = layer.parametrizations[name]
        holder._parameters["original0"], holder._parameters["original1"] = made
    else:
        layer._parameters[f"{name}_g"], layer._parameters[f"{name}_v"] = made
        layer.__dict__[name] = weight


class ComputedWeightRule(LayerRule):
    """A layer of a known kind with a computed weight; its input is gated, not its weight."""

    def __init__(self, rule: LayerRule) -> None:
        self._rule = rule
        self.kind, self.relation = rule.kind, rule.relation  # type: ignore[misc]

    def pruner(self, module: nn.Module) -> BasePruningFunc:
        return _Pruner(self._rule)

    def refuses(self, module: nn.Module) -> str | None:
        source = weight_source(module)
        if source != "weight_norm":
            return f"its weight is computed by {source}, from all of its channels together"
        if self._rule.kind not in ("conv", "linear"):
            return f"the weights of this {type(module).__name__} are normalised"
        return self._rule.refuses(module)

    def n_in(self, module: nn.Module) -> int:
        return self._rule.n_in(module)

    def n_out(self, module: nn.Module) -> int:
        return self._rule.n_out(module)

    def axis(self, module: nn.Module, tensor: Tensor) -> int:
        return self._rule.axis(module, tensor)

    def output_index(self, module: nn.Module) -> list[int]:
        return self._rule.output_index(module)

    def ties(self, module: nn.Module) -> tuple[int, int]:
        return self._rule.ties(module)

    def units(self, module: nn.Module) -> tuple[int, int]:
        return self._rule.units(module)

    def run_gated(self, module: nn.Module, call: GatedCall) -> Any:
        if call.mask_in is None:
            return call.plain()
        x = call.input()
        axis = self._rule.axis(module, x)
        if call.mask_in.dim() == 2:
            x = (x.movedim(axis, -1) @ call.mask_in.to(x).T).movedim(-1, axis)
        else:
            x = masked(x, call.mask_in, axis)
        return call.forward(
            x, *call.args[1:], **{k: v for k, v in call.kwargs.items() if k != "input"}
        )

    def linear_views(self, module: Any, side: Side) -> list[LinearView]:
        transposed = bool(getattr(module, "transposed", False))
        groups = int(getattr(module, "groups", 1))
        axis = int((side == "in") != transposed)
        parts = groups if groups > 1 and axis == 1 else 1
        return [row_view(module.weight, axis, parts)]

    def mixes(self, module: nn.Module) -> bool:
        return False

    def positions(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> int:
        return self._rule.positions(module, inputs, output)

    def macs(self, module: nn.Module, positions: int, n_in: Count, n_out: Count) -> Count:
        return self._rule.macs(module, positions, n_in, n_out)

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        total = self._rule.params(module, n_in, n_out)
        for _, dim in _normalised(module) if weight_source(module) == "weight_norm" else ():
            total = total + self._norms(module, dim, n_in, n_out)
        return total

    def _norms(self, module: Any, dim: int, n_in: Count, n_out: Count) -> Count:
        """Number of norms (entries of ``g``)."""
        weight: Tensor = module.weight
        if dim is None or dim == -1:
            return n_out * 0 + 1
        transposed = bool(getattr(module, "transposed", False))
        if dim == 0:
            return n_in + n_out * 0 if transposed else n_out + n_in * 0
        if dim == 1:
            groups = int(getattr(module, "groups", 1))
            count = n_out if transposed else n_in
            return count // groups if isinstance(count, int) else count / groups
        return n_out * 0 + weight.shape[dim]
