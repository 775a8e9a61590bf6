"""torch's own modules with attributes that hold channel counts."""

from __future__ import annotations

from typing import Any

from torch import nn

from . import Adapter, Tie, register_adapter

__all__: list[str] = []


def _ends(net: Any) -> list[nn.Linear]:
    """The last layers of encoder and decoder, unless the user brought others than torch's."""
    stacks = [getattr(part, "layers", None) for part in (net.encoder, net.decoder)]
    ends = [getattr(stack[-1], "linear2", None) for stack in stacks if stack]
    return [end for end in ends if isinstance(end, nn.Linear)]


def _sync_transformer(module: nn.Module) -> None:
    """``nn.Transformer.forward`` compares the features of both its inputs with ``d_model``."""
    net: Any = module
    for end in _ends(net):
        net.d_model = end.out_features


def _ties_transformer(module: nn.Module) -> list[Tie]:
    ends = _ends(module)
    width = ends[0].out_features if ends else 0
    return [Tie(ends[0], ends[1], list(range(width)))] if len(ends) == 2 else []


register_adapter(nn.Transformer, Adapter(_sync_transformer, _ties_transformer))
