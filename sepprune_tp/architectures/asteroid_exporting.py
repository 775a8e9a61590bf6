"""What Asteroid's models compute, in a form that exporters follow at any length.

Importing this module registers it; ``sepprune_tp.exporting`` does so when it meets an Asteroid
module. Asteroid asks for sizes through tensors (``.tolist()``) and branches on lengths, which is
compiled when TorchScript traces and stops ``torch.export``.
"""

from __future__ import annotations

from typing import Any

import torch
from asteroid.masknn import convolutional, norms
from asteroid.models import sudormrf
from asteroid.models.base_models import BaseEncoderMaskerDecoder
from asteroid_filterbanks import Decoder, Encoder
from torch import Tensor
from torch.nn import functional as F

from ..exporting.portable import register_forward, register_preparation

__all__: list[str] = []


def _separate(model: Any, wav: Tensor) -> Tensor:
    """(B, T) or (B, 1, T) -> (B, S, T)."""
    mixture = wav.unsqueeze(1) if wav.dim() == 2 else wav
    representation = model.forward_encoder(mixture)
    masked = model.apply_masks(representation, model.forward_masker(representation))
    estimates = model.forward_decoder(masked)
    return F.pad(estimates, (0, wav.shape[-1] - estimates.shape[-1]))


def _global_norm(norm: Any, x: Tensor, EPS: float = 1e-8) -> Tensor:
    """(B, C, *) -> (B, C, *), statistics over all but B."""
    return F.group_norm(x, 1, norm.gamma, norm.beta, EPS)


def _feature_norm(norm: Any, x: Tensor, EPS: float = 1e-8) -> Tensor:
    """(B, C, *) -> (B, C, *), statistics over all but B and C."""
    return F.group_norm(x, len(norm.gamma), norm.gamma, norm.beta, EPS)


def _padded_encoder(module: Any, x: Tensor) -> Tensor:
    """Encode x (B, 1, T), zeros behind it up to a multiple of what the levels need."""
    return module.encoder(F.pad(x, (0, -x.shape[-1] % module.lcm)))  # type: ignore[no-any-return]


def _hold_filters(coder: Any) -> None:
    """Filters that are computed (analytic, sinc, pseudo-inverse) become numbers."""
    filters = coder.get_filters().detach()
    stored = [*coder.parameters(), *coder.buffers()]
    if not any(filters.data_ptr() == tensor.data_ptr() for tensor in stored):
        coder.register_buffer("held_filters", filters.clone())
        coder.get_filters = lambda: coder.held_filters


def _fix_length(net: Any) -> None:
    """DCUNet's pad or trim to whole strides, as arithmetic on the length."""
    stride = int(net.encoders_stride_product[1])

    def fix_input_dims(x: Tensor) -> Tensor:
        over = x.shape[2] - 1
        if net.fix_length_mode == "pad":
            return F.pad(x, (0, -over % stride))
        return x[..., : over // stride * stride + 1]

    if net.fix_length_mode in ("pad", "trim"):
        net.fix_input_dims = fix_input_dims


def _resolutions(block: Any, x: Tensor) -> Tensor:
    """What a U-Net block of SuDoRM-RF sees in x (B, C, T) at all its resolutions, together."""
    levels = [block.spp_dw[0](block.proj_1x1(x))]
    for layer in block.spp_dw[1:]:
        levels.append(layer(levels[-1]))
    found: Tensor = levels.pop()
    for level in reversed(levels):
        found = level + _first(block.upsampler(found), level.shape[-1])
    return found


def _first(x: Tensor, count: int) -> Tensor:
    """The first samples of x (B, C, T).

    For torch.export a pick: as a slice it is one thing where it shortens x and another where it
    does not, and the program would be for lengths of one of the two kinds only.
    """
    if torch.compiler.is_exporting():
        return x.index_select(-1, torch.arange(count, device=x.device))
    first: Tensor = x[..., :count]
    return first


def _u_block(block: Any, x: Tensor) -> Tensor:
    """(B, C, T) -> (B, C, T)."""
    expanded = block.conv_1x1_exp(block.final_norm(_resolutions(block, x)))
    return block.module_act(expanded + x)  # type: ignore[no-any-return]


def _u_conv_block(block: Any, x: Tensor) -> Tensor:
    """(B, C, T) -> (B, C, T)."""
    return block.res_conv(block.final_norm(_resolutions(block, x))) + x  # type: ignore[no-any-return]


register_preparation(convolutional.DCUMaskNet, _fix_length)
register_preparation(Encoder, _hold_filters)
register_preparation(Decoder, _hold_filters)
register_forward(BaseEncoderMaskerDecoder.forward, _separate)
register_forward(norms.GlobLN.forward, _global_norm)
register_forward(norms.FeatsGlobLN.forward, _feature_norm)
register_forward(convolutional.UBlock.forward, _u_block)
register_forward(convolutional.UConvBlock.forward, _u_conv_block)
register_forward(sudormrf._Padder.forward, _padded_encoder)
