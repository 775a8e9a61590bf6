"""torchvision's models: attributes that hold channel counts, and a norm of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.models.vision_transformer import VisionTransformer

from ..layers import register_rule
from ..layers.base import GatedCall
from ..layers.norm import LayerNormRule
from ..layers.pooling import pooled_frame_norm
from . import Adapter, register_adapter

__all__: list[str] = []


class _LayerNorm2dRule(LayerNormRule):
    """ConvNeXt's layer norm of maps (B, C, H, W) over C."""

    def axis(self, module: Any, tensor: Tensor) -> int:
        return 1

    def run_gated(self, module: Any, call: GatedCall) -> Any:
        if call.mask_in is None:
            return call.plain()
        x = call.input("x")
        return pooled_frame_norm(x, call.mask_in, module.weight, module.bias, module.eps, 1)


def _sync_vision_transformer(module: nn.Module) -> None:
    """``VisionTransformer`` reshapes the patches with ``hidden_dim``."""
    net: Any = module
    net.hidden_dim = net.conv_proj.out_channels


register_rule(_LayerNorm2dRule(), LayerNorm2d)
register_adapter(VisionTransformer, Adapter(_sync_vision_transformer))
