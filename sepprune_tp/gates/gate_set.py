"""``GateSet``: one gate for each channel of each group, exact with respect to pruning."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from .._unwrap import eagerly, unwrapped
from ..errors import InputError
from ..graph import ChannelGraph, Scope
from ..graph.assembly import ChannelSet
from ..layers.composite import allow_fused_layers, run_by_parts
from .active import Draw, NoHook, begin, check_same_modules, end, named_parts, refuse_gated
from .copying import made_again, restore, state_of
from .cost import Cost, CostModel
from .coverage import main_reasons, unreached, warn_of_little, warn_of_unreached
from .lookahead import Lookahead
from .masks import checked_keep, checked_masks
from .parametrisation import Parametrisation, parametrisation
from .patching import (
    GatedLayer,
    check_fits,
    gated_layers,
    gated_places,
    patch,
    patch_code,
    unpatch,
    unpatch_code,
)
from .resources import Resource, build_resource
from .table import GateGroup, ScoreTable

__all__ = ["GateGroup", "GateSet"]


class GateSet:
    """Gates on the channel groups of a model.

    A gate multiplies what the readers of its channel read (a slice of their weights), once on every
    path, and norms that pool over channels count open channels only: with hard masks the gated
    model computes what the pruned model computes.

    Attributes:
        model: The dense model.
        example_inputs: What costs are measured on.
        groups: The gated groups.
        table: Scores and masks, apart from the model.
        lookahead: Stands in for closed channels; None: they are read as zeros.
        ties: Decides between equal scores, shape (N,): the sensitivity that a search measured.
        resources: Costs that a budget asked for, by name; see :meth:`resource`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU(), nn.Conv1d(8, 1, 3)).eval()
        >>> gates = GateSet(net, torch.randn(1, 1, 16), scope="all")
        >>> [(group.name, group.size) for group in gates.groups]
        [('0', 8)]
        >>> gates.load_masks({"0": torch.arange(8) < 4})
        >>> with gates:
        ...     y = net(torch.randn(1, 1, 16))
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        scope: Scope = "separator",
        kind: str | Parametrisation = "budget",
        seed: int = 0,
        *,
        forward_fn: Callable[[nn.Module, Any], Any] | None = None,
        output_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        """Find the groups of a model and give each channel a gate, all open.

        Args:
            model: The trained dense model, or a wrapper around it (DataParallel, torch.compile...:
                the module inside is gated, and runs uncompiled while the gates are on). It is not
                changed, here or by the search.
            example_inputs: What the model is called with, e.g. a mixture (B, T); costs are those of
                this input.
            scope: ``"separator"``, ``"all"``, or modules of the model.
            kind: ``"budget"`` (ours), ``"gumbel"`` (the paper's), or a ``Parametrisation``.
            seed: Seed of the scores at the start and of the samples.
            forward_fn: Calls the model on the example, instead of ``model(example)``; latency and
                memory cannot be measured with it.
            output_transform: Applied to the outputs of the model before they protect the channels
                that they hold, e.g. ``lambda out: out.logits``.

        Raises:
            InputError: If the scope or kind is unknown, the model has no masker, or other gates are
                on in it.
            GraphError: If the model does not run on the example.
        """
        self.model = model = unwrapped(model)
        refuse_gated(model, "make gates")
        self.scope = scope
        self.kind = parametrisation(kind)
        options: dict[str, Any] = {"forward_fn": forward_fn, "output_transform": output_transform}
        self.graph = ChannelGraph(scope).build_dependency(model, example_inputs, **options)
        prunable = self.graph.prunable_sets()
        self._sets: list[ChannelSet] = [c for c in prunable if c.ungated is None]
        if not self._sets:
            raise InputError(
                f"no channel of {type(model).__name__} can be gated in scope {scope!r}. Reasons:"
                f"{main_reasons(self.graph)}\nTry scope='all' or other modules."
            )
        gate_of: dict[int, int] = {}
        self.groups: list[GateGroup] = []
        for channel_set in self._sets:
            start = len(gate_of)
            gate_of.update((c, start + i) for i, c in enumerate(channel_set.components))
            name = self.graph.name_of(channel_set.root.owner)
            self.groups.append(GateGroup(name, channel_set.size, start))
        self.example_inputs = example_inputs
        self.cost_model = CostModel(
            model, example_inputs, self._sets, gate_of, forward_fn, self.graph
        )
        self.resources: dict[str, Resource] = {}
        self._layers: list[GatedLayer] = gated_layers(self._sets, gate_of, self.graph)
        self._places = gated_places(self.graph.places, self.graph.roots, gate_of)
        self._code: list[nn.Module] = []
        self._parts = self._parts_of_groups(gate_of)
        columns = self._output_columns(gate_of)
        device = next(model.parameters()).device
        self.generator = torch.Generator().manual_seed(seed)
        scores = self.kind.initial(len(gate_of), self.generator).to(device)
        self.table = ScoreTable(self.graph, self.groups, columns, scores, options)
        self.ties: Tensor | None = None
        self.lookahead: Lookahead | None = None
        self._modules = named_parts(model)
        self._unreached = unreached(self.graph)
        self._turned_off()
        warn_of_unreached(self.graph, self._unreached)
        least = self.cost_model.exact(torch.zeros(len(self), dtype=torch.bool)).params
        gated = self.cost_model.dense.params - least
        warn_of_little(self.graph, gated, f"{type(model).__name__} has few gates")

    def _turned_off(self) -> None:
        self._values: Tensor | None = None
        self._hook: Any = None
        self._depth = 0

    def __len__(self) -> int:
        """Number of gates."""
        return int(self.scores.numel())

    def _parts_of_groups(self, gate_of: Mapping[int, int]) -> list[tuple[str, Tensor]]:
        """Layers that hold a part of a group's channels and no others, with the gates of these."""
        found = []
        for channel_set in self._sets:
            for site in channel_set.sites:
                used = site.members().keys()
                if used < set(channel_set.components):
                    gates = torch.tensor([gate_of[c] for c in used])
                    found.append((self.graph.name_of(site.owner), gates))
        return found

    def _output_columns(self, gate_of: dict[int, int]) -> dict[str, Tensor]:
        """For each layer with gated output channels, the gate of each (-1: none)."""
        columns: dict[str, Tensor] = {}
        for channel_set in self._sets:
            for site in channel_set.sites:
                if site.side == "out":
                    values = [gate_of.get(c, -1) for c in site.components.tolist()]
                    columns[self.graph.name_of(site.owner)] = torch.tensor(values)
        return columns

    # -- copies -----------------------------------------------------------------------------------

    def __copy__(self) -> GateSet:
        """Gates on the same model, off, whose scores and masks change by themselves."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.table, twin.resources = copy.copy(self.table), dict(self.resources)
        twin._turned_off()
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        """A deep copy or pickle holds a copy of the model, whose graph is built anew."""
        if self._depth:
            raise InputError("gates that are on cannot be copied or pickled: leave `with` first")
        self._check_model()
        options = self.table.options
        made = (self.model, self.example_inputs, self.scope, self.kind, options)
        return made_again, (type(self), *made), state_of(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what the original knows."""
        restore(self, state)

    # -- masks ------------------------------------------------------------------------------------

    @property
    def scores(self) -> Tensor:
        """Score of each gate, shape (N,), higher is more important."""
        return self.table.scores

    @scores.setter
    def scores(self, scores: Tensor) -> None:
        self.table.scores = scores

    @property
    def learned(self) -> bool:
        """Whether the masks were learned or loaded."""
        return self.table.learned

    @learned.setter
    def learned(self, learned: bool) -> None:
        self.table.learned = learned

    @property
    def keep(self) -> Tensor:
        """True where a gate is open, for all gates at once, shape (N,)."""
        return self.table.keep.clone()

    def masks(self) -> dict[str, Tensor]:
        """Hard masks, by group name; True keeps. Shape (size,), bool, on the CPU."""
        return {group.name: self.table.keep[group.gates].clone() for group in self.groups}

    def load_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Set hard masks.

        Args:
            masks: By group name, bool, shape (size,), True keeps; groups left out stay as they are.

        Raises:
            InputError: If a name, shape or type is wrong, or a group would lose all channels.
        """
        self.table.keep = self._with_masks(masks)
        self.learned = True

    def _with_masks(self, masks: Mapping[str, Tensor]) -> Tensor:
        keep = self.keep
        for group, mask in checked_masks(masks, self.groups).items():
            keep[group.gates] = mask
        for name, part in self._parts:
            if not bool(keep[part].any()):
                raise InputError(
                    f"the masks close all {part.numel()} channels of '{name}', which has a part of "
                    "the group's only: a layer without channels cannot run. Keep one of them"
                )
        return keep

    def set_keep(self, keep: Tensor) -> None:
        """Set the hard masks of all gates at once, shape (N,), bool."""
        keep = checked_keep(keep, len(self))
        self.load_masks({group.name: keep[group.gates] for group in self.groups})

    def cost(self, masks: Mapping[str, Tensor] | None = None) -> Cost:
        """Parameters and MACs of the model that masks leave, exactly.

        Args:
            masks: As for :meth:`load_masks`; default: the present ones.

        Returns:
            The cost on the example input.

        Raises:
            InputError: As :meth:`load_masks`.
        """
        return self.cost_model.exact(self.keep if masks is None else self._with_masks(masks))

    def resource(self, name: str) -> Resource:
        """A cost of the pruned model that a budget can bound, made when first asked for.

        Args:
            name: ``macs``, ``params``, ``separator_macs``, ``separator_params``, or one that was
                registered (``memory``, ``latency``).

        Returns:
            The resource; put another into ``resources`` to replace it.

        Raises:
            BudgetError: If nothing says how to predict it.
        """
        if name not in self.resources:
            self.resources[name] = build_resource(name, self)
        return self.resources[name]

    def output_table(self) -> dict[str, tuple[Tensor, Tensor]]:
        """For each layer with gated outputs: score and keep of each output channel.

        Returns:
            By layer name; scores (n_out,) float32 and keep (n_out,) bool; ungated channels score
            infinity and stay.
        """
        scores = torch.cat([self.scores.detach().float().cpu(), torch.tensor([float("inf")])])
        keep = torch.cat([self.table.keep, torch.tensor([True])])
        return {name: (scores[gates], keep[gates]) for name, gates in self.table.columns.items()}

    # -- gated forward ----------------------------------------------------------------------------

    def __enter__(self) -> GateSet:
        """Turn the gates on: sampled if the model is in training mode, hard masks in eval mode."""
        if self._depth == 0:
            self._check_model()
            begin(self)
        self._depth += 1
        if self._depth == 1:
            self._by_parts = run_by_parts(self.model.modules(), self._closes_some)
            self._by_parts.__enter__()
            self._eagerly = eagerly()  # compiled code would not see the gates
            self._eagerly.__enter__()
            for layer in self._layers:
                patch(layer, lambda: self._values, self.scores.device, self._reading)
            self._code = patch_code(self._places, lambda: self._values)
            self._hook = self.model.register_forward_pre_hook(Draw(self._draw))
            self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Turn the gates off; the model is the dense model again."""
        self._depth -= 1
        if self._depth == 0:
            end(self)
            for layer in self._layers:
                unpatch(layer)
            unpatch_code(self._code)
            self._eagerly.__exit__(None, None, None)
            self._by_parts.__exit__(None, None, None)
            self._hook.remove()
            self._hook, self._values = None, None
        elif isinstance(self._hook, NoHook):  # an inner block gave gates by hand; back to ours
            self._hook = self.model.register_forward_pre_hook(Draw(self._draw))

    def _check_model(self) -> None:
        """Refuse a model that is not the one that the gates were made for any more."""
        for layer in self._layers:
            check_fits(layer, self.graph.name_of(layer.module))
        check_same_modules(self.model, self._modules, self._unreached)

    def look_ahead(self, ridge: float = 1e-2) -> Lookahead:
        """What lets open channels stand in for closed ones, as reconstruction will.

        Run some batches inside its ``observing()`` with all gates open; then put it into the
        attribute ``lookahead``. None there reads closed channels as zeros again.

        Args:
            ridge: Of the regression, relative to the mean energy of a channel.
        """
        return Lookahead(self._layers, ridge)

    def _reading(self, layer: GatedLayer, values: Tensor) -> Tensor | None:
        return None if self.lookahead is None else self.lookahead.reading(layer, values)

    def _closes_some(self) -> bool:
        """Whether some gate may not be fully open in this forward pass."""
        values = self._values
        return values is not None and (values.requires_grad or bool((values != 1).any()))

    def _draw(self, *_: Any) -> None:
        """Fix the gates of the next forward pass."""
        if self.model.training:
            self._values = _with_one(self.kind.sample(self.scores, self.generator))
        else:
            self._values = _with_one(self.table.keep.to(self.scores.device, self.scores.dtype))
        allow_fused_layers(not self._closes_some())

    def use(self, gates: Tensor) -> None:
        """Give the gates of the following forward passes by hand, inside ``with``; shape (N,).

        Raises:
            InputError: Outside of ``with``, or if they are not as many.
        """
        if not self._depth or gates.shape != (len(self),):
            raise InputError(
                f"use() takes {len(self)} gates inside `with gates:`; got {tuple(gates.shape)} "
                f"{'inside' if self._depth else 'outside'}"
            )
        self._hook.remove()
        self._hook = NoHook()
        self._values = _with_one(gates)
        allow_fused_layers(not self._closes_some())

    def output_gates(self, layer: str) -> Tensor | None:
        """The gates of a layer's output channels in the present forward pass, (n_out,), detached.

        Args:
            layer: Dotted name.

        Returns:
            1 where a channel has no gate; None if none of the layer's has one, or the gates are
            off.
        """
        columns = self.table.columns.get(layer)
        if columns is None or self._values is None:
            return None
        return self._values.detach()[columns]

    def gated_modules(self) -> list[nn.Module]:
        """The layers that see masks, in order of execution."""
        return [layer.module for layer in self._layers]

    def group_with(self, layer: str) -> str:
        """Name of a group that a layer belongs to."""
        for group, channel_set in zip(self.groups, self._sets, strict=True):
            if any(self.graph.name_of(site.owner) == layer for site in channel_set.sites):
                return group.name
        return layer

    def group_of(self, index: int) -> GateGroup:
        """The group that a gate belongs to."""
        return next(g for g in self.groups if g.start <= index < g.start + g.size)


def _with_one(gates: Tensor) -> Tensor:
    return torch.cat([gates, gates.new_ones(1)])
