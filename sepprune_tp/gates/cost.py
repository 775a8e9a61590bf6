"""Parameters and MACs of the network that a set of gates leaves: exact, or expected and smooth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..graph.assembly import ChannelSet
from ..layers import LayerRule, rule_of
from ..layers.composite import hosts_in
from ..profile import profile

__all__ = ["Cost", "CostModel", "ExpectedCost"]


@dataclass(frozen=True)
class Cost:
    """An exact cost of the whole model on the example input.

    Attributes:
        params: Parameters.
        macs: Multiply-accumulates.
        separator_params: Those of the separator alone.
        separator_macs: Those of the separator alone.
    """

    params: int
    macs: int
    separator_params: int
    separator_macs: int


@dataclass(frozen=True)
class ExpectedCost:
    """The same, as 0-d tensors that are differentiable in the gates."""

    params: Tensor
    macs: Tensor
    separator_params: Tensor
    separator_macs: Tensor


@dataclass(frozen=True)
class _Layer:
    module: nn.Module
    rule: LayerRule
    positions: int
    inputs: int | None  # row of the count matrix, or None: fixed
    outputs: int | None
    n_in: int
    n_out: int
    in_separator: bool


class CostModel:
    """Costs as functions of the gates of some channel sets.

    Every layer's cost is a polynomial of how many of its input and output channels are open, so one
    small matrix product gives all counts.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        sets: list[ChannelSet],
        gate_of: Mapping[int, int],
    ) -> None:
        """Measure a model.

        Args:
            model: The dense model.
            example_inputs: What it is called with; MACs are of this input.
            sets: The gated channel sets.
            gate_of: Component to index of its gate.
        """
        measured = profile(model, example_inputs)
        rows: list[Tensor] = []
        row_of: dict[tuple[nn.Module, str], int] = {}
        count = len(gate_of)
        for site in {id(s): s for c in sets for s in c.sites}.values():
            if not isinstance(site.owner, nn.Module):
                continue
            row = torch.zeros(count + 1, dtype=torch.float64)  # the last column is always open
            for component in site.components.tolist():
                row[gate_of.get(component, count)] += 1
            row_of[site.owner, site.side] = len(rows)
            rows.append(row)
        self._matrix = torch.stack(rows) if rows else torch.zeros(0, count + 1)
        self._layers: list[_Layer] = []
        fixed = [0, 0, 0, 0]
        for entry in measured.rows:
            rule = rule_of(entry.module)
            inside = entry.part == "separator"
            out = row_of.get((entry.module, "out"))
            into = row_of.get((entry.module, "in"))
            if rule is None or (out is None and into is None):
                fixed[0] += entry.params
                fixed[1] += entry.macs
                fixed[2] += entry.params * inside
                fixed[3] += entry.macs * inside
                continue
            if rule.relation == "through":
                into = out
            n_in, n_out = rule.n_in(entry.module), rule.n_out(entry.module)
            unit = rule.macs(entry.module, 1, n_in, n_out)
            positions = entry.macs // unit if unit else 0
            self._layers.append(
                _Layer(entry.module, rule, positions, into, out, n_in, n_out, inside)
            )
        owned = {p for e in measured.rows for p in e.module.parameters()}
        owned |= {p for host in hosts_in(model.modules()) for p in host.parameters()}
        fixed[0] += sum(p.numel() for p in model.parameters() if p not in owned)
        self._bare = [
            (site.owner.numel() // site.components.numel(), site)
            for channel_set in sets
            for site in channel_set.sites
            if isinstance(site.owner, nn.Parameter)
        ]
        self._fixed = fixed
        self._gate_of = dict(gate_of)
        self.dense = self.exact(torch.ones(count, dtype=torch.bool))

    def exact(self, keep: Tensor) -> Cost:
        """Cost with hard masks.

        Args:
            keep: True where a gate is open, shape (N,).

        Returns:
            The cost of the pruned model, exactly.
        """
        counts = self._counts(keep.double().cpu()).round().long().tolist()
        totals = list(self._fixed)
        for layer in self._layers:
            n_in = layer.n_in if layer.inputs is None else counts[layer.inputs]
            n_out = layer.n_out if layer.outputs is None else counts[layer.outputs]
            params = layer.rule.params(layer.module, n_in, n_out)
            macs = layer.rule.macs(layer.module, layer.positions, n_in, n_out)
            for index, value in enumerate((params, macs)):
                totals[index] += value
                totals[index + 2] += value * layer.in_separator
        totals[0] += self._bare_change(keep)
        return Cost(*totals)

    def _bare_change(self, keep: Tensor) -> int:
        closed = 0
        for size, site in self._bare:
            gates = [self._gate_of[c] for c in site.components.tolist() if c in self._gate_of]
            closed += size * int((~keep[gates]).sum())
        return -closed

    def expected(self, probability: Tensor) -> ExpectedCost:
        """Cost when gates are open independently with the given probabilities.

        Args:
            probability: Shape (N,), float.

        Returns:
            Differentiable totals, float64.
        """
        counts = self._counts(probability.double()).unbind(0)
        totals = [
            torch.tensor(float(v), dtype=torch.float64, device=probability.device)
            for v in self._fixed
        ]
        for layer in self._layers:
            n_in = torch.as_tensor(layer.n_in, dtype=torch.float64, device=probability.device)
            n_out = torch.as_tensor(layer.n_out, dtype=torch.float64, device=probability.device)
            if layer.inputs is not None:
                n_in = counts[layer.inputs]
            if layer.outputs is not None:
                n_out = counts[layer.outputs]
            params = layer.rule.params(layer.module, n_in, n_out)
            macs = layer.rule.macs(layer.module, layer.positions, n_in, n_out)
            for index, value in enumerate((params, macs)):
                totals[index] = totals[index] + value
                if layer.in_separator:
                    totals[index + 2] = totals[index + 2] + value
        return ExpectedCost(*totals)

    def _counts(self, gates: Tensor) -> Tensor:
        matrix = self._matrix.to(gates.device)
        return matrix @ torch.cat([gates, gates.new_ones(1)])
