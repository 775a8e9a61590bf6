"""Rules: what each kind of layer is to the graph, the gates and the profile.

``rule_of(module)`` finds the rule of a layer; ``register_rule`` adds one. Rules of layers that come
from other packages (Asteroid's norms and filterbanks) live in ``sepprune_tp.architectures`` and are
loaded the first time that a module of such a package is met.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from ..errors import InputError
from .attention import PrunedAttention
from .attention_parts import (
    AttentionParts,
    OpaqueAttentionRule,
    Product,
    ProductRule,
    Projection,
    ProjectionRule,
)
from .bare import BareAxis, BareAxisRule, BareWeight, BareWeightRule
from .base import LayerRule
from .composite import parts_of, register_composite
from .computed_weight import ComputedWeightRule, weight_source
from .conv import ConvRule, DepthwiseConvRule, GroupUnitConvRule
from .embedding import EmbeddingRule
from .linear import LinearRule
from .norm import (
    BatchNormRule,
    GroupNormRule,
    InstanceNormRule,
    LayerNormRule,
    PReLURule,
    RMSNormRule,
)
from .recognised import recognise
from .recurrent import RecurrentRule

__all__ = ["LayerRule", "base_rule_of", "list_rules", "register_rule", "rule_of"]

_RULES: dict[type[nn.Module], LayerRule] = {}
_DEPTHWISE = DepthwiseConvRule()
_GROUP_UNITS = GroupUnitConvRule()
_PLUGINS = {
    "asteroid": "sepprune_tp.architectures.asteroid_layers",
    "asteroid_filterbanks": "sepprune_tp.architectures.asteroid_layers",
    "torchvision": "sepprune_tp.architectures.torchvision",
}


def register_rule(rule: LayerRule, *types: type[nn.Module]) -> None:
    """Say which rule holds for modules of ``types`` and subclasses that keep their ``forward``.

    Args:
        rule: The rule.
        *types: Module classes.

    Raises:
        InputError: If a class already has a rule.
    """
    for cls in types:
        if cls in _RULES:
            raise InputError(f"{cls.__qualname__} already has a rule: {_RULES[cls]}")
        _RULES[cls] = rule


def list_rules() -> dict[str, str]:
    """Qualified class names that have a rule, each with the rule's class name."""
    return {f"{c.__module__}.{c.__qualname__}": type(r).__name__ for c, r in _RULES.items()}


def rule_of(module: nn.Module) -> LayerRule | None:
    """Find the rule of a layer.

    Args:
        module: Any module.

    Returns:
        The rule; None if no rule is known for its class, or a subclass changed ``forward``, and it
        is no norm that can be recognised by what it computes.
    """
    cls = type(module)
    plugin = _PLUGINS.get(cls.__module__.partition(".")[0])
    if plugin is not None:
        importlib.import_module(plugin)
    for base in cls.__mro__:
        if base in _RULES:
            if getattr(cls, "forward", None) is not getattr(base, "forward", None):
                return recognise(module)
            return _refine(_RULES[base], module)
    return recognise(module)


def base_rule_of(module: nn.Module) -> LayerRule | None:
    """The rule of the layer class that a module derives from, whatever its own ``forward`` is.

    Its operations tell what it computes; the rule then says how its weights are cut and counted.
    """
    for base in type(module).__mro__:
        if base in _RULES:
            return _refine(_RULES[base], module)
    return None


def _refine(rule: LayerRule, module: Any) -> LayerRule | None:
    """Choose by configuration where one class has several behaviours."""
    chosen = _configured(rule, module)
    if chosen is not None and weight_source(module) is not None:
        return ComputedWeightRule(chosen)
    return chosen


def _configured(rule: LayerRule, module: Any) -> LayerRule | None:
    if isinstance(rule, ConvRule) and module.groups > 1:
        one_in, one_out = (n == module.groups for n in (module.in_channels, module.out_channels))
        if one_in or one_out:
            return _DEPTHWISE if one_in and one_out else _GROUP_UNITS
        if module.groups > max(module.in_channels, module.out_channels) // module.groups:
            return _GROUP_UNITS  # whole groups are the finer cut
    if isinstance(rule, LayerNormRule) and len(module.normalized_shape) > 1:
        return None  # which of its axes holds channels, only a run can tell
    if isinstance(rule, OpaqueAttentionRule) and parts_of(module):
        return None  # its parts have rules
    if isinstance(rule, PReLURule) and module.num_parameters == 1:
        return None  # one slope for all: no channels to keep track of
    return rule


register_rule(
    ConvRule(),
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
register_rule(LinearRule(), nn.Linear)
register_rule(EmbeddingRule(), nn.Embedding)
register_rule(RecurrentRule(), nn.LSTM, nn.GRU, nn.RNN)
register_rule(BatchNormRule(), nn.modules.batchnorm._BatchNorm)
register_rule(InstanceNormRule(), nn.modules.instancenorm._InstanceNorm)
register_rule(GroupNormRule(), nn.GroupNorm)
register_rule(LayerNormRule(), nn.LayerNorm)
register_rule(PReLURule(), nn.PReLU)
register_rule(BareAxisRule(), BareAxis)
register_rule(BareWeightRule(), BareWeight)
register_rule(RMSNormRule(), nn.RMSNorm)
register_rule(OpaqueAttentionRule(), nn.MultiheadAttention)
register_rule(ProjectionRule(), Projection)
register_rule(ProductRule(), Product)
register_composite(AttentionParts(), nn.MultiheadAttention, PrunedAttention)
