"""Norms that no rule is registered for, recognised by what they compute.

Every audio code base writes its own global or channel-wise layer norm. A small module with a gain
(and a bias) per channel is run on random inputs with random parameters, in float64; if that is what
one of the norms below gives, to the last digits, it is that norm and is cut and gated as such.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch_pruning.pruner.function import BasePruningFunc

from .base import GatedCall
from .norm import ChannelwiseRule
from .pooling import pooled_frame_norm, pooled_group_norm, pooled_rms_norm
from .regression import Regression

__all__ = ["NormForm", "RecognisedNormRule", "form_of", "recognise"]

Pool = Literal["all", "channels", "positions"]
_POOLS: tuple[Pool, ...] = ("all", "channels", "positions")
_SHAPES = ((7,), (3, 5))
"""Axes beside batch and channels of the inputs that are tried."""
_EPS = (1e-8, 1e-5, 1e-6, 1e-12, torch.finfo(torch.float32).eps, 0.0)
_EQUAL = 1e-12


@dataclass(frozen=True)
class NormForm:
    """Which norm a module is.

    Attributes:
        pool: What the statistics are taken over, batch aside.
        gain: Name of the parameter that scales each channel.
        bias: Name of the one that is added, or None.
        eps: Added to the variance.
        centered: Whether the mean is taken off (else a root-mean-square norm).
        last: Whether channels lie on the last axis, not on axis 1.
        plus_one: Whether the gain is 1 + the parameter.
    """

    pool: Pool
    gain: str
    bias: str | None
    eps: float
    centered: bool = True
    last: bool = False
    plus_one: bool = False

    def compute(self, x: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
        """The norm of x, (B, C, *) or (B, *, C), with parameters (C,)."""
        if self.last:
            x = x.movedim(-1, 1)
        rest = tuple(range(2, x.dim()))
        dims = {"all": (1, *rest), "channels": (1,), "positions": rest}[self.pool]
        if self.centered:
            x = x - x.mean(dims, keepdim=True)
        variance = x.square().mean(dims, keepdim=True)
        shape = (1, -1) + (1,) * len(rest)
        gain = gain + 1 if self.plus_one else gain
        normed = x / (variance + self.eps).sqrt() * gain.view(shape)
        normed = normed if bias is None else normed + bias.view(shape)
        return normed.movedim(1, -1) if self.last else normed


class _Pruner(BasePruningFunc):
    """Cuts every parameter along the axis that its channels are on, and attributes that count."""

    def __init__(self, axes: dict[str, int], module: nn.Module) -> None:
        super().__init__()
        self._axes = axes
        size = self.get_out_channels(module)
        self._shapes = [k for k, v in vars(module).items() if isinstance(v, tuple) and v == (size,)]
        self._counts = [k for k, v in vars(module).items() if type(v) is int and v == size]
        self._counts += self._shapes

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove channels ``idxs``."""
        keep = sorted(set(range(self.get_out_channels(layer))) - set(idxs))
        for name, axis in self._axes.items():
            parameter = self._prune_parameter_and_grad(getattr(layer, name), keep, axis)
            setattr(layer, name, parameter)
        for name in self._counts:
            setattr(layer, name, (len(keep),) if name in self._shapes else len(keep))
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        """Channels."""
        name, axis = next(iter(self._axes.items()))
        return int(getattr(layer, name).shape[axis])

    get_in_channels = get_out_channels


class RecognisedNormRule(ChannelwiseRule):
    """A norm that was recognised; see :func:`recognise`."""

    def __init__(self, form: NormForm, pruner: BasePruningFunc) -> None:
        self._form, self._pruner = form, pruner
        self.affine = (form.gain, form.bias or "")  # type: ignore[misc]

    def pruner(self, module: Any) -> BasePruningFunc:
        return self._pruner

    def axis(self, module: Any, tensor: Tensor) -> int:
        return tensor.dim() - 1 if self._form.last else 1

    def regression(self, module: Any) -> Regression | None:
        return None if self._form.plus_one else super().regression(module)

    def pools_channels(self, module: Any) -> bool:
        return self._form.pool != "positions"

    def run_gated(self, module: Any, call: GatedCall) -> Any:
        if call.mask_in is None or not self.pools_channels(module):
            return call.plain()
        form = self._form
        gain = getattr(module, form.gain).flatten() + int(form.plus_one)
        bias = None if form.bias is None else getattr(module, form.bias).flatten()
        x = call.args[0] if call.args else next(iter(call.kwargs.values()))
        axis = self.axis(module, x)
        if not form.centered:
            normed = _pooled_power(x, call.mask_in, gain, form, axis)
            return normed if bias is None else normed + bias.view(_shape(x, axis))
        if form.pool == "all":
            normed = pooled_group_norm(x.movedim(axis, 1), call.mask_in, gain, bias, form.eps)
            return normed.movedim(1, axis)
        return pooled_frame_norm(x, call.mask_in, gain, bias, form.eps, axis)


def _shape(x: Tensor, axis: int) -> list[int]:
    return [-1 if d == axis else 1 for d in range(x.dim())]


def _pooled_power(x: Tensor, mask: Tensor, gain: Tensor, form: NormForm, axis: int) -> Tensor:
    """A root-mean-square norm over open channels, of each frame or of all."""
    if form.pool == "channels":
        return pooled_rms_norm(x, mask, gain, form.eps, axis)
    dims = [d for d in range(1, x.dim()) if d != axis]
    weight = mask.to(x.dtype).view(_shape(x, axis))
    power = (x.square().mean(dims, keepdim=True) * weight).sum(axis, keepdim=True)
    power = power / weight.sum().clamp(min=torch.finfo(x.dtype).tiny)
    return x * torch.rsqrt(power + form.eps) * gain.view(_shape(x, axis))


_KNOWN: WeakKeyDictionary[nn.Module, RecognisedNormRule | None] = WeakKeyDictionary()


def recognise(module: nn.Module) -> RecognisedNormRule | None:
    """The rule of a module that computes a layer norm of its own making.

    Args:
        module: A module of a class without a rule.

    Returns:
        The rule, or None if it is not such a norm: it has submodules, buffers, other parameters
        than one or two with an element per channel, or computes something else.
    """
    if module not in _KNOWN:
        axes = _channel_axes(module)
        _KNOWN[module] = None if axes is None else _try(module, axes)
    return _KNOWN[module]


def _channel_axes(module: nn.Module) -> dict[str, int] | None:
    """The axis of each parameter that has an element per channel, if there is nothing else."""
    if type(module).__module__.partition(".")[0] == "torch" or next(module.children(), None):
        return None
    parameters = dict(module.named_parameters())
    if not 1 <= len(parameters) <= 2 or next(module.buffers(), None) is not None:
        return None
    sizes = {p.numel() for p in parameters.values()}
    wide = {n: [d for d in range(p.dim()) if p.shape[d] > 1] for n, p in parameters.items()}
    if len(sizes) != 1 or any(len(axes) != 1 for axes in wide.values()):
        return None
    return {name: axes[0] for name, axes in wide.items()}


def _try(module: nn.Module, axes: dict[str, int]) -> RecognisedNormRule | None:
    form = _form(module, axes)
    return None if form is None else RecognisedNormRule(form, _Pruner(axes, module))


def form_of(module: nn.Module) -> NormForm | None:
    """Which norm a module computes, whether its class has a rule or not; None if it is none."""
    axes = _channel_axes(module)
    return None if axes is None else _form(module, axes)


def _form(module: nn.Module, axes: dict[str, int]) -> NormForm | None:
    for last in (False, True):
        answers = _answers(module, list(axes), last)
        for form in _forms(module, list(axes), last) if answers else ():
            if all(_equal(form, *answer) for answer in answers):
                return form
    return None


Answer = tuple[Tensor, dict[str, Tensor], Tensor]
"""An input, the parameters (C,), and what the module made of it."""


def _answers(module: nn.Module, names: list[str], last: bool) -> list[Answer]:
    """What the module gives for random inputs and parameters, in both modes; empty if it fails."""
    generator = torch.Generator().manual_seed(0)
    answers: list[Answer] = []
    with torch.no_grad(), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        memo: dict[int, Any] = {
            id(p): nn.Parameter(torch.randn(p.shape, generator=generator, dtype=torch.float64))
            for p in module.parameters()
        }
        try:
            model = copy.deepcopy(module, memo)
        except Exception:
            return []
        parameters = {name: getattr(model, name).detach().flatten() for name in names}
        channels = parameters[names[0]].numel()
        for shape in _SHAPES:
            size = (2, *shape, channels) if last else (2, channels, *shape)
            x = torch.randn(*size, generator=generator, dtype=torch.float64)
            try:
                both = [model.train(training)(x) for training in (False, True)]
            except Exception:  # not made for an input of this kind: a norm is for one of them
                continue
            if any(not isinstance(y, Tensor) or y.shape != x.shape for y in both):
                return []
            answers.extend((x, parameters, y) for y in both)
    return answers


def _forms(module: nn.Module, names: list[str], last: bool) -> Iterator[NormForm]:
    """Every norm that the module may be."""
    own = [v for v in vars(module).values() if isinstance(v, float) and 0 <= v < 1e-2]
    roles = [(n, None) for n in names] if len(names) == 1 else list(itertools.permutations(names))
    for pool, (gain, bias), eps, centered, plus_one in itertools.product(
        _POOLS, roles, dict.fromkeys([*own, *_EPS]), (True, False), (False, True)
    ):
        yield NormForm(pool, gain, bias, eps, centered, last, plus_one)


def _equal(form: NormForm, x: Tensor, parameters: dict[str, Tensor], y: Tensor) -> bool:
    bias = None if form.bias is None else parameters[form.bias]
    expected = form.compute(x, parameters[form.gain], bias)
    return bool((expected - y).abs().max() <= _EQUAL * (1 + y.abs().max()))
