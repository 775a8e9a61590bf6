"""Gates that look ahead to reconstruction: open channels stand in for the closed ones.

After pruning, least squares gives the layers that read a group new weights, so that the channels
that stay make up for those that went (:func:`sepprune_tp.reconstruct`). A search that does not know
this pays for channels that others can replace. With a look ahead, a gated layer does not read
``g * x``, with zeros for what is closed, but the best linear guess of x from ``g * x``.

Letters: C channels that a layer reads, g their gates (C,), N gates in all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .._modes import device_of
from .patching import GatedLayer

__all__ = ["Lookahead", "guess"]

_WIDEST = 2048  # channels; a wider layer reads its gates as they are: its solves would take longest


class Lookahead:
    """Second moments of what gated layers read, and the guesses that follow from them.

    Attributes:
        moments: For each different input, the mean of x xᵀ over the positions that were seen,
            shape (C, C). Layers that read the same tensor share it.
        ridge: Added to their diagonal, as a share of its mean.
    """

    def __init__(self, layers: Sequence[GatedLayer], ridge: float = 1e-2) -> None:
        """Take the layers that can read a mixture of their channels.

        Args:
            layers: Gated layers.
            ridge: Added to the moments' diagonal, as a share of its mean.
        """
        self._readers = {
            layer.module: layer
            for layer in layers
            if layer.index_in is not None
            and layer.index_in.numel() <= _WIDEST
            and layer.rule.mixes(layer.module)
        }
        self.ridge = ridge
        self.moments: list[Tensor] = []
        self._source: dict[nn.Module, int] = {}
        self._values: Tensor | None = None
        self._guesses: dict[int, Tensor] = {}

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Add what the layers read in one forward pass of the model, all gates open."""
        seen: dict[nn.Module, list[Tensor]] = {}

        def watch(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor):
                seen.setdefault(module, []).append(args[0].detach())

        with ExitStack() as stack:
            for module in self._readers:
                stack.callback(module.register_forward_pre_hook(watch).remove)
            yield
        self._add(seen)

    def _add(self, seen: dict[nn.Module, list[Tensor]]) -> None:
        if not self._source:
            self._share(seen)
        done: set[int] = set()
        for module, inputs in seen.items():
            source = self._source.get(module)
            if source is not None and source not in done:
                done.add(source)
                layer = self._readers[module]
                for x in inputs:
                    self.moments[source] += _moments(x, layer.rule.axis(module, x))

    def _share(self, seen: dict[nn.Module, list[Tensor]]) -> None:
        """Give one matrix to all layers that read the same tensors through the same gates."""
        known: dict[Any, int] = {}
        for module, inputs in seen.items():
            index = self._readers[module].index_in
            assert index is not None
            key = (tuple(x.data_ptr() for x in inputs), tuple(index.tolist()))
            if key not in known:
                known[key] = len(self.moments)
                x, count = inputs[0], index.numel()
                self.moments.append(x.new_zeros(count, count, dtype=torch.float64))
            self._source[module] = known[key]

    def reading(self, layer: GatedLayer, values: Tensor) -> Tensor | None:
        """What a layer reads its input through.

        Args:
            layer: The layer.
            values: Gates of the present forward pass, (N + 1,), the last 1.

        Returns:
            Shape (C, C), differentiable in the gates; None for a layer that has not been seen or
            cannot read a mixture.
        """
        source = self._source.get(layer.module)
        if source is None or layer.index_in is None:
            return None
        if values is not self._values:
            self._values, self._guesses = values, {}
        if source not in self._guesses:
            gates = values[layer.index_in]
            moments = self.moments[source].to(device=gates.device, dtype=gates.dtype)
            with torch.autocast(gates.device.type, enabled=False):
                self._guesses[source] = guess(moments, gates, self.ridge)
        return self._guesses[source]

    def state(self) -> dict[str, Any]:
        """What a resumed search needs."""
        return {"moments": self.moments, "source": [self._source.get(m) for m in self._readers]}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state` gave.

        Raises:
            ValueError: If it is of other layers.
        """
        for layer, source in zip(self._readers.values(), state["source"], strict=True):
            if source is None:
                continue
            if type(source) is not int or not 0 <= source < len(state["moments"]):
                raise ValueError(f"there are no moments {source!r:.40}")
            moment, size = state["moments"][source], 0
            if layer.index_in is not None:
                size = layer.index_in.numel()
            fits = isinstance(moment, Tensor) and moment.shape == (size, size)
            if not fits or moment.dtype != torch.float64:
                raise ValueError(f"moments are not of {size} channels")
        self._source = {
            module: source
            for module, source in zip(self._readers, state["source"], strict=True)
            if source is not None
        }
        device = {source: device_of(module) for module, source in self._source.items()}
        self.moments = [moment.to(device[i]) for i, moment in enumerate(state["moments"])]


def guess(moments: Tensor, gates: Tensor, ridge: float) -> Tensor:
    """The map R from x to the best linear guess of x that sees only ``gates * x``.

    With D = diag(g) and K the moments, ``R = (I + (I - D) K D A⁻¹) D``, where
    ``A = D K D + diag(g (1 - g)) diag(K) + ridge * mean(diag(K)) I``. For hard gates this is ridge
    regression of the closed channels on the open ones. Between 0 and 1 a gate counts as the
    probability that its channel is there: without the term in g (1 - g) the guess would undo every
    gate but an exact 0 by a gain. All gates open: R = I, exactly.

    Args:
        moments: K, shape (C, C), symmetric.
        gates: g, shape (C,), in [0, 1].
        ridge: Above 0.

    Returns:
        Shape (C, C).
    """
    energy = moments.diagonal()
    floor = (ridge * energy.mean()).clamp(min=torch.finfo(moments.dtype).tiny)
    opened = gates[:, None] * moments
    known = opened * gates + torch.diag(gates * (1 - gates) * energy + floor)
    guessed = torch.linalg.solve(known, opened * (1 - gates)).T
    kept = torch.eye(gates.numel(), dtype=gates.dtype, device=gates.device)
    found: Tensor = (guessed + kept) * gates
    return found


def _moments(x: Tensor, axis: int) -> Tensor:
    """Mean of x xᵀ over all positions, (C, C), float64."""
    rows = x.movedim(axis, -1).flatten(0, -2)
    return (rows.T @ rows).double() / max(1, len(rows))
