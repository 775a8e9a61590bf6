"""Rules of Asteroid's norms (asteroid.masknn.norms) and filterbanks (asteroid_filterbanks).

Importing this module registers them; ``sepprune_tp.layers`` does so when it meets such a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from asteroid.masknn import norms
from asteroid_filterbanks import AnalyticFreeFB, Decoder, Encoder, FreeFB
from torch import Tensor
from torch_pruning.pruner.function import BasePruningFunc

from ..layers import register_rule
from ..layers.base import Count, GatedCall, LayerRule, masked
from ..layers.norm import ChannelwiseRule
from ..layers.pooling import pooled_frame_norm, pooled_group_norm
from ..layers.regression import Regression
from ..layers.transposed_regression import TransposedRegression

__all__ = ["FilterbankPruner", "NormPruner"]

_EPS = 1e-8  # the default of every norm in asteroid.masknn.norms


class NormPruner(BasePruningFunc):
    """Cuts gain and bias of Asteroid's norms (``gamma``, ``beta``, ``channel_size``)."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove channels ``idxs``."""
        keep = sorted(set(range(layer.channel_size)) - set(idxs))
        layer.gamma = self._prune_parameter_and_grad(layer.gamma, keep, 0)
        layer.beta = self._prune_parameter_and_grad(layer.beta, keep, 0)
        layer.channel_size = len(keep)
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        """Channels."""
        return int(layer.channel_size)

    get_in_channels = get_out_channels


class _NormRule(ChannelwiseRule):
    """A norm over (B, C, *) that pools each channel alone; others refine it."""

    _pruner = NormPruner()
    affine = ("gamma", "beta")

    def pruner(self, module: Any) -> BasePruningFunc:
        return self._pruner

    def run_gated(self, module: Any, call: GatedCall) -> Any:
        if call.mask_in is None or not self.pools_channels(module):
            return call.plain()
        eps = float(call.args[1] if len(call.args) > 1 else call.kwargs.get("EPS", _EPS))
        return self.pooled(module, call.input("x"), call.mask_in, eps)

    def pooled(self, module: Any, x: Tensor, mask: Tensor, eps: float) -> Tensor:
        """The norm with statistics over open channels only."""
        raise NotImplementedError


class _GlobalNormRule(_NormRule):
    """gLN: one mean and variance over channels and time."""

    def pools_channels(self, module: Any) -> bool:
        return True

    def pooled(self, module: Any, x: Tensor, mask: Tensor, eps: float) -> Tensor:
        return pooled_group_norm(x, mask, module.gamma, module.beta, eps)


class _FrameNormRule(_NormRule):
    """cLN: a mean and variance over channels for each frame."""

    def pools_channels(self, module: Any) -> bool:
        return True

    def pooled(self, module: Any, x: Tensor, mask: Tensor, eps: float) -> Tensor:
        return pooled_frame_norm(x, mask, module.gamma, module.beta, eps, 1)


class _CumulativeNormRule(_NormRule):
    """cgLN: a mean and variance over channels and all frames so far."""

    def pools_channels(self, module: Any) -> bool:
        return True

    def pooled(self, module: Any, x: Tensor, mask: Tensor, eps: float) -> Tensor:
        full = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        weight = mask.to(full.dtype)
        frames = torch.arange(1, x.shape[-1] + 1, dtype=full.dtype, device=x.device)
        count = frames * weight.sum()
        total = torch.einsum("bct,c->bt", full, weight).cumsum(-1)
        power = torch.einsum("bct,c->bt", full.square(), weight).cumsum(-1)
        mean = total / count
        scale = torch.rsqrt(power / count - mean.square() + eps).unsqueeze(1)
        normed = (full - mean.unsqueeze(1)) * scale
        gain, bias = module.gamma, module.beta
        return torch.addcmul(bias[:, None], normed, gain[:, None]).to(x.dtype)


def _channels(bank: Any) -> int:
    """Rows of a filterbank's filter matrix: real and imaginary parts count one each."""
    return int(2 * bank.cutoff if hasattr(bank, "cutoff") else bank.n_filters)


def _parts(bank: Any) -> int:
    """Channels of one learned filter: an analytic bank adds its Hilbert transform, in a block."""
    return 2 if type(bank) is AnalyticFreeFB else 1


class FilterbankPruner(BasePruningFunc):
    """Cuts filters of a learned filterbank: outputs of an Encoder, inputs of a Decoder."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove channels ``idxs``; real and imaginary part of a filter go together."""
        bank: Any = layer.filterbank
        keep = sorted(set(range(_channels(bank))) - set(idxs))
        filters = keep[: len(keep) // _parts(bank)]
        bank._filters = self._prune_parameter_and_grad(bank._filters, filters, 0)
        bank.n_filters = bank.n_feats_out = len(keep)
        if hasattr(bank, "cutoff"):
            bank.cutoff = len(filters)
        if hasattr(layer, "n_feats_out"):
            layer.n_feats_out = len(keep)
        return layer

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove channels ``idxs``."""
        return self.prune_out_channels(layer, idxs)

    def get_out_channels(self, layer: Any) -> int:
        """Channels of an Encoder; a Decoder makes one waveform."""
        return _channels(layer.filterbank) if isinstance(layer, Encoder) else 1

    def get_in_channels(self, layer: Any) -> int:
        """Channels of a Decoder; an Encoder reads one waveform."""
        return _channels(layer.filterbank) if isinstance(layer, Decoder) else 1


class _FilterbankRule(LayerRule):
    kind = "filterbank"
    relation: ClassVar[Literal["maps", "through"]] = "maps"
    _pruner = FilterbankPruner()

    def pruner(self, module: Any) -> BasePruningFunc:
        return self._pruner

    def refuses(self, module: Any) -> str | None:
        bank: Any = module.filterbank
        if type(bank) not in (FreeFB, AnalyticFreeFB):
            return f"its filterbank {type(bank).__name__} is computed, not learned filter by filter"
        if module.is_pinv:
            return "its filters are the pseudo-inverse of another filterbank"
        return None

    def ties(self, module: Any) -> tuple[int, int]:
        parts = _parts(module.filterbank)
        return (1, parts) if isinstance(module, Encoder) else (parts, 1)

    def _kernel(self, module: Any) -> int:
        return int(module.filterbank.kernel_size)

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        if type(module.filterbank) not in (FreeFB, AnalyticFreeFB):
            return n_in * 0 + sum(int(p.numel()) for p in module.parameters())
        weights, parts = n_in * n_out * self._kernel(module), _parts(module.filterbank)
        return weights // parts if isinstance(weights, int) else weights / parts


class _EncoderRule(_FilterbankRule):
    """Waveform (B, 1, T) -> representation (B, filters, frames)."""

    def axis(self, module: Any, tensor: Tensor) -> int:
        return tensor.dim() - 2

    def reads(self, module: Any) -> bool:
        return False

    def macs(self, module: Any, positions: int, n_in: Count, n_out: Count) -> Count:
        return n_in * n_out * (positions * self._kernel(module))


class _DecoderRule(_FilterbankRule):
    """Representation (B, S, filters, frames) -> waveforms (B, S, T)."""

    def axis(self, module: Any, tensor: Tensor) -> int:
        return tensor.dim() - 2

    def regression(self, module: Any) -> Regression | None:
        bank: Any = module.filterbank
        if type(bank) is not FreeFB or module.is_pinv:
            return None
        padding = (int(module.padding),)
        return TransposedRegression(bank._filters, None, (int(bank.stride),), padding, (1,))

    def gated_parameters(self, module: Any, mask_in: Tensor) -> dict[str, Tensor]:
        filters: Tensor = module.filterbank._filters
        return {"filterbank._filters": masked(filters, mask_in[: filters.shape[0]], 0)}

    def positions(self, module: Any, inputs: tuple[Any, ...], output: Any) -> int:
        return int(inputs[0].numel() // inputs[0].shape[-2])

    def macs(self, module: Any, positions: int, n_in: Count, n_out: Count) -> Count:
        return n_in * n_out * (positions * self._kernel(module))


register_rule(_GlobalNormRule(), norms.GlobLN)
register_rule(_FrameNormRule(), norms.ChanLN)
register_rule(_CumulativeNormRule(), norms.CumLN)
register_rule(_NormRule(), norms.FeatsGlobLN)
register_rule(_EncoderRule(), Encoder)
register_rule(_DecoderRule(), Decoder)
