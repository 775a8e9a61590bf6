"""Recurrent layers as linear functions of their weights: what goes into the gates is linear.

What a layer's inputs add to its gates, ``W_ih x + b_ih``, and what its state adds, ``W_hh h +
b_hh``, are a regression each, for every layer and direction.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from .regression import Regression

__all__ = ["RecurrentRegression"]

_RUN = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
}


class RecurrentRegression(Regression):
    """``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` that start from a state of zeros.

    Stages, for each layer: the input weights of its directions, then their state weights. Those
    are fitted to the states of the dense layer: with weights that are yet to be fitted, a pruned
    layer soon is in other states.
    """

    def __init__(self, module: nn.RNNBase) -> None:
        self._module = module
        self._directions = 2 if module.bidirectional else 1
        self.stages = 2 * self._directions * module.num_layers

    def _place(self, stage: int) -> tuple[int, str, int]:
        """Layer, ``ih`` or ``hh``, direction."""
        layer, rest = divmod(stage, 2 * self._directions)
        return layer, "hh" if rest >= self._directions else "ih", rest % self._directions

    def _parameter(self, name: str, stage: int) -> Tensor | None:
        layer, part, direction = self._place(stage)
        found = getattr(self._module, f"{name}_{part}_l{layer}{'_reverse' * direction}", None)
        return cast("Tensor | None", found)

    def _output(self, x: Tensor, layers: int) -> Tensor:
        """Output of the first layers for x (B, T, F) or (T, B, F)."""
        module: Any = self._module
        batch = x.shape[0] if module.batch_first else x.shape[1]
        start = x.new_zeros(self._directions, batch, module.hidden_size)
        for layer in range(layers):
            weights = module.all_weights[layer * self._directions :][: self._directions]
            flat = [weight for direction in weights for weight in direction]
            run: Any = _RUN[module.mode]
            state = (start, start) if module.mode == "LSTM" else start
            x = run(x, state, flat, module.bias, 1, 0.0, False, module.bidirectional,
                    module.batch_first)[0]  # fmt: skip
        return x

    def _read(self, stage: int, x: Tensor) -> Tensor:
        """What the weights of a stage read, like x but with their features."""
        x = x[None] if x.dim() == 2 else x
        layer, part, direction = self._place(stage)
        if part == "ih":
            return self._output(x, layer)
        out = self._output(x, layer + 1)
        hidden = int(self._module.hidden_size)
        own = out[..., direction * hidden : (direction + 1) * hidden]
        time = 1 if self._module.batch_first else 0
        zero = torch.zeros_like(own.narrow(time, 0, 1))
        length = own.shape[time] - 1
        if direction:
            return torch.cat([own.narrow(time, 1, length), zero], time)
        return torch.cat([zero, own.narrow(time, 0, length)], time)

    def rows(self, x: Tensor, y: Tensor) -> int:
        """Every item and frame."""
        return x.numel() // x.shape[-1]

    def features(self, stage: int, x: Tensor, shape: torch.Size, picked: Tensor) -> Tensor:
        """(1, n, features of the layer, or hidden units)."""
        return self._read(stage, x).flatten(0, 1)[picked][None]

    def forced(self, stage: int, x: Tensor, picked: Tensor, keep: Tensor) -> Tensor | None:
        """The kept units of the state, (1, n, kept), for state weights."""
        if self._place(stage)[1] == "ih":
            return None
        return self.features(stage, x, x.shape, picked)[..., keep]

    def targets(self, stage: int, x: Tensor, y: Tensor, picked: Tensor, keep: Tensor) -> Tensor:
        """(1, n, gates * kept hidden units)."""
        weight, bias = self._parameter("weight", stage), self._parameter("bias", stage)
        assert weight is not None
        units = torch.arange(weight.shape[0], device=weight.device)
        rows = units.view(-1, int(self._module.hidden_size))[:, keep].flatten()
        found = self.features(stage, x, y.shape, picked) @ weight[rows].t()
        return found if bias is None else found + bias[rows]

    def weight(self, stage: int) -> Tensor:
        """(1, gates * hidden, F)."""
        weight = self._parameter("weight", stage)
        assert weight is not None
        return weight[None]

    def bias(self, stage: int) -> Tensor | None:
        """(1, gates * hidden)."""
        bias = self._parameter("bias", stage)
        return None if bias is None else bias[None]

    def write(self, stage: int, weight: Tensor, bias: Tensor | None) -> None:
        """Copy."""
        for name, value in (("weight", weight), ("bias", bias)):
            parameter = self._parameter(name, stage)
            if parameter is not None and value is not None:
                parameter.copy_(value[0])
