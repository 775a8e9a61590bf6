"""Which faster modules could stand in for a module: found by what it is, then tried.

Three stages, each on what the one before left: fold affines into neighbours, replace single layers,
replace blocks whose layers are known to follow each other.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from .._optimised import ForRunning
from ..errors import InputError
from ..layers.recognised import form_of
from .modules import (
    Affine,
    FrameNorm,
    GlobalNorm,
    LeakyReLU,
    Pointwise,
    ShiftedConv,
    TransposedFrameNorm,
)

__all__ = [
    "STAGES",
    "Candidates",
    "Chain",
    "Stage",
    "candidates_of",
    "register_rewrite",
    "replaced",
]

Stage = Literal["fold", "layer", "block"]
STAGES: tuple[Stage, ...] = ("fold", "layer", "block")
Candidates = list[tuple[str, nn.Module]]
"""Modules that should compute the same, each with what was done."""
Builder = Callable[[Any], Candidates]

_PLUGINS = {
    "asteroid": "sepprune_tp.architectures.asteroid_inference",
    "asteroid_filterbanks": "sepprune_tp.architectures.asteroid_inference",
}
_BUILDERS: dict[tuple[Stage, type[nn.Module]], Builder] = {}
_FRESH = (nn.modules.conv._ConvNd, nn.Linear, GlobalNorm, FrameNorm, Affine, Pointwise, ShiftedConv)


class Chain(nn.Sequential, ForRunning):
    """Layers in sequence of which some write over what the one before made."""


def register_rewrite(stage: Stage, build: Builder, *types: type[nn.Module]) -> None:
    """Say what could stand in for modules of ``types``, not of their subclasses.

    Args:
        stage: When.
        build: From the module, what to try; an empty list for one that it does not fit.
        *types: Module classes.

    Raises:
        InputError: If a class has one at this stage already.
    """
    for cls in types:
        if (stage, cls) in _BUILDERS:
            raise InputError(f"{cls.__qualname__} already has a rewrite at stage {stage!r}")
        _BUILDERS[stage, cls] = build


def candidates_of(module: nn.Module, stage: Stage) -> Candidates:
    """What to try in the place of a module; nothing if a caller hooked or patched it."""
    if isinstance(module, ForRunning) or _touched(module):
        return []
    cls = type(module)
    plugin = _PLUGINS.get(cls.__module__.partition(".")[0])
    if plugin is not None:
        importlib.import_module(plugin)
    build = _BUILDERS.get((stage, cls))
    if build is not None:
        return build(module)
    return _norms(module) if stage == "layer" else []


def replaced(layer: nn.Module) -> nn.Module:
    """What to try first in the place of a layer inside a block; itself if there is nothing."""
    return next((new for _, new in candidates_of(layer, "layer")), layer)


def _touched(module: Any) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return any(hooks) or "forward" in vars(module) or hasattr(module, "parametrizations")


def _norms(module: nn.Module) -> Candidates:
    """Norms that somebody wrote out in Python."""
    form = form_of(module)
    if form is None:
        return []
    gain = getattr(module, form.gain).flatten()
    bias = None if form.bias is None else getattr(module, form.bias).flatten()
    if form.pool == "channels":
        return [
            ("frame norm in place", FrameNorm(gain, bias, form.eps)),
            ("layer-norm kernel", TransposedFrameNorm(gain, bias, form.eps)),
        ]
    groups = 1 if form.pool == "all" else gain.numel()
    return [("group-norm kernel", GlobalNorm(gain, bias, form.eps, groups))]


def _prelu(module: nn.PReLU) -> Candidates:
    if module.num_parameters != 1:
        return []
    return [("leaky-relu kernel", LeakyReLU(module.weight.item()))]


def _conv1d(module: nn.Conv1d) -> Candidates:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return []
    (padding,), (stride,), (dilation,) = module.padding, module.stride, module.dilation
    if module.groups > 1 and module.groups == module.in_channels == module.out_channels:
        if stride > 2:
            return []
        conv = ShiftedConv(module.weight, module.bias, dilation, padding, stride)
        return [("sum of shifted copies", conv)]
    return _pointwise(module)


def _pointwise(module: Any) -> Candidates:
    plain = {*module.kernel_size, *module.stride} == {1} and not any(module.padding)
    if module.groups > 1 or not plain:
        return []
    return [("one matrix product", Pointwise(module.weight.flatten(1), module.bias))]


def _conv2d(module: nn.Conv2d) -> Candidates:
    return [] if isinstance(module.padding, str) else _pointwise(module)


def batch_norm(module: Any) -> Candidates:
    """A batch norm in eval mode as what it is then."""
    if module.running_mean is None or module.running_var is None:
        return []
    return [("factor and offset", Affine(*affine_of(module)))]


def affine_of(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) of a batch norm in eval mode."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight.detach()
    shift = -norm.running_mean * scale
    return scale, shift + norm.bias.detach() if norm.affine else shift


# -- chains ---------------------------------------------------------------------------------------


def folded(layers: list[nn.Module]) -> list[nn.Module]:
    """Layers in sequence, each batch norm folded into the convolution beside it where exact."""
    found: list[nn.Module] = []
    for layer in layers:
        before = found[-1] if found else None
        if _is_batch_norm(layer) and before is not None and not _touched(before):
            if type(before) in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
                found[-1] = fuse_conv_bn_eval(before, layer)  # type: ignore[type-var, arg-type]
                continue
            if type(before) is nn.Linear:
                found[-1] = fuse_linear_bn_eval(before, layer)  # type: ignore[arg-type]
                continue
        if before is not None and _is_batch_norm(before) and _reads_unpadded(layer):
            found[-1] = fold_into_reader(*affine_of(before), layer)
            continue
        found.append(layer)
    return found


def _is_batch_norm(layer: Any) -> bool:
    """A batch norm with statistics of its own that nothing hangs on."""
    known = isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None
    return known and not _touched(layer)


def _reads_unpadded(layer: Any) -> bool:
    """A convolution to which an offset of its input is an offset of its output."""
    if type(layer) not in (nn.Conv1d, nn.Conv2d, nn.Conv3d) or _touched(layer):
        return False
    return not isinstance(layer.padding, str) and not any(layer.padding) and layer.groups == 1


def fold_into_reader(scale: Tensor, shift: Tensor, conv: Any) -> nn.Module:
    """A convolution of x that gives what ``conv`` gives for scale * x + shift."""
    new = type(conv)(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    with torch.no_grad():
        offset = (conv.weight.flatten(2).sum(-1) * shift).sum(1)
        new.weight.copy_(conv.weight * scale.view(1, -1, *([1] * (conv.weight.dim() - 2))))
        new.bias.copy_(offset if conv.bias is None else offset + conv.bias)
    folded_in: nn.Module = new.eval().requires_grad_(False)
    return folded_in


def in_place(layers: list[nn.Module]) -> list[nn.Module]:
    """Layers in sequence, activations writing over what only they read."""
    found: list[nn.Module] = []
    for layer in layers:
        fresh = bool(found) and isinstance(found[-1], _FRESH) and not _touched(found[-1])
        if fresh and type(layer) is LeakyReLU and not _touched(layer):
            layer = LeakyReLU(layer.slope, inplace=True)
        found.append(layer)
    return found


def _fold_sequential(module: nn.Sequential) -> Candidates:
    layers = list(module)
    new = folded(layers)
    return [("batch norm folded", Chain(*new))] if len(new) < len(layers) else []


def _sequential(module: nn.Sequential) -> Candidates:
    layers = list(module)
    new = in_place(layers)
    changed = any(a is not b for a, b in zip(layers, new, strict=True))
    return [("in-place activation", Chain(*new))] if changed else []


register_rewrite("fold", _fold_sequential, nn.Sequential)
register_rewrite("block", _sequential, nn.Sequential)
register_rewrite("layer", _prelu, nn.PReLU)
register_rewrite("layer", _conv1d, nn.Conv1d)
register_rewrite("layer", _conv2d, nn.Conv2d)
register_rewrite("layer", batch_norm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
