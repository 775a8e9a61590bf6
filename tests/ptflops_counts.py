"""MACs of the backbones as the SepPrune paper counted them, to compare its table with ours.

Its figures come from ptflops 0.7 on the authors' code. Beside the products with weights that we
count too, that counter adds biases, one MAC an element for PReLU, ReLU, pooling and nn.Upsample
(twice: as a layer and as the function that the layer calls) and for layer norms; it gives nothing
for the authors' own global norm, sigmoid and element-wise products, and next to nothing for
``interpolate(size=...)``. Two habits make most of the difference:

* a transposed convolution counts at its *output* positions: stride times too often;
* of attention it sees a sequence of one frame, since the authors' code takes the batch for time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from benchmarks.models import SuDoRMRF

__all__ = ["Counts", "ptflops_macs"]


class _Functions(TorchFunctionMode):
    """Counts functions that ptflops patches; those that it misses count 0."""

    def __init__(self, upsamples: bool) -> None:
        super().__init__()
        self.macs, self.upsamples, self.upsampled = 0, upsamples, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in (torch.relu, Tensor.relu):
            self.macs += 2 * output.numel()
        elif func in (F.adaptive_avg_pool1d, torch.adaptive_avg_pool1d):
            self.macs += args[0].numel()
        elif func is F.interpolate and self.upsamples:
            self.macs += 2 * output.numel()
            self.upsampled += output.numel()
        return output


@dataclass
class Counts:
    """MACs of one call.

    Attributes:
        total: Of the whole, as in the paper's table.
        separator: Of the layers in ``model.sm`` (functions, and what they repeat of layers, left
            out, as in the table).
        products: Of the whole, but nothing that is not a product with weights or of queries, keys
            and values, and each once.
    """

    total: int = 0
    separator: int = 0
    products: int = 0


def _convolution(layer: Any, x: Tensor, y: Tensor) -> tuple[int, int]:
    bias = 0 if layer.bias is None else y.numel()
    products: int = layer.weight.numel() * (y.numel() // y.shape[1])
    return products, bias


def _transposed(layer: Any, x: Tensor, y: Tensor) -> tuple[int, int]:
    products: int = layer.weight.numel() * (x.numel() // x.shape[1])
    return products, layer.weight.numel() * (y.numel() // y.shape[1]) - products


def _attention(layer: nn.MultiheadAttention, x: Tensor, y: Any) -> tuple[int, int]:
    frames, wide = x.shape[0] * x.shape[1], x.shape[2]
    itself = 2 * wide  # products of one frame with itself
    biases, scale, softmax = 4 * wide, wide, layer.num_heads
    return frames * (4 * wide**2 + itself), frames * (biases + scale + softmax)


_LAYERS: dict[type[nn.Module], Callable[[Any, Tensor, Any], tuple[int, int]]] = {
    nn.Conv1d: _convolution,
    nn.ConvTranspose1d: _transposed,
    nn.PReLU: lambda layer, x, y: (0, y.numel()),
    nn.LayerNorm: lambda layer, x, y: (0, y.numel()),
    nn.MultiheadAttention: _attention,
}
"""Layer to (products, what ptflops adds to them) of one call."""


def ptflops_macs(model: nn.Module, x: Tensor) -> Counts:
    """Count MACs in the manner of the paper.

    Args:
        model: A backbone.
        x: Mixture, (1, T).

    Returns:
        The counts.
    """
    inside = {id(layer) for layer in model.sm.modules()}
    counts = Counts()

    def count(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        products, more = _LAYERS[type(layer)](layer, args[0], output)
        counts.products += products
        counts.total += products + more * (2 if isinstance(layer, nn.PReLU) else 1)
        if id(layer) in inside:
            counts.separator += products + more

    hooks = [m.register_forward_hook(count) for m in model.modules() if type(m) in _LAYERS]
    functions = _Functions(isinstance(model, SuDoRMRF))
    try:
        with torch.no_grad(), functions:
            model.eval()(x)
    finally:
        for hook in hooks:
            hook.remove()
    counts.total += functions.macs
    counts.separator += functions.upsampled
    return counts
