"""``ChannelGraph``: torch-pruning's dependency graph, found by labelling channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch_pruning import ops
from torch_pruning.dependency import Node
from torch_pruning.pruner.function import BasePruningFunc, PrunerBox

from .._unwrap import eagerly, keep_random_state, unwrapped
from ..architectures import adapters_in
from ..errors import GraphError
from ..layers import rule_of
from ..layers.bare import BareAxis, BareTensor
from ..layers.composite import named_layers
from ..layers.custom import custom_rules
from .assembly import ChannelSet, Owner, Site, assemble, resolve
from .choosing import group_of_channels, keeps_a_channel
from .cutting import cut_group
from .explanation import Explanation, explain
from .functions import TiedPruner, complete_gradients, passes_filter
from .gating import Places
from .group import ChannelGroup, GroupUnion, build_group, parameter_node
from .hypotheses import prove
from .labels import Channels, Place
from .limits import off_limits, with_parts
from .overview import Report, report
from .proof_memory import recall, remember, signature
from .prove import Bench, Proof, Width
from .rectangles import settle
from .running import forward, trace_shortest
from .scope import Scope, check_scope, modules_in_scope
from .sharing import Holder
from .tracer import Tracer

__all__ = ["ChannelGraph"]


class ChannelGraph(tp.DependencyGraph):
    """Dependency graph from channel labels; yields ordinary ``tp.Group`` objects.

    The model is run once, eagerly; beside every tensor travel the labels of the channels that its
    elements came from, so reshapes, permutations, folds and splits are exact. What cannot be
    followed protects its channels: see :attr:`protected`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU(), nn.Conv1d(8, 1, 3))
        >>> graph = ChannelGraph(scope="all").build_dependency(net, torch.randn(1, 1, 16))
        >>> [(name, group.channel_set.size) for name, group in graph.named_groups()]
        [('0', 8)]
    """

    def __init__(self, scope: Scope = "separator", trial: bool = True) -> None:
        """Make an empty graph.

        Args:
            scope: Where channels may be pruned: ``"separator"`` (inside the masker only),
                ``"all"``, or a list of modules.
            trial: Whether to compare a gated and a cut copy of the model by value, and to protect
                what differs; see :mod:`sepprune_tp.graph.prove`. What it found is in :attr:`tried`.
        """
        super().__init__()
        self.trial = trial
        self.tried = Proof(skipped="no graph was built")
        self.scope: Scope = check_scope(scope)
        self.sets: list[ChannelSet] = []
        self._outside: dict[int, tuple[str, Site]] = {}
        self._sites: dict[tuple[Owner, str], Site] = {}
        self._sets_of: dict[Owner, list[int]] = {}
        self.channels = Channels()
        self.refused: dict[nn.Module, str] = {}
        self._parameter_dims: dict[nn.Parameter, int] = {}
        self._through: set[Owner] = set()
        self.roots = torch.zeros(1, dtype=torch.long)
        self.by_calls: set[nn.Module] = set()
        self.ran: set[nn.Module] = set()
        self.rules: dict[nn.Module, Any] = {}
        self.places: Places = {}
        self.products: dict[Any, list[Any]] = {}
        self.beside: dict[nn.Module, torch.Tensor] = {}
        self.axes: dict[int, int] = {}
        self.ties: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.widths: list[Width] = []
        self._inside: set[nn.Module] | None = None
        self.shared: list[list[Holder]] = []
        self._pruners: dict[nn.Module, BasePruningFunc] = {}

    # -- building ---------------------------------------------------------------------------------

    def build_dependency(
        self,
        model: nn.Module,
        example_inputs: Any,
        forward_fn: Callable[[nn.Module, Any], Any] | None = None,
        output_transform: Callable[[Any], Any] | None = None,
        unwrapped_parameters: Any = None,
        customized_pruners: Any = None,
        ignored_layers: list[nn.Module] | None = None,
        ignored_params: list[nn.Parameter] | None = None,
        verbose: bool = True,
    ) -> ChannelGraph:
        """Trace a model and find its groups; the arguments are torch-pruning's.

        Args:
            model: The model, or a wrapper around it (see ``_unwrap``); its train/eval modes are
                left as they are.
            example_inputs: A tensor, a tuple or list of arguments, or a dict of keyword arguments.
            forward_fn: Calls the model on the example, instead of ``model(example)``.
            output_transform: Applied to the outputs, which protect the channels that they hold.
            unwrapped_parameters: Accepted; bare parameters are found by themselves.
            customized_pruners: Layer type or instance to pruning functions.
            ignored_layers: Layers whose channels are protected.
            ignored_params: Bare parameters that are not cut.
            verbose: Accepted.

        Returns:
            The graph itself.

        Raises:
            GraphError: If the model does not run on the example.
            InputError: If the scope does not fit the model, or it is TorchScript.
        """
        model = unwrapped(model)
        self.model, self.verbose = model, verbose
        self._module2name = {module: name for name, module in named_layers(model)}
        self._param_to_name = {p: n for n, p in model.named_parameters()}
        self.unwrapped_parameters = list(unwrapped_parameters or [])
        self.ignored_params = list(ignored_params or [])
        self.IGNORED_LAYERS_IN_TRACING.extend(ignored_layers or [])
        for kind, pruner in (customized_pruners or {}).items():
            self.register_customized_layer(kind, pruner)
        self._inside = modules_in_scope(self.scope, model)
        custom = custom_rules(model, self.CUSTOMIZED_PRUNERS, rule_of)
        tracer, inputs = trace_shortest(model, example_inputs, forward_fn, output_transform, custom)
        self._gather(tracer)
        self.form()
        self._prove(inputs, forward_fn, output_transform)
        return self

    def _gather(self, tracer: Tracer) -> None:
        """Take over what a trace left, once for all hypotheses."""
        for module, adapter in adapters_in(self.model):
            tracer.channels.meet_at(Place("shared width", self.name_of(module)))
            for tie in adapter.ties(module):
                tracer.tie(tie.first, tie.second, tie.index)
        self._tracer = tracer
        self.refused, self.by_calls = tracer.refused, tracer.by_calls
        self.ran = tracer.ran
        self._parameter_dims = tracer.parameter_dims
        self._pruners = {  # for good: a cut may give a layer another rule, such as one of groups
            owner: sites.rule.pruner(owner)
            for owner, sites in tracer.sites.items()
            if sites.rule is not None and isinstance(owner, nn.Module)
        }
        self.rules = {o: s.rule for o, s in tracer.sites.items() if isinstance(o, nn.Module)}
        self.shared = list(tracer.shared.values())
        taken: set[str] = set()
        for owner in tracer.sites:
            if isinstance(owner, BareTensor):
                host = self._module2name[owner.host]
                name = f"{host}.{owner.key}" if host else owner.key
                if name in taken and isinstance(owner, BareAxis):
                    name = f"{name} (axis {owner.dim})"
                taken.add(name)
                self._module2name[owner] = name
        self.module2node = {owner: self._make_node(owner) for owner in tracer.sites}
        self.places, self.products = tracer.places, tracer.products
        self.beside = tracer.beside
        self.axes, self.ties, self.widths = {}, [], []

    def form(self) -> None:
        """Form the sets under the present hypotheses (``axes`` and ``ties``)."""
        tracer = self._tracer
        channels = tracer.channels.copy()
        channels.meet_at(Place("widths that the code compares"))
        for one, other in self.ties:
            for a, b in zip(one.tolist(), other.tolist(), strict=True):
                channels.unite(a, b)
        settle(tracer.rectangles, channels, tracer.made(), tracer.bundles, self.axes)
        self.channels, self.roots = channels, channels.roots()
        self._protect_mixed_places(channels)
        self._through = {
            owner
            for owner, sites in tracer.sites.items()
            if sites.rule is None or sites.rule.relation == "through"
        }
        sites = resolve(tracer.sites, channels)
        self._through -= self._making(sites)
        self._sites = {(site.owner, site.side): site for site in sites}
        self.sets = assemble(sites, channels, self._through)
        self._sets_of, self._outside = {}, {}
        for number, channel_set in enumerate(self.sets):
            for owner in dict.fromkeys(site.owner for site in channel_set.sites):
                self._sets_of.setdefault(owner, []).append(number)
            why = None if channel_set.reason else off_limits(self, channel_set, self._inside)
            if why is not None:
                self._outside[number] = why
        for fn in (self.function_of(site) for site in self.sites()):
            self._register_function(fn)

    def _making(self, sites: list[Site]) -> set[Owner]:
        """Bare tensors whose channels no layer makes: learned queries, tables."""
        made = {
            c
            for s in sites
            if s.side == "out" and s.owner not in self._through
            for c in s.members()
        }
        return {
            s.owner
            for s in sites
            if isinstance(s.owner, (nn.Parameter, BareAxis)) and not made & s.members().keys()
        }

    def _protect_mixed_places(self, channels: Channels) -> None:
        """Protect what one call reads in several ways when its module runs several times."""
        for (module, _), place in self.places.items():
            for gates in place.gates.values():
                first, *others = gates
                for gate in others:
                    same = gate.pools == first.pools and all(
                        torch.equal(self.roots[gate.labels[i]], self.roots[first.labels[i]])
                        for i in gate.labels.keys() & first.labels.keys()
                    )
                    if not same:
                        why = (
                            f"'{gate.name}' in '{self.name_of(module)}' reads other channels each "
                            "time that the module runs"
                        )
                        for labels in (*gate.labels.values(), *first.labels.values()):
                            channels.protect(labels.flatten().tolist(), why)

    def _prove(
        self,
        inputs: Any,
        forward_fn: Callable[[nn.Module, Any], Any] | None,
        output_transform: Callable[[Any], Any] | None,
    ) -> None:
        """Compare gated and cut copies by value; protect the sets that differ."""
        self.tried = Proof(skipped="it was not asked for")
        if self.trial:

            def call(model: nn.Module, example: Any) -> Any:
                return forward(model, example, forward_fn, output_transform)

            names: dict[Any, str] = {**self._module2name, **self._param_to_name}
            calls = (forward_fn, output_transform, *self.CUSTOMIZED_PRUNERS.values())
            key, held = signature(self, names, inputs, calls)
            known = recall(key, self)
            if known is None:
                with eagerly(), keep_random_state(self.model):
                    bench = Bench(self.model, call, inputs, names)
                    known = prove(self, bench)
                self.widths = list(bench.widths)
                remember(key, held, self, known)
            self.tried = known
        for number, reason in self.tried.refused.items():
            self.sets[number].reason = reason

    # -- what the proof asks ----------------------------------------------------------------------

    def offered(self) -> list[tuple[int, ChannelSet]]:
        """The sets that are to be prunable, with their numbers."""
        chosen = {id(channel_set) for channel_set in self.prunable_sets()}
        return [(n, c) for n, c in enumerate(self.sets) if id(c) in chosen]

    def suspicion(self, channel_set: ChannelSet) -> str | None:
        """What in the code may need all channels of a set."""
        known = self._tracer.channels.suspicions
        if not known:
            return None
        found = {self.channels.find(label): why for label, why in reversed(known.items())}
        return next((found[c] for c in channel_set.components if c in found), None)

    def places_of(self, channel_set: ChannelSet) -> list[str]:
        """Names of the modules whose code reshapes channels of a set."""
        numbers = self.rectangles_of(channel_set)
        return list(dict.fromkeys(self._tracer.rectangles[n].place.module for n in numbers))

    def rectangles_of(self, channel_set: ChannelSet) -> list[int]:
        """The split axes that hold channels of a set, by number."""
        members = set(channel_set.components)
        return [
            number
            for number, (grid, _) in enumerate(self._tracer.rectangles)
            if members & set(self.roots[grid.flatten().long()].tolist())
        ]

    def sides_of(self, number: int) -> list[int]:
        """The axes along which a split axis may shrink."""
        grid = self._tracer.rectangles[number].labels
        channels = self._tracer.channels
        roots = torch.tensor([channels.find(label) for label in grid.flatten().tolist()])
        roots = roots.view(grid.shape)
        found = []
        for axis in range(grid.dim()):
            rows = roots.movedim(axis, 0).flatten(1).tolist()
            apart = [set(row) for row in rows]
            if len(rows) > 1 and len(set().union(*apart)) == sum(map(len, apart)):
                found.append(axis)
        return found

    def present_side(self, number: int) -> int:
        """The axis along which a split axis shrinks now."""
        grid = self._tracer.rectangles[number].labels
        roots = self.roots[grid.long()]
        for axis in range(grid.dim()):
            rows = roots.movedim(axis, 0).flatten(1)
            if bool((rows == rows[:, :1]).all()) and rows[:, 0].unique().numel() > 1:
                return axis
        return grid.dim() - 1

    def site_named(self, name: str, side: str) -> Site | None:
        """One side of a layer by its name."""
        for (owner, which), site in self._sites.items():
            if which == side and self.name_of(owner) == name:
                return site
        return None

    def cut_copy(self, site: Site, owner: Owner, indices: list[int]) -> Any:
        """Cut a copy of the owner of a site."""
        function = self.function_of(site)
        function.__self__.pruning_dim = self.module2node[site.owner].pruning_dim
        return function(owner, indices)

    def _make_node(self, owner: Owner) -> Any:
        if isinstance(owner, nn.Parameter):
            return parameter_node(owner, self._param_to_name[owner], self._parameter_dims[owner])
        return Node(owner, None, self._module2name[owner])

    def _register_function(self, function: Any) -> None:
        pruner = function.__self__
        self._out_channel_pruning_fn.add(pruner.prune_out_channels)
        self._in_channel_pruning_fn.add(pruner.prune_in_channels)

    # -- what torch-pruning asks ------------------------------------------------------------------

    def node_of(self, owner: Owner) -> Any:
        """The torch-pruning node of a layer or bare parameter."""
        return self.module2node[owner]

    def function_of(self, site: Site) -> Any:
        """The pruning function that cuts a site."""
        pruner = self.plain_pruner(site.owner)
        return pruner.prune_out_channels if site.side == "out" else pruner.prune_in_channels

    def plain_pruner(self, owner: Owner) -> BasePruningFunc:
        """torch-pruning's or our pruning functions of a layer, without this model's ties."""
        if isinstance(owner, nn.Parameter):
            return PrunerBox[ops.OPTYPE.PARAMETER]
        custom = self.CUSTOMIZED_PRUNERS.get(owner, self.CUSTOMIZED_PRUNERS.get(type(owner)))
        if custom is not None:
            return custom
        if owner in self._pruners:
            return self._pruners[owner]
        rule = rule_of(owner)
        return super().get_pruner_of_module(owner) if rule is None else rule.pruner(owner)

    def get_pruner_of_module(self, module: Owner) -> Any:
        """The pruning functions of a layer, with the ties that hold in this model."""
        parts = (self.sets[n].tied_parts(module) for n in self._sets_of.get(module, ()))
        return TiedPruner(self.plain_pruner(module), next((n for n in parts if n > 1), 1))

    def get_all_groups(
        self,
        ignored_layers: Sequence[nn.Module] = (),
        root_module_types: Sequence[type] = (ops.TORCH_CONV, ops.TORCH_LINEAR),
    ) -> Iterator[ChannelGroup]:
        """Yield every group that may be pruned, with all of its channels.

        Args:
            ignored_layers: Groups with output channels of these layers are skipped.
            root_module_types: torch-pruning's filter. A group passes when any layer that makes its
                channels is of these types; recurrent layers pass where ``nn.LSTM`` or linear ones
                do, filterbanks where convolutions do.

        Yields:
            Groups in order of execution.
        """
        ignored = with_parts([*ignored_layers, *self.IGNORED_LAYERS_IN_TRACING])
        with_gradients = any(p.grad is not None for p in self.model.parameters())
        for channel_set in self.prunable_sets():
            makers = [s.owner for s in channel_set.sites if s.side == "out"]
            if any(maker in ignored for maker in makers):
                continue
            types = tuple(root_module_types)
            if any(
                passes_filter(maker, self.rules.get(maker), types)  # type: ignore[arg-type]
                for maker in makers
                if not isinstance(maker, nn.Parameter) or self.makes(maker)
            ):
                if with_gradients:
                    complete_gradients(channel_set)
                yield build_group(self, channel_set, channel_set.components)

    def named_groups(self) -> Iterator[tuple[str, ChannelGroup]]:
        """Yield (name of the root layer, group) for every group that may be pruned."""
        for channel_set in self.prunable_sets():
            group = build_group(self, channel_set, channel_set.components)
            yield self.name_of(channel_set.root.owner), group

    def get_pruning_group(
        self, module: Owner, pruning_fn: Any, idxs: Any
    ) -> ChannelGroup | GroupUnion:
        """The group that removes channels of a layer, with everything coupled to them.

        Args:
            module: The layer.
            pruning_fn: Which side: an output or input pruning function.
            idxs: Channel indices of that side.

        Returns:
            The group.

        Raises:
            GraphError: If the layer is unknown, or one of the channels is protected.
        """
        if module not in self.module2node:
            raise GraphError(f"{module} is not in the channel graph: it did not run in the trace")
        idxs = [idxs] if isinstance(idxs, int) else [int(i) for i in idxs]
        side = "out" if self.is_out_channel_pruning_fn(pruning_fn) else "in"
        return group_of_channels(self, module, side, idxs)

    def check_pruning_group(self, group: ChannelGroup | GroupUnion) -> bool:
        """Whether every layer keeps at least one channel."""
        return keeps_a_channel(self, group)

    def side_of(self, dep: Any) -> str:
        """Which side of its layer a dependency cuts: ``in`` or ``out``."""
        owner = dep.target.module
        if owner in self._through:
            return "out"
        return "out" if self.is_out_channel_pruning_fn(dep.handler) else "in"

    # -- cutting ----------------------------------------------------------------------------------

    def apply(self, group: ChannelGroup, record_history: bool = True) -> None:
        """Cut a group of this graph out of the model; see :func:`cutting.cut_group`."""
        cut_group(self, group, record_history)

    def follow_widths(self) -> None:
        """Set the numbers in the model's modules that count channels to what is left of them."""
        layers = dict(self.model.named_modules())
        for width in self.widths:
            site = self.site_named(width.owner, width.side)
            if site is not None:
                width.apply(layers[width.module], site.count(set(), width.grouped))

    # -- explanations -----------------------------------------------------------------------------

    def explain(self, layer: Owner | str, side: str | None = None) -> Explanation:
        """Say what goes with a layer's channels, where they met, and what protects them.

        Args:
            layer: A layer, a bare parameter, or the dotted name of one.
            side: ``"in"`` or ``"out"``; default: both.

        Returns:
            The facts; printed, they are a text.

        Raises:
            InputError: If the model has no such layer, or it has no channels of its own.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> net = nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU(), nn.Conv1d(8, 1, 3))
            >>> graph = ChannelGraph(scope="all").build_dependency(net, torch.randn(1, 1, 16))
            >>> print(graph.explain("0", "out"))
            0
              output channels 0:8: group '0' of 8 channels, may go
                what goes together:
                  0.weight[0:8, :, :] rows
                  0.bias[0:8]
                  2.weight[:, 0:8, :] columns
            >>> graph.explain(net[2], "out").parts[0].reason
            'it is an output of the model'
        """
        return explain(self, layer, side)

    def report(self) -> Report:
        """Every group, and everything that is protected with the reason; printed, a table."""
        return report(self)

    def makes(self, owner: Owner) -> bool:
        """Whether a layer makes channels of its own (norms and their like do not)."""
        return owner not in self._through

    @property
    def protected(self) -> dict[str, str]:
        """Layers whose output channels may not be pruned, each with the reason."""
        found: dict[str, str] = {}
        for number, channel_set in enumerate(self.sets):
            reason = self.why_not(number)
            if reason is not None:
                for site in channel_set.sites:
                    if site.side == "out" and site.owner not in self._through:
                        found.setdefault(self.name_of(site.owner), reason)
        return found

    def name_of(self, owner: Owner) -> str:
        """Dotted name of a layer or bare parameter in the model."""
        if isinstance(owner, nn.Parameter):
            return str(self._param_to_name[owner])
        return str(self._module2name.get(owner, type(owner).__name__))

    def sites(self) -> list[Site]:
        """Every side of every layer that ran, in order of execution."""
        return list(self._sites.values())

    def site_of(self, owner: Owner, side: str) -> Site:
        """One side of a layer; ``out`` for a layer that keeps channels apart."""
        return self._sites[owner, side]

    def sets_of(self, owner: Owner) -> list[tuple[int, ChannelSet]]:
        """The channel sets that a layer has channels of, with their numbers."""
        return [(number, self.sets[number]) for number in self._sets_of.get(owner, ())]

    def why_not(self, number: int) -> str | None:
        """Why a channel set (by number) may not be pruned, or None."""
        outside = self._outside.get(number)
        return self.sets[number].reason or (None if outside is None else outside[0])

    def held_by(self, number: int) -> Site | None:
        """The site outside the scope, or to be ignored, that keeps a set from being pruned."""
        outside = self._outside.get(number)
        return None if outside is None else outside[1]

    def replace_parameter(self, old: nn.Parameter, new: nn.Parameter) -> None:
        """Put a cut bare parameter in the place of the old one, in the model and in the graph."""
        name = self._param_to_name.pop(old)
        path, _, leaf = name.rpartition(".")
        new.requires_grad_(old.requires_grad)
        setattr(self.model.get_submodule(path), leaf, new)
        self._param_to_name[new] = name
        node = self.module2node.pop(old)
        node.module = new
        self.module2node[new] = node
        self._parameter_dims[new] = self._parameter_dims.pop(old)
        self._sets_of[new] = self._sets_of.pop(old, [])
        site = self._sites.pop((old, "out"))
        site.owner, self._sites[new, "out"] = new, site
        self._through.add(new)

    def prunable_sets(self) -> list[ChannelSet]:
        """The channel sets of the groups that may be pruned."""
        return [
            channel_set
            for number, channel_set in enumerate(self.sets)
            if channel_set.size > 1 and self.why_not(number) is None
        ]
