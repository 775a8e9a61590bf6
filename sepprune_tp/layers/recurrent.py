"""LSTM, GRU and RNN: any number of layers, one or two directions, no projections.

A hidden unit is one channel of the whole module: ``nn.LSTM`` has one ``hidden_size`` for all its
layers and directions, so unit ``j`` goes from all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch_pruning.pruner.function import BasePruningFunc

from ..errors import GraphError
from .base import Count, GatedCall, LayerRule, Side, masked
from .recurrent_regression import RecurrentRegression
from .regression import Regression
from .unit_weights import LinearView, recurrent_views

__all__ = ["RecurrentPruner", "RecurrentRule"]

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
"""Rows of the weights for each hidden unit, by ``module.mode`` (torch.nn.modules.rnn)."""


def _gates(module: Any) -> int:
    return _GATES[module.mode]


def _weight_names(module: Any) -> list[tuple[int, str]]:
    suffixes = ["", "_reverse"] if module.bidirectional else [""]
    return [(layer, suffix) for layer in range(module.num_layers) for suffix in suffixes]


class RecurrentPruner(BasePruningFunc):
    """Cuts inputs or hidden units of an LSTM, GRU or RNN."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove hidden units ``idxs`` from all layers and directions."""
        _refuse_projection(layer)
        hidden = layer.hidden_size
        keep = _kept(hidden, idxs)
        rows = [gate * hidden + unit for gate in range(_gates(layer)) for unit in keep]
        directions = 2 if layer.bidirectional else 1
        columns = [d * hidden + unit for d in range(directions) for unit in keep]
        for number, suffix in _weight_names(layer):
            tail = f"l{number}{suffix}"
            self._cut(layer, f"weight_hh_{tail}", rows, keep)
            self._cut(layer, f"weight_ih_{tail}", rows, columns if number else None)
            if layer.bias:
                self._cut(layer, f"bias_ih_{tail}", rows, None)
                self._cut(layer, f"bias_hh_{tail}", rows, None)
        layer.hidden_size = len(keep)
        layer.flatten_parameters()  # in one piece of memory, or cuDNN copies them at every call
        return layer

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove input features ``idxs``, which only the first layer reads."""
        keep = _kept(layer.input_size, idxs)
        for number, suffix in _weight_names(layer):
            if number == 0:
                self._cut(layer, f"weight_ih_l0{suffix}", None, keep)
        layer.input_size = len(keep)
        layer.flatten_parameters()
        return layer

    def _cut(
        self, layer: Any, name: str, rows: list[int] | None, columns: list[int] | None
    ) -> None:
        parameter = getattr(layer, name)
        if rows is not None:
            parameter = self._prune_parameter_and_grad(parameter, rows, 0)
        if columns is not None:
            parameter = self._prune_parameter_and_grad(parameter, columns, 1)
        setattr(layer, name, parameter)

    def get_out_channels(self, layer: Any) -> int:
        """Hidden units."""
        return int(layer.hidden_size)

    def get_in_channels(self, layer: Any) -> int:
        """Input features."""
        return int(layer.input_size)


def _kept(size: int, removed: Sequence[int]) -> list[int]:
    return sorted(set(range(size)) - set(removed))


def _refuse_projection(layer: Any) -> None:
    if layer.proj_size:
        raise GraphError(
            f"an LSTM with proj_size={layer.proj_size} cannot be pruned: its hidden units and its "
            "outputs are different channels. Rebuild it with proj_size=0 and a Linear behind it."
        )


class RecurrentRule(LayerRule):
    """``nn.LSTM``, ``nn.GRU`` and ``nn.RNN``: features on the last axis."""

    kind = "rnn"
    _pruner = RecurrentPruner()

    def pruner(self, module: Any) -> BasePruningFunc:
        return self._pruner

    def refuses(self, module: Any) -> str | None:
        if module.proj_size:
            return f"an LSTM with proj_size={module.proj_size}: outputs are not its hidden units"
        return None

    def linear_views(self, module: Any, side: Side) -> list[LinearView]:
        return recurrent_views(module, side, _gates(module))

    def axis(self, module: Any, tensor: Tensor) -> int:
        return tensor.dim() - 1

    def output(self, output: Any) -> Tensor:
        first = output[0]
        return first.data if isinstance(first, PackedSequence) else first

    def output_index(self, module: Any) -> list[int]:
        hidden = self.n_out(module)
        return [unit for _ in range(_directions(module)) for unit in range(hidden)]

    def remembers(self, module: Any) -> bool:
        return True

    def mixes(self, module: Any) -> bool:
        return True

    def run_gated(self, module: Any, call: GatedCall) -> Any:
        if call.mask_in is None and call.mask_out is None:
            return call.plain()
        assert isinstance(module, nn.RNNBase)
        names, saved = module._flat_weights_names, module._flat_weights
        module._flat_weights = [
            _gated_weight(module, name, weight, call.mask_in, call.mask_out)
            for name, weight in zip(names, saved, strict=True)
        ]
        try:
            return call.plain()
        finally:
            module._flat_weights = saved

    def regression(self, module: Any) -> Regression | None:
        plain = "weight_ih_l0" in module._parameters and not module.proj_size
        return RecurrentRegression(module) if plain else None

    def positions(self, module: Any, inputs: tuple[Any, ...], output: Any) -> int:
        tensor = self.output(output)
        return tensor.numel() // tensor.shape[-1]

    def macs(self, module: Any, positions: int, n_in: Count, n_out: Count) -> Count:
        return self._weights(module, n_in, n_out) * positions

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        assert isinstance(module, nn.RNNBase)
        biases = 2 * _gates(module) * _directions(module) * module.num_layers * bool(module.bias)
        return self._weights(module, n_in, n_out) + n_out * biases

    def _weights(self, module: Any, n_in: Count, n_out: Count) -> Count:
        assert isinstance(module, nn.RNNBase)
        directions = _directions(module)
        first = n_out * (n_in + n_out)
        others = n_out * n_out * ((directions + 1) * (module.num_layers - 1))
        return (first + others) * (_gates(module) * directions)


def _directions(module: Any) -> int:
    return 2 if module.bidirectional else 1


def _gated_weight(
    module: Any, name: str, weight: Tensor | None, mask_in: Tensor | None, mask_out: Tensor | None
) -> Tensor | None:
    """Scale the columns of one weight by the gates of the channels that they read."""
    if name.startswith("weight_hh"):
        mask = mask_out
    elif name.startswith("weight_ih_l0"):
        mask = mask_in
    elif name.startswith("weight_ih"):
        mask = None if mask_out is None else torch.cat([mask_out] * _directions(module))
    else:
        mask = None
    return weight if mask is None or weight is None else masked(weight, mask, 1)
