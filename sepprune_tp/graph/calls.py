"""Calls of torch functions in a model's own code: where they are, and how gates reach into them.

A layer with a rule is gated as a layer. Everything else that reads or pools channels is a call of
a torch function somewhere in the model's code. The trace notes such calls by their place: the
module whose code runs, and the chain of code positions between its ``forward`` and the call. A
gated run meets the same places again and changes the arguments of these calls, or replaces the
function by one that counts open channels only.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..errors import GraphError

__all__ = ["CallGate", "CallPlace", "GatedCode", "Key", "can_pool", "key_of"]

Key = tuple[Any, ...]
"""The place of a call in the code of a module."""

_OWN = str(Path(__file__).resolve().parents[1])
_MODULE_FILE = nn.Module._call_impl.__code__.co_filename


def key_of(frame: Any) -> Key:
    """The place of a call: code and position of each frame up to the call of the module."""
    chain: list[Any] = []
    while frame is not None and frame.f_code.co_filename != _MODULE_FILE:
        if not frame.f_code.co_filename.startswith(_OWN):
            chain.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(chain)


@dataclass
class CallGate:
    """What gates do to one call.

    Attributes:
        module: The module whose code makes the call.
        key: Its place there.
        name: Name of the function.
        pools: Whether statistics over channels are taken, so that closed ones must not count;
            else they are multiplied by their gates.
        labels: For some of the tensors among its arguments (by their position in the flattened
            arguments) the label of each element, axes along which it does not change being 1.
        indices: The gate of each element, as ``labels``; set by who makes gates.
    """

    module: nn.Module
    key: Key
    name: str
    pools: bool
    labels: dict[int, Tensor]
    indices: dict[int, Tensor] = field(default_factory=dict)


@dataclass
class CallPlace:
    """The calls at one place in the code of a module.

    Attributes:
        gates: By turn (how often the place has run in one call of the module), what gates do;
            several where the module ran several times.
        turns: How often the place ran at most.
    """

    gates: dict[int, list[CallGate]] = field(default_factory=dict)
    turns: int = 0

    def every(self) -> list[CallGate]:
        """All of its gates."""
        return [gate for gates in self.gates.values() for gate in gates]

    def unite(self) -> None:
        """Make one of the gates of all turns where they agree on what both know."""
        every: dict[int, Tensor] = {}
        for gate in self.every():
            for number, index in gate.indices.items():
                if number in every and not torch.equal(every[number], index):
                    return
                every[number] = index
        if len(self.gates) == self.turns:
            for gate in self.every():
                gate.indices = every

    def at(self, turn: int) -> CallGate | None:
        """The gate of a turn."""
        if len(self.gates) == self.turns and len(self.every()) and self._alike():
            return self.every()[0]
        if turn >= self.turns:
            gate = self.every()[0]
            raise GraphError(
                f"'{gate.name}' in {type(gate.module).__name__} runs more often than on the "
                "example, and its gates differ from turn to turn: call the model as in the example"
            )
        return self.gates[turn][0] if turn in self.gates else None

    def _alike(self) -> bool:
        first, *others = self.every()
        return all(
            gate.indices.keys() == first.indices.keys()
            and all(torch.equal(gate.indices[i], first.indices[i]) for i in first.indices)
            for gate in others
        )


# -- functions that count open channels only ------------------------------------------------------


def _dims(x: Tensor, dim: Any) -> list[int]:
    if dim is None or dim == () or dim == []:
        return list(range(x.dim()))
    return [d % x.dim() for d in ([dim] if isinstance(dim, int) else dim)]


def _weights(x: Tensor, mask: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    """The mask with the axes of ``x``, and how many elements along ``dims`` are open."""
    count = math.prod(x.shape[d] for d in dims if mask.shape[d] == 1)
    total = mask.sum(dims, keepdim=True) * count
    return mask, torch.where(total > 0, total, 1)


def _moments(x: Tensor, mask: Tensor, dims: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (over N) of open elements along some axes, and their number."""
    mask, total = _weights(x, mask, dims)
    mean = (x * mask).sum(dims, keepdim=True) / total
    variance = ((x - mean).square() * mask).sum(dims, keepdim=True) / total
    return mean, variance, total


def _squeezed(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    return x if keepdim else x.squeeze(dims)


def _mean(x: Tensor, mask: Tensor, dim: Any = None, keepdim: bool = False, **k: Any) -> Tensor:
    dims = _dims(x, k.get("axis", dim))
    mask, total = _weights(x, mask, dims)
    x = x if k.get("dtype") is None else x.to(k["dtype"])
    return _squeezed((x * mask).sum(dims, keepdim=True) / total, dims, keepdim)


def _spread(
    x: Tensor, dim: Any, unbiased: Any, keepdim: bool, correction: Any, mask: Tensor
) -> tuple[Tensor, Tensor]:
    if isinstance(dim, bool):  # var(x, unbiased)
        dim, unbiased = None, dim
    dims = _dims(x, dim)
    mean, variance, total = _moments(x, mask, dims)
    less = correction if correction is not None else int(unbiased is None or bool(unbiased))
    rest = total - less
    variance = torch.where(rest > 0, variance * total / torch.where(rest > 0, rest, 1), 0)
    return _squeezed(variance, dims, keepdim), _squeezed(mean, dims, keepdim)


def _spread_function(root: bool, with_mean: bool) -> Callable[..., Any]:
    def function(
        x: Tensor,
        mask: Tensor,
        dim: Any = None,
        unbiased: Any = None,
        keepdim: bool = False,
        *,
        correction: Any = None,
    ) -> Any:
        variance, mean = _spread(x, dim, unbiased, keepdim, correction, mask)
        variance = variance.sqrt() if root else variance
        return (variance, mean) if with_mean else variance

    return function


def _affine(y: Tensor, weight: Any, bias: Any) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _layer_norm(
    x: Tensor,
    mask: Tensor,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    count = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
    dims = list(range(x.dim() - count, x.dim()))
    mean, variance, _n = _moments(x, mask, dims)
    return _affine((x - mean) * torch.rsqrt(variance + eps), weight, bias)


def _rms_norm(
    x: Tensor, mask: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> Tensor:
    count = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
    dims = list(range(x.dim() - count, x.dim()))
    mask, total = _weights(x, mask, dims)
    mean = (x.square() * mask).sum(dims, keepdim=True) / total
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _affine(x * torch.rsqrt(mean + eps), weight, None)


def _group_norm(
    x: Tensor,
    mask: Tensor,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    batch, channels = x.shape[:2]
    rows = x.reshape(batch, num_groups, channels // num_groups, -1)
    open_ = mask.expand(1, channels, *mask.shape[2:]).reshape(
        1, num_groups, channels // num_groups, -1
    )
    mean, variance, _n = _moments(rows, open_, [2, 3])
    y = ((rows - mean) * torch.rsqrt(variance + eps)).view(x.shape)
    shape = (1, -1) + (1,) * (x.dim() - 2)
    return _affine(
        y,
        None if weight is None else weight.view(shape),
        None if bias is None else bias.view(shape),
    )


def _softmax(x: Tensor, mask: Tensor, dim: Any = None, *a: Any, **k: Any) -> Tensor:
    shifted = x + torch.log(mask.to(x.dtype)).clamp(min=torch.finfo(x.dtype).min / 4)
    return torch.softmax(shifted, -1 if dim is None else dim)


def _lowest_of(x: Tensor) -> float:
    """A finite number below all others: what is closed may be multiplied by 0 later."""
    return torch.finfo(x.dtype).min / 4 if x.is_floating_point() else float(-(1 << 30))


def _highest(x: Tensor, mask: Tensor, *a: Any, **k: Any) -> Any:
    return torch.amax(torch.where(mask > 0, x, _lowest_of(x)), *a, **k)


def _lowest(x: Tensor, mask: Tensor, *a: Any, **k: Any) -> Any:
    return torch.amin(torch.where(mask > 0, x, -_lowest_of(x)), *a, **k)


def _max(x: Tensor, mask: Tensor, *a: Any, **k: Any) -> Any:
    return torch.max(torch.where(mask > 0, x, _lowest_of(x)), *a, **k)


def _min(x: Tensor, mask: Tensor, *a: Any, **k: Any) -> Any:
    return torch.min(torch.where(mask > 0, x, -_lowest_of(x)), *a, **k)


_POOLED: dict[str, Callable[..., Any]] = {
    "mean": _mean,
    "var": _spread_function(False, False),
    "std": _spread_function(True, False),
    "var_mean": _spread_function(False, True),
    "std_mean": _spread_function(True, True),
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "softmax": _softmax,
    "amax": _highest,
    "amin": _lowest,
    "max": _max,
    "min": _min,
}
"""What a function computes of open elements only: (x, mask with the axes of x, other arguments)."""


def can_pool(name: str) -> bool:
    """Whether a function of this name can count open channels only."""
    return name in _POOLED


def _scales_by_width(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether attention takes its scale from the width of a head."""
    return (args[6] if len(args) > 6 else kwargs.get("scale")) is None


def _rescaled(mask: Tensor) -> Tensor | float:
    """What turns the scale of all channels of a head into that of the open ones."""
    if mask.shape[-1] == 1:
        return 1.0
    width = mask.sum(-1).amax().clamp(min=1)
    return torch.as_tensor(mask.shape[-1] / width) ** 0.5


_ALIASES = {"axis": "dim", "keepdims": "keepdim", "x": "input"}
"""NumPy's names of arguments, which torch takes, too."""


def _tiled(mask: Tensor, tensor: Tensor) -> Tensor:
    """A mask repeated along axes that hold its channels several times."""
    if mask.dim() != tensor.dim():
        return mask
    sizes = zip(mask.shape, tensor.shape, strict=True)
    times = [n // m if 1 < m < n and n % m == 0 else 1 for m, n in sizes]
    return mask.repeat(times) if max(times, default=1) > 1 else mask


def _check_sizes(gate: CallGate, tensor: Tensor, mask: Tensor) -> None:
    sizes = zip(mask.shape, tensor.shape, strict=False)
    if mask.dim() != tensor.dim() or any(m not in (1, n) for m, n in sizes):
        raise GraphError(
            f"'{gate.name}' in {type(gate.module).__name__} gets a tensor {tuple(tensor.shape)} "
            f"whose channels were {tuple(mask.shape)} on the example: with gates, call the model "
            "on inputs of the example's length"
        )


# -- gated runs -----------------------------------------------------------------------------------


class _GatedCalls(TorchFunctionMode):
    """Lets the calls that were noted see gates."""

    def __init__(
        self, places: Mapping[tuple[nn.Module, Key], CallPlace], values: Callable[[], Any]
    ) -> None:
        super().__init__()
        self._places, self._values = places, values
        self.running: list[nn.Module] = []
        self.turns: list[Counter[Key]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.running:
            key = key_of(sys._getframe(1))
            place = self._places.get((self.running[-1], key))
            values = None if place is None else self._values()
            if place is not None and values is not None:
                turn = self.turns[-1][key]
                self.turns[-1][key] += 1
                gate = place.at(turn)
                if gate is not None:
                    return _run(gate, values, func, args, kwargs)
        return func(*args, **kwargs)


def _run(gate: CallGate, values: Tensor, func: Any, args: Any, kwargs: Any) -> Any:
    leaves, spec = tree_flatten((args, kwargs))
    masks: dict[int, Tensor] = {}
    for number, index in gate.indices.items():
        mask = values[index.to(values.device)]
        if values.requires_grad or not bool((mask == 1).all()):
            mask = _tiled(mask.to(leaves[number].dtype), leaves[number])
            _check_sizes(gate, leaves[number], mask)
            masks[number] = mask
    if not masks:
        return func(*args, **kwargs)
    if gate.pools:
        (number, mask), *_ = masks.items()
        named = {_ALIASES.get(k, k): v for k, v in kwargs.items() if k not in ("input", "self")}
        return _POOLED[gate.name](
            leaves[number], mask, *args[_given(args, leaves, number) :], **named
        )
    for number, mask in masks.items():
        leaves[number] = leaves[number] * mask
        if gate.name == "scaled_dot_product_attention" and _scales_by_width(args, kwargs):
            leaves[number] = leaves[number] * _rescaled(mask)
    args, kwargs = tree_unflatten(leaves, spec)
    return func(*args, **kwargs)


def _given(args: tuple[Any, ...], leaves: list[Any], number: int) -> int:
    """1 if the pooled tensor is the first positional argument, else 0 (it is a keyword)."""
    return int(bool(args) and args[0] is leaves[number])


class GatedCode:
    """Makes the forward functions of modules whose code makes gated calls.

    Attributes:
        modules: These modules.
    """

    def __init__(
        self,
        places: Mapping[tuple[nn.Module, Key], CallPlace],
        values: Callable[[], Tensor | None],
    ) -> None:
        """Prepare.

        Args:
            places: The calls, with indices of gates.
            values: Returns all gates (N + 1,), the last 1; or None: all open.
        """
        self.modules = list(dict.fromkeys(module for module, _ in places))
        self._mode = _GatedCalls(places, values)

    def forward(self, module: nn.Module, own: Callable[..., Any]) -> Callable[..., Any]:
        """A forward that runs the module's own with gates."""
        mode = self._mode

        def run(*args: Any, **kwargs: Any) -> Any:
            outermost = not mode.running
            mode.running.append(module)
            mode.turns.append(Counter())
            try:
                if not outermost:
                    return own(*args, **kwargs)
                with mode:
                    return own(*args, **kwargs)
            finally:
                mode.running.pop()
                mode.turns.pop()

        return run
