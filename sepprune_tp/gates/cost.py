"""Parameters and MACs of the network that a set of gates leaves: exact, or expected and smooth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..graph import ChannelGraph
from ..graph.assembly import ChannelSet
from ..layers import LayerRule, rule_of
from ..layers.bare import BareAxis, BareAxisRule, BareTensor
from ..layers.base import Count, Side
from ..layers.composite import hosts_in
from ..layers.custom import CustomRule
from ..profile import part_of, profile

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
    repeated: tuple[tuple[int, tuple[Side, ...]], ...] = ()

    def params(self, n_in: Count, n_out: Count) -> Count:
        """Parameters that no earlier layer holds."""
        total = self.rule.params(self.module, n_in, n_out)
        for size, sides in self.repeated:
            held = n_out * 0 + size
            for side in sides:
                held = held * (n_in if side == "in" else n_out if side == "out" else 1)
            total = total - held
        return total

    def macs(self, n_in: Count, n_out: Count) -> Count:
        """Multiply-accumulates."""
        return self.rule.macs(self.module, self.positions, n_in, n_out)


def _repeated(
    module: nn.Module, rule: LayerRule, seen: set[nn.Parameter]
) -> tuple[tuple[int, tuple[Side, ...]], ...]:
    """Parameters that an earlier layer holds: size of the axes without channels, and all axes."""
    found = []
    sides = rule.sides(module)
    for name, parameter in module.named_parameters():
        if parameter in seen and name in sides:
            fixed = zip(sides[name], parameter.shape, strict=True)
            found.append((math.prod(n for side, n in fixed if side is None), sides[name]))
    seen.update(module.parameters())
    return tuple(found)


class _Table:
    """Costs of all layers at once, as polynomials of the numbers of open channels.

    Attributes:
        in_separator: 1 for each layer of the separator, shape (L,), float64.
    """

    def __init__(self, layers: list[_Layer]) -> None:
        self._layers = layers
        self.in_separator = torch.tensor([float(e.in_separator) for e in layers]).double()
        # without gates a side counts as one more channel, which the coefficients scale up again
        self._inputs = torch.tensor([-1 if e.inputs is None else e.inputs for e in layers]).long()
        self._outputs = torch.tensor(
            [-1 if e.outputs is None else e.outputs for e in layers]
        ).long()
        self._n_in = torch.tensor([float(e.n_in) for e in layers]).double()
        self._n_out = torch.tensor([float(e.n_out) for e in layers]).double()
        found = [_coefficients(e) for e in layers]
        self._coefficients = torch.stack(found) if found else torch.zeros(0, 6, 2).double()

    def __call__(self, counts: Tensor) -> Tensor:
        """Open channels (K, R) to parameters and MACs of each layer (K, L, 2)."""
        n_in = self._side(counts, self._inputs, self._n_in)
        n_out = self._side(counts, self._outputs, self._n_out)
        return torch.einsum("kld,ldc->klc", _powers(n_in, n_out), self._coefficients.to(counts))

    def _side(self, counts: Tensor, rows: Tensor, fixed: Tensor) -> Tensor:
        rows = rows.to(counts.device)
        if not len(counts[0]):
            return fixed.expand(len(counts), -1)
        return torch.where(rows < 0, fixed.to(counts), counts[:, rows.clamp(min=0)])


_POINTS = ((0, 0), (1, 0), (0, 1), (2, 0), (0, 2), (1, 1))  # six values settle six coefficients


def _powers(n_in: Tensor, n_out: Tensor) -> Tensor:
    """1, i, o, i^2, o^2, i o along a new last axis."""
    return torch.stack([n_in * 0 + 1, n_in, n_out, n_in**2, n_out**2, n_in * n_out], -1)


def _coefficients(layer: _Layer) -> Tensor:
    """Coefficients of the powers for parameters and MACs, shape (6, 2), float64."""
    points = torch.tensor([*_POINTS, (layer.n_in, layer.n_out)], dtype=torch.float64)
    n_in, n_out = points.unbind(1)
    values = torch.stack([n_in * 0 + layer.params(n_in, n_out), n_in * 0 + layer.macs(n_in, n_out)])
    at = dict(zip(_POINTS, values[:, :-1].unbind(1), strict=True))
    zero = at[0, 0]
    i_2 = (at[2, 0] - 2 * at[1, 0] + zero) / 2
    o_2 = (at[0, 2] - 2 * at[0, 1] + zero) / 2
    i_1, o_1 = at[1, 0] - zero - i_2, at[0, 1] - zero - o_2
    both = at[1, 1] - at[1, 0] - at[0, 1] + zero
    found = torch.stack([zero, i_1, o_1, i_2, o_2, both])
    again = _powers(n_in[-1], n_out[-1]) @ found
    assert torch.allclose(again, values[:, -1], rtol=1e-9), "a rule's cost has degree 2 at most"
    return found


class _Grid(nn.Module):
    """A bare parameter of which two axes are cut."""

    def __init__(self, axes: list[BareAxis]) -> None:
        super().__init__()
        self.axes: Any = tuple(axes)  # in a tuple: they are no submodules


class _GridRule(BareAxisRule):
    """Its parameters go with both."""

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        first, second = module.axes
        shape: torch.Size = first.tensor.shape
        rest: int = math.prod(shape) // (shape[first.dim] * shape[second.dim])
        return n_in * n_out * (0 if first.key in first.host._buffers else rest)


_GRID = _GridRule()


class _Outside:
    """Costs of what is computed outside of layers with a rule.

    Attributes:
        macs: For each layer or bare weight that runs by calls: its MACs.
        fixed: MACs that no gate changes, or not yet: in all, and in the separator.
        per_gate: What each gate closes of the figures of a cost, shape (N, 4), float64.
    """

    def __init__(
        self,
        model: nn.Module,
        places: Mapping[Any, list[int]],
        graph: ChannelGraph | None,
        sets: list[ChannelSet],
        gate_of: Mapping[int, int],
    ) -> None:
        self._model, self._graph = model, graph
        self._names = {module: name for name, module in model.named_modules()}
        self.fixed = [0, 0]
        self.per_gate = torch.zeros(len(gate_of), 4, dtype=torch.float64)
        self.macs: dict[nn.Module, int] = {}
        self._axes: dict[tuple[nn.Module, str], list[BareAxis]] = {}
        for site in {id(s): s for c in sets for s in c.sites}.values():
            self._take(site, gate_of)
        for (module, key), counted in places.items():
            inside = part_of(self._names.get(module, ""), model) == "separator"
            known = [] if graph is None else graph.products.get((module, key), [])
            for number, macs in enumerate(counted):
                goes_with = known[number % len(known)] if known else None
                self.count(goes_with, macs, inside, gate_of)

    def _take(self, site: Any, gate_of: Mapping[int, int]) -> None:
        owner, graph = site.owner, self._graph
        if isinstance(owner, BareAxis):
            axes = self._axes.setdefault((owner.host, owner.key), [])
            if owner not in axes:
                axes.append(owner)
            if owner.key in owner.host._parameters and not self._is_grid(owner):
                self._lose(site, owner.tensor.numel(), gate_of)
        elif isinstance(owner, nn.Parameter):
            self._lose(site, owner.numel(), gate_of)
        elif graph is not None and owner in graph.by_calls:
            rule = graph.rules.get(owner)
            if rule is not None and not isinstance(rule, CustomRule):
                self.macs.setdefault(owner, 0)

    def _is_grid(self, owner: BareAxis) -> bool:
        graph = self._graph
        same = [] if graph is None else [o for o in graph.rules if isinstance(o, BareAxis)]
        return sum((o.host, o.key) == (owner.host, owner.key) for o in same) > 1

    def _lose(self, site: Any, count: int, gate_of: Mapping[int, int]) -> None:
        """Parameters that go with channels, one entry each."""
        for component in site.components.tolist():
            if component in gate_of:
                self.per_gate[gate_of[component], 0] += count // site.components.numel()

    def beside(self, module: nn.Module) -> Tensor | None:
        """The channels that a layer runs for, each alike; None for most layers."""
        return None if self._graph is None else self._graph.beside.get(module)

    def count(self, goes_with: Any, macs: int, inside: bool, gate_of: Mapping[int, int]) -> None:
        """Note MACs and what they go with: a layer, labels (in proportion), or None."""
        if isinstance(goes_with, nn.Module) and goes_with in self.macs:
            self.macs[goes_with] += macs
            return
        self.fixed[0] += macs
        self.fixed[1] += macs * inside
        if isinstance(goes_with, Tensor) and self._graph is not None:
            roots = self._graph.roots[goes_with.flatten().long()]
            values, counts = torch.unique(roots, return_counts=True)
            for component, number in zip(values.tolist(), counts.tolist(), strict=True):
                if component in gate_of:
                    share = macs * number / roots.numel()
                    self.per_gate[gate_of[component], 1] += share
                    self.per_gate[gate_of[component], 3] += share * inside

    def held_by(self, module: nn.Module) -> int:
        """Parameters of a module that are counted here as layers."""
        held = [(o.host, o.key) for o in self.macs if isinstance(o, BareTensor)]
        held += [key for key, axes in self._axes.items() if len(axes) > 1]
        tensors = [host._parameters.get(key) for host, key in dict.fromkeys(held) if host is module]
        return sum(tensor.numel() for tensor in tensors if tensor is not None)

    def layers(self) -> Iterator[tuple[nn.Module, LayerRule, int, bool]]:
        """Layers and bare weights with their rules and MACs; whether in the separator."""
        assert self._graph is not None or not self.macs
        for owner, macs in self.macs.items():
            name = self._graph.name_of(owner) if self._graph is not None else ""
            inside = part_of(name, self._model) == "separator"
            yield owner, self._graph.rules[owner], macs, inside  # type: ignore[union-attr]

    def grids(self) -> Iterator[tuple[Any, bool]]:
        """Bare parameters of which two axes are cut."""
        for (host, _), axes in self._axes.items():
            if len(axes) > 1:
                inside = part_of(self._names.get(host, ""), self._model) == "separator"
                yield _Grid(axes[:2]), inside


class CostModel:
    """Costs as functions of the gates of some channel sets.

    Every layer's cost is a polynomial of how many of its input and output channels are open, so one
    small matrix product gives all counts, and one table of coefficients all costs.

    Attributes:
        dense: Cost with all gates open.
        sides: Layer and side (``in`` or ``out``) of each row of :meth:`open_shares`.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        sets: list[ChannelSet],
        gate_of: Mapping[int, int],
        forward_fn: Callable[[nn.Module, Any], Any] | None = None,
        graph: ChannelGraph | None = None,
    ) -> None:
        """Measure a model.

        Args:
            model: The dense model.
            example_inputs: What it is called with; MACs are of this input.
            sets: The gated channel sets.
            gate_of: Component to index of its gate.
            forward_fn: Calls the model on the example, instead of ``model(example)``.
            graph: The graph of the sets: it knows what is computed outside of layers.
        """
        measured = profile(model, example_inputs, forward_fn)
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
        table = torch.stack(rows) if rows else torch.zeros(0, count + 1, dtype=torch.float64)
        self._always, self._channels = table[:, -1], table.sum(1)
        # most gates of a group stand on the same sides: one column for all of them
        self._columns, self._column_of = torch.unique(table[:, :-1], dim=1, return_inverse=True)
        self.sides = list(row_of)
        self._layers: list[_Layer] = []
        fixed = [0, 0, 0, 0]
        seen: set[nn.Parameter] = set()
        outside = _Outside(model, measured.places, graph, sets, gate_of)
        for entry in measured.rows:
            if entry.kind in ("weight", "product") or entry.module in outside.macs:
                continue  # counted by what runs
            rule = rule_of(entry.module)
            repeated = () if rule is None else _repeated(entry.module, rule, seen)
            inside = entry.part == "separator"
            out = row_of.get((entry.module, "out"))
            into = row_of.get((entry.module, "in"))
            if rule is None or (out is None and into is None):
                params = entry.params - outside.held_by(entry.module)
                fixed[0] += params
                fixed[2] += params * inside
                outside.count(outside.beside(entry.module), entry.macs, inside, gate_of)
                continue
            if rule.relation == "through":
                into = out
            n_in, n_out = rule.n_in(entry.module), rule.n_out(entry.module)
            unit = rule.macs(entry.module, 1, n_in, n_out)
            positions = entry.macs // unit if unit else 0
            self._layers.append(
                _Layer(entry.module, rule, positions, into, out, n_in, n_out, inside, repeated)
            )
        for owner, rule, macs, inside in outside.layers():
            into, out = row_of.get((owner, "in")), row_of.get((owner, "out"))
            n_in, n_out = rule.n_in(owner), rule.n_out(owner)
            unit = rule.macs(owner, 1, n_in, n_out)
            into = out if rule.relation == "through" else into
            self._layers.append(
                _Layer(owner, rule, macs // unit if unit else 0, into, out, n_in, n_out, inside)
            )
        for host, inside in outside.grids():
            first, second = (row_of[axis, "out"] for axis in host.axes)
            n_in, n_out = (int(axis.tensor.shape[axis.dim]) for axis in host.axes)
            self._layers.append(_Layer(host, _GRID, 0, first, second, n_in, n_out, inside))
        fixed[1] += outside.fixed[0]
        fixed[3] += outside.fixed[1]
        owned = {p for e in measured.rows for p in e.module.parameters()}
        owned |= {p for host in hosts_in(model.modules()) for p in host.parameters()}
        fixed[0] += sum(p.numel() for p in model.parameters() if p not in owned)
        self._bare = outside.per_gate
        self._fixed = fixed
        self._table = _Table(self._layers)
        self.dense = self.exact(torch.ones(count, dtype=torch.bool))

    def exact(self, keep: Tensor) -> Cost:
        """Cost with hard masks.

        Args:
            keep: True where a gate is open, shape (N,).

        Returns:
            The cost of the pruned model, exactly.
        """
        return Cost(*self.exact_many(keep[None])[0].tolist())

    def exact_many(self, keeps: Tensor) -> Tensor:
        """Costs with several hard masks.

        Args:
            keeps: Shape (K, N), bool.

        Returns:
            Shape (K, 4), int64: the figures of :class:`Cost`, in its order.
        """
        open_ = keeps.double().cpu()
        layers = self._table(self._counts(open_)).round()
        totals = self._totals(layers, open_)
        return totals.round().long()

    def expected(self, probability: Tensor) -> ExpectedCost:
        """Cost when gates are open independently with the given probabilities.

        Args:
            probability: Shape (N,), float.

        Returns:
            Differentiable totals, float64.
        """
        open_ = probability.double()[None]
        layers = self._table(self._counts(open_))
        return ExpectedCost(*self._totals(layers, open_)[0].unbind())

    def _totals(self, layers: Tensor, open_: Tensor) -> Tensor:
        """Params and MACs of each layer (K, L, 2) to the figures of a cost, (K, 4)."""
        inside = self._table.in_separator.to(layers.device)
        whole, part = layers.sum(1), (layers * inside[:, None]).sum(1)
        bare = (open_ - 1) @ self._bare.to(open_.device)
        fixed = torch.tensor(self._fixed, dtype=torch.float64, device=layers.device)
        return fixed + bare + torch.stack([whole[:, 0], whole[:, 1], part[:, 0], part[:, 1]], 1)

    def open_shares(self, gates: Tensor) -> Tensor:
        """Share of open channels on each side of each layer, in the order of ``sides``.

        Args:
            gates: Gates or probabilities, shape (K, N).

        Returns:
            Shape (K, R), float64.
        """
        return self._counts(gates.double()) / self._channels.to(gates.device)

    def _counts(self, gates: Tensor) -> Tensor:
        """Open channels on each side of each layer: gates (K, N) to (K, R).

        Raises:
            InputError: If they are not as many as the gates of the model.
        """
        count = len(self._column_of)
        if gates.dim() != 2 or gates.shape[1] != count:
            raise InputError(
                f"the cost of {count} gates was asked for {tuple(gates.shape[1:])} of them: give "
                f"masks or probabilities of shape ({count},)"
            )
        sums = gates.new_zeros(len(gates), self._columns.shape[1])
        sums = sums.index_add(1, self._column_of.to(gates.device), gates)
        counts: Tensor = sums @ self._columns.T.to(gates.device)
        return counts + self._always.to(gates.device)
