"""Memory that one forward pass holds at its peak: weights, buffers and live activations.

Counted are the storages of tensors, each from the operation that makes it to the moment when nobody
refers to it any more, as PyTorch's own dispatcher sees them. So the figure is the same on every run
and machine, whatever the allocator keeps back. Scratch space inside of a kernel (im2col, packed
weights) is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .._unwrap import unwrapped
from ..gates import GateSet, Resource
from ..pruner import pruned_copy
from .storages import StorageTracker, follow_storages, key_of

__all__ = ["Memory", "MemoryResource", "measure_memory"]

_MOMENTS = 256  # of the forward pass that may become its peak
_SOFTNESS = 0.02  # of the maximum over moments, as a share of the dense peak


@dataclass(frozen=True)
class Memory:
    """What one forward pass holds, in bytes.

    Attributes:
        weights: Parameters and buffers, tied ones once.
        activations: Peak of all other storages that live at the same time, the input among them.
        measured_on: ``fake`` tensors, or a ``real`` run.
    """

    weights: int
    activations: int
    measured_on: str

    @property
    def peak(self) -> int:
        """Weights, buffers and the peak of activations."""
        return self.weights + self.activations


def measure_memory(model: nn.Module, example_inputs: Any, *, fake: bool | None = None) -> Memory:
    """Measure the peak memory of one forward pass in eval mode without gradients.

    Args:
        model: Any model, or a wrapper around it; it is left as it was.
        example_inputs: What it is called with: a tensor such as a mixture (B, T), a tuple of
            arguments, or a dict of keyword arguments.
        fake: Whether to try fake tensors, which cost no computation; None: unless the model has
            layers that run step by step (GRU, RNN).

    Returns:
        The peak in bytes; the same on every call.

    Raises:
        InputError: If the model cannot run on the example input.

    Example:
        >>> memory = measure_memory(nn.Linear(4, 8), torch.randn(2, 4))
        >>> memory.weights, memory.activations
        (160, 96)
    """
    tracker = StorageTracker()
    measured_on = follow_storages(model, example_inputs, tracker, fake=fake)
    return Memory(_bytes_of_weights(unwrapped(model)), tracker.peak, measured_on)


class MemoryResource(Resource):
    """Peak memory as a function of gates, predicted from one run of the dense model.

    Every storage of that run shrinks with the channels that it holds: those of the layer that made
    it, or a mix of those that went into it. The prediction is the largest sum over the storages
    that live at the same time; it is exact for the dense model.
    """

    name, unit = "memory", "bytes"
    predicted: ClassVar[bool] = True

    def __init__(self, gates: GateSet) -> None:
        """Run the dense model once, if possible on fake tensors."""
        self._gates = gates
        tracker = _Compositions(gates)
        follow_storages(gates.model, gates.example_inputs, tracker, prepare=tracker.prepare)
        self._moments = tracker.moments()
        weights = _bytes_of_weights(gates.model)
        self._buffers = weights - _bytes_of_weights(
            gates.model, buffers=False
        )  # they hardly shrink
        self._params = weights - self._buffers
        self.dense = float(weights + tracker.peak)
        ones = torch.ones(1, len(gates))
        self._scale = self.dense / float(self._soft(ones, torch.ones(1, dtype=torch.float64)))

    def exact(self, keep: Tensor) -> float:
        """Predicted peak with hard masks, in bytes."""
        return float(self.exact_many(keep[None])[0])

    def exact_many(self, keeps: Tensor) -> Tensor:
        """Predicted peaks with several hard masks, (K, N) to (K,)."""
        model = self._gates.cost_model
        shares = model.exact_many(keeps)[:, 0].double() / model.dense.params
        return self._params * shares + self._buffers + self._activations(keeps).max(1).values

    def expected(self, probability: Tensor) -> Tensor:
        """Predicted peak when gates are open with some probabilities; smooth."""
        model = self._gates.cost_model
        share = model.expected(probability).params / model.dense.params
        peak: Tensor = self._scale * self._soft(probability[None], share[None])[0]
        return peak

    def measure(self, keep: Tensor) -> float:
        """Peak of the pruned model, measured."""
        model = pruned_copy(self._gates, keep)
        return float(measure_memory(model, self._gates.example_inputs).peak)

    def _soft(self, gates: Tensor, params: Tensor) -> Tensor:
        """Peaks (K,) with a smooth maximum, not yet to scale; ``params`` are shares (K,)."""
        softness = _SOFTNESS * self.dense
        activations: Tensor = softness * torch.logsumexp(self._activations(gates) / softness, 1)
        return self._params * params + self._buffers + activations

    def _activations(self, gates: Tensor) -> Tensor:
        """Bytes of live activations at each moment, (K, N) to (K, moments)."""
        shares = self._gates.cost_model.open_shares(gates)
        shares = torch.cat([shares, shares.new_ones(len(shares), 1)], 1)
        table: Tensor = shares @ self._moments.T.to(shares.device)
        return table


class _Compositions(StorageTracker):
    """Notes of which layers' channels the live storages are made."""

    def __init__(self, gates: GateSet) -> None:
        super().__init__()
        self._sides = gates.cost_model.sides
        self._names = {module: name for name, module in gates.model.named_modules()}
        self._fixed = _unit(len(self._sides), len(self._sides))

    def reset(self) -> None:
        """Forget everything, to start over."""
        super().reset()
        self._rows: dict[int, Tensor] = {}  # by storage: channels that its weights make
        self._parts: dict[int, Tensor] = {}  # by storage: share of each side's channels
        self._bytes: dict[int, Tensor] = {}  # by storage: its bytes by side
        self._total: Tensor | None = None
        self._found: list[Tensor] = []
        self._last: Tensor | None = None

    def prepare(self, model: nn.Module) -> None:
        """Note which channels the weights of each layer make."""
        modules = dict(model.named_modules())
        for parameter in model.parameters():
            if parameter.dim() > 1:
                self._rows[key_of(parameter)] = self._fixed
        for row, (module, side) in enumerate(self._sides):
            if side == "out" and module in self._names:
                for parameter in modules[self._names[module]].parameters():
                    if parameter.dim() > 1:
                        self._rows[key_of(parameter)] = _unit(row, len(self._sides))

    def made(self, function: Any, args: list[Any], outputs: list[Tensor]) -> None:
        """Say of which channels the outputs are."""
        tensors = [leaf for leaf in tree_leaves(args) if _is_float(leaf)]
        weights = [t for t in tensors if t.dim() > 1 and key_of(t) in self._rows]
        parts = [t for t in tensors if key_of(t) in self._parts]
        if weights:
            made = self._rows[key_of(weights[0])]
            if not parts:  # a weight made of weights
                self._rows.update((key_of(t), made) for t in outputs if t.dim() > 1)
                return
        elif parts:
            sizes = torch.tensor([float(t.numel()) for t in parts], dtype=torch.float64)
            made = sizes @ torch.stack([self._parts[key_of(t)] for t in parts]) / sizes.sum()
        else:
            return  # a constant
        for tensor in outputs:
            if not self.holds(tensor):
                self._parts.setdefault(key_of(tensor), made)

    def begin(self, inputs: list[Tensor]) -> None:
        """Count the inputs, whose size is fixed."""
        self._parts.update((key_of(tensor), self._fixed) for tensor in inputs)
        super().begin(inputs)

    def born(self, key: int, size: int) -> None:
        """Add a storage."""
        part = size * self._parts.get(key, self._rows.get(key, self._fixed))
        self._bytes[key] = part
        self._total = part if self._total is None else self._total + part

    def died(self, key: int) -> None:
        """Take a storage away."""
        assert self._total is not None
        self._total = self._total - self._bytes.pop(key)
        self._parts.pop(key, None)
        self._rows.pop(key, None)

    def counted(self) -> None:
        """Note the moments before memory falls."""
        if self._total is None:
            return
        if self._last is not None and float(self._total.sum()) < float(self._last.sum()):
            self._found.append(self._last)
        self._last = self._total

    def moments(self) -> Tensor:
        """Bytes by side (the last: fixed) at moments that may be the peak, (moments, R + 1)."""
        assert self._last is not None, "the input is counted before anything runs"
        table = torch.unique(torch.stack([*self._found, self._last]), dim=0)
        highest = table.sum(1).argsort(descending=True)[:_MOMENTS]
        stiffest = table[:, -1].argsort(descending=True)[:_MOMENTS]
        chosen: Tensor = table[torch.cat([highest, stiffest]).unique()]
        return chosen


def _unit(index: int, size: int) -> Tensor:
    vector = torch.zeros(size + 1, dtype=torch.float64)
    vector[index] = 1
    return vector


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def _bytes_of_weights(model: nn.Module, buffers: bool = True) -> int:
    tensors = [*model.parameters(), *(model.buffers() if buffers else ())]
    return sum({key_of(t): t.untyped_storage().nbytes() for t in tensors}.values())
