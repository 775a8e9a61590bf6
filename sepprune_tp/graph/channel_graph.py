"""``ChannelGraph``: torch-pruning's dependency graph, found by labelling channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch_pruning import dependency, ops
from torch_pruning.dependency import Node
from torch_pruning.pruner.function import BasePruningFunc, PrunerBox

from ..architectures import adapters_in, separator_of, sync_attributes
from ..errors import GraphError, InputError
from ..layers import rule_of
from .assembly import ChannelSet, Owner, Site, assemble
from .cuts import Cut, publish
from .group import ChannelGroup, build_group, parameter_node, surviving
from .tracer import Tracer

__all__ = ["ChannelGraph", "Scope", "channel_graph"]

_SHORT = 2000  # samples of a waveform that are traced when the example is longer

_CALL_ERRORS = (
    RuntimeError,
    TypeError,
    ValueError,
    AssertionError,
    IndexError,
    AttributeError,
)

Scope = str | Sequence[nn.Module]
"""``"separator"``, ``"all"``, or modules: groups whose channels are all made inside them."""


class ChannelGraph(tp.DependencyGraph):  # type: ignore[misc]
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

    def __init__(self, scope: Scope = "separator") -> None:
        """Make an empty graph.

        Args:
            scope: Where channels may be pruned: ``"separator"`` (inside the masker only),
                ``"all"``, or a list of modules.
        """
        super().__init__()
        if isinstance(scope, str) and scope not in ("separator", "all"):
            raise InputError(
                f"scope is {scope!r}; it must be 'separator', 'all' or a list of modules"
            )
        self.scope: Scope = scope
        self.sets: list[ChannelSet] = []
        self._outside: dict[int, str] = {}
        self._parameter_dims: dict[nn.Parameter, int] = {}

    # -- building -----------------------------------------------------------------------------------

    def build_dependency(  # type: ignore[override]
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
            model: The model; its train/eval modes are left as they are.
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
            InputError: If the scope does not fit the model.
        """
        self.model, self.verbose = model, verbose
        self._module2name = {module: name for name, module in model.named_modules()}
        self._param_to_name = {p: n for n, p in model.named_parameters()}
        self.unwrapped_parameters = list(unwrapped_parameters or [])
        self.ignored_params = list(ignored_params or [])
        self.IGNORED_LAYERS_IN_TRACING.extend(ignored_layers or [])
        for kind, pruner in (customized_pruners or {}).items():
            self.register_customized_layer(kind, pruner)
        inside = self._modules_in_scope(model)
        tracer = self._trace_shortest(model, example_inputs, forward_fn, output_transform)
        self._finish(model, tracer, inside)
        return self

    def _trace_shortest(
        self,
        model: nn.Module,
        example: Any,
        forward_fn: Callable[[nn.Module, Any], Any] | None,
        output_transform: Callable[[Any], Any] | None,
    ) -> Tracer:
        """Trace on a short piece of a long example if the model takes it: couplings are the same."""
        for inputs, last in ((_shortened(example), False), (example, True)):
            tracer = Tracer(model)

            def call(inputs: Any = inputs) -> Any:
                output = _forward(model, inputs, forward_fn)
                return output if output_transform is None else output_transform(output)

            try:
                if inputs is not None:
                    tracer.run(call, inputs)
                    return tracer
            except _CALL_ERRORS as error:
                if last:
                    raise GraphError(
                        f"{type(model).__name__} did not run on the example input "
                        f"{_describe(example)}: {error}. Give an input of the shape (and sample "
                        "rate) that the model takes, for a separator usually a mixture of shape "
                        "(batch, time)."
                    ) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _modules_in_scope(self, model: nn.Module) -> set[nn.Module] | None:
        if isinstance(self.scope, str):
            return None if self.scope == "all" else set(separator_of(model).modules())
        known = set(model.modules())
        for module in self.scope:
            if module not in known:
                raise InputError(
                    f"scope lists a {type(module).__name__} that is not part of "
                    f"{type(model).__name__}; list modules of the model itself"
                )
        return {part for module in self.scope for part in module.modules()}

    def _finish(self, model: nn.Module, tracer: Tracer, inside: set[nn.Module] | None) -> None:
        for _, adapter_ties in ((m, a.ties(m)) for m, a in adapters_in(model)):
            for first, second, repeats in adapter_ties:
                one, other = tracer.sites[first].outputs, tracer.sites[second].outputs
                assert one is not None and other is not None
                for part in other.view(repeats, -1):
                    for a, b in zip(one.tolist(), part.tolist(), strict=True):
                        tracer.channels.unite(a, b)
        through = {o for o, s in tracer.sites.items() if s.rule is None or _passes(s.rule)}
        self.sets = assemble(tracer.sites, tracer.channels, through)
        self._parameter_dims = tracer.parameter_dims
        self.module2node = {owner: self._make_node(owner) for owner in tracer.sites}
        self._through = through
        self._outside = {}
        for number, channel_set in enumerate(self.sets):
            if channel_set.reason is None and inside is not None:
                for site in channel_set.sites:
                    if site.owner not in inside and not self._read_only(site):
                        name = self._name(site.owner)
                        self._outside[number] = f"it is tied to '{name}', outside the scope"
                        break
        for fn in (self.function_of(s) for c in self.sets for s in c.sites):
            self._register_function(fn)

    def _read_only(self, site: Site) -> bool:
        """With a list of modules as scope, layers outside may read what is made inside."""
        return not isinstance(self.scope, str) and (
            site.side == "in" or site.owner in self._through
        )

    def _make_node(self, owner: Owner) -> Any:
        if isinstance(owner, nn.Parameter):
            return parameter_node(owner, self._param_to_name[owner], self._parameter_dims[owner])
        return Node(owner, None, self._module2name[owner])

    def _register_function(self, function: Any) -> None:
        pruner = function.__self__
        self._out_channel_pruning_fn.add(pruner.prune_out_channels)
        self._in_channel_pruning_fn.add(pruner.prune_in_channels)

    # -- what torch-pruning asks ---------------------------------------------------------------------

    def node_of(self, owner: Owner) -> Any:
        """The torch-pruning node of a layer or bare parameter."""
        return self.module2node[owner]

    def function_of(self, site: Site) -> Any:
        """The pruning function that cuts a site."""
        pruner = self._plain_pruner(site.owner)
        return pruner.prune_out_channels if site.side == "out" else pruner.prune_in_channels

    def _plain_pruner(self, owner: Owner) -> BasePruningFunc:
        if isinstance(owner, nn.Parameter):
            return PrunerBox[ops.OPTYPE.PARAMETER]
        custom = self.CUSTOMIZED_PRUNERS.get(owner, self.CUSTOMIZED_PRUNERS.get(type(owner)))
        if custom is not None:
            return custom
        rule = rule_of(owner)
        if rule is None:
            return super().get_pruner_of_module(owner)
        return rule.pruner(owner)

    def get_pruner_of_module(self, module: Owner) -> Any:
        """The pruning functions of a layer, with the ties that hold in this model."""
        return _Tied(self._plain_pruner(module), self._root_parts(module))

    def _root_parts(self, owner: Owner) -> int:
        """How many equal parts of a root layer's outputs are tied (1: each channel is free)."""
        for channel_set in self.sets:
            root = channel_set.root
            if root.owner is owner and channel_set.size:
                size, count = root.components.numel(), channel_set.size
                if size % count == 0 and size > count:
                    parts = root.components.view(size // count, count)
                    if bool((parts == parts[0]).all()):
                        return size // count
        return 1

    def get_all_groups(  # type: ignore[override]
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
        ignored = {*ignored_layers, *self.IGNORED_LAYERS_IN_TRACING}
        for channel_set in list(self._prunable()):
            makers = [s.owner for s in channel_set.sites if s.side == "out"]
            if any(maker in ignored for maker in makers):
                continue
            if any(_passes_filter(maker, tuple(root_module_types)) for maker in makers):
                _complete_gradients(self.model, channel_set)
                yield build_group(self, channel_set, channel_set.components)

    def named_groups(self) -> Iterator[tuple[str, ChannelGroup]]:
        """Yield (name of the root layer, group) for every group that may be pruned."""
        for channel_set in self._prunable():
            group = build_group(self, channel_set, channel_set.components)
            yield self._name(channel_set.root.owner), group

    def _prunable(self) -> Iterator[ChannelSet]:
        for number, channel_set in enumerate(self.sets):
            if channel_set.reason is None and number not in self._outside and channel_set.size > 1:
                yield channel_set

    def get_pruning_group(self, module: Owner, pruning_fn: Any, idxs: Any) -> ChannelGroup:  # type: ignore[override]
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
        for number, channel_set in enumerate(self.sets):
            for site in channel_set.sites:
                if site.owner is not module or (site.side != side and module not in self._through):
                    continue
                wanted = {c for c in site.components[idxs].tolist() if c}
                members = [c for c in channel_set.components if c in wanted]
                if members or not idxs:
                    why = channel_set.reason or self._outside.get(number)
                    if why is not None:
                        raise GraphError(
                            f"channels {idxs[:8]} of '{self._name(module)}' may not go: {why}"
                        )
                    return build_group(self, channel_set, members)
        raise GraphError(
            f"'{self._name(module)}' has no channels {idxs[:8]} on its {side} side that can go"
        )

    def check_pruning_group(self, group: ChannelGroup) -> bool:  # type: ignore[override]
        """Whether every layer keeps at least one channel."""
        chosen = {c for item in group for c in self._components(group, item)}
        return len(chosen) < group.channel_set.size

    def _components(self, group: ChannelGroup, item: Any) -> list[int]:
        owner, side = item.dep.target.module, self._side(item.dep)
        for site in group.channel_set.sites:
            if site.owner is owner and site.side == side:
                found: list[int] = site.components[item.idxs].tolist()
                return found
        return []

    def _side(self, dep: Any) -> str:
        owner = dep.target.module
        if owner in self._through:
            return "out"
        return "out" if self.is_out_channel_pruning_fn(dep.handler) else "in"

    # -- cutting -------------------------------------------------------------------------------------

    def apply(self, group: ChannelGroup, record_history: bool = True) -> None:
        """Cut a group out of the model and keep the graph true.

        Args:
            group: The group, made by this graph.
            record_history: Whether :meth:`pruning_history` remembers it.

        Raises:
            GraphError: If the model changed since the graph was built.
        """
        self._check_fresh(group.channel_set)
        dep, idxs = group[0].dep, list(group[0].idxs)
        root_name = self._name(dep.target.module)
        merged: dict[tuple[int, str], tuple[Any, list[int]]] = {}
        for item in group:
            key = (id(item.dep.target.module), self._side(item.dep))
            merged.setdefault(key, (item.dep, []))[1].extend(item.idxs)
        for (_, side), (item_dep, cut) in merged.items():
            if not cut:
                continue  # torch-pruning asks for empty groups where a ranking spares a layer
            self._cut(group.channel_set, item_dep, side, sorted(cut))
        remaining = set(group.channel_set.root.components.tolist())
        left = [c for c in group.channel_set.components if c in remaining]
        group.channel_set.components = left
        sync_attributes(self.model)
        if record_history:
            is_out = self.is_out_channel_pruning_fn(dep.trigger)
            self._pruning_history.append([root_name, is_out, idxs])

    def _cut(self, channel_set: ChannelSet, dep: Any, side: str, idxs: list[int]) -> None:
        owner = dep.target.module
        name, flags = self._name(owner), _flags(owner)
        dep.handler.__self__.pruning_dim = dep.target.pruning_dim
        result = dep.handler(owner, idxs)
        if isinstance(owner, nn.Parameter):
            self._replace_parameter(owner, result)
        else:
            _restore_flags(owner, flags)
        for site in _unique_sites(self.sets):
            if site.owner is owner and site.side == side:
                site.components = site.components[surviving(site.components.numel(), idxs)]
                if isinstance(owner, nn.Parameter):
                    site.owner = result
        publish(self.model, Cut(name, side, idxs))

    def _replace_parameter(self, old: nn.Parameter, new: nn.Parameter) -> None:
        name = self._param_to_name.pop(old)
        path, _, leaf = name.rpartition(".")
        new.requires_grad_(old.requires_grad)
        setattr(self.model.get_submodule(path), leaf, new)
        self._param_to_name[new] = name
        node = self.module2node.pop(old)
        node.module = new
        self.module2node[new] = node
        self._parameter_dims[new] = self._parameter_dims.pop(old)
        self._through.add(new)

    def _check_fresh(self, channel_set: ChannelSet) -> None:
        for site in channel_set.sites:
            if isinstance(site.owner, nn.Parameter):
                continue
            pruner = self._plain_pruner(site.owner)
            count = pruner.get_out_channels if site.side == "out" else pruner.get_in_channels
            present = count(site.owner)
            if present is not None and present != site.components.numel():
                raise GraphError(
                    f"'{self._name(site.owner)}' has {present} channels, the graph knows "
                    f"{site.components.numel()}: the model was changed outside the graph. Build a "
                    "new graph."
                )

    # -- explanations ---------------------------------------------------------------------------------

    @property
    def protected(self) -> dict[str, str]:
        """Layers whose output channels may not be pruned, each with the reason."""
        found: dict[str, str] = {}
        for number, channel_set in enumerate(self.sets):
            reason = channel_set.reason or self._outside.get(number)
            if reason is not None:
                for site in channel_set.sites:
                    if site.side == "out" and site.owner not in self._through:
                        found.setdefault(self._name(site.owner), reason)
        return found

    def _name(self, owner: Owner) -> str:
        if isinstance(owner, nn.Parameter):
            return self._param_to_name[owner]
        return self._module2name.get(owner, type(owner).__name__)

    def name_of(self, owner: Owner) -> str:
        """Dotted name of a layer or bare parameter in the model."""
        return self._name(owner)

    def prunable_sets(self) -> list[ChannelSet]:
        """The channel sets of the groups that may be pruned."""
        return list(self._prunable())


class _Tied:
    """Pruning functions of one layer that report the ties of this model instead of the type's."""

    def __init__(self, pruner: BasePruningFunc, parts: int) -> None:
        self._pruner, self._parts = pruner, parts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pruner, name)

    @property
    def pruning_dim(self) -> int:
        return int(self._pruner.pruning_dim)

    @pruning_dim.setter
    def pruning_dim(self, dim: int) -> None:
        self._pruner.pruning_dim = dim

    def get_out_channel_groups(self, layer: nn.Module) -> int:
        return self._parts

    def get_in_channel_groups(self, layer: nn.Module) -> int:
        return 1


def _forward(model: nn.Module, example: Any, forward_fn: Callable[..., Any] | None) -> Any:
    if forward_fn is not None:
        return forward_fn(model, example)
    if isinstance(example, dict):
        return model(**example)
    if isinstance(example, (tuple, list)):
        return model(*example)
    return model(example)


def _shortened(example: Any) -> Any:
    """The example cut to its first samples if it is one long waveform tensor, else None."""
    if isinstance(example, Tensor) and example.is_floating_point() and example.dim() <= 3:
        if example.size(-1) > 2 * _SHORT and example.numel() >= 2 * _SHORT:
            return example[..., :_SHORT].contiguous()
    return None


def _describe(example: Any) -> str:
    if isinstance(example, Tensor):
        return f"of shape {tuple(example.shape)}"
    if isinstance(example, dict):
        return "{" + ", ".join(f"{k}: {_describe(v)}" for k, v in example.items()) + "}"
    if isinstance(example, (tuple, list)):
        return "(" + ", ".join(_describe(v) for v in example) + ")"
    return repr(example)


def _passes(rule: Any) -> bool:
    return bool(rule.relation == "through")


def _passes_filter(owner: Owner, types: tuple[type, ...]) -> bool:
    if isinstance(owner, types):
        return True
    rule = None if isinstance(owner, nn.Parameter) else rule_of(owner)
    kind = "" if rule is None else rule.kind
    if kind == "rnn":
        return nn.LSTM in types or nn.Linear in types
    return kind == "filterbank" and ops.TORCH_CONV in types


def _complete_gradients(model: nn.Module, channel_set: ChannelSet) -> None:
    """Give zero gradients to layers of a group that the loss does not reach, if others have some.

    torch-pruning's Taylor and Hessian criteria read every gradient; the last residual convolution
    of a Conv-TasNet with skip connections never gets one.
    """
    if all(p.grad is None for p in model.parameters()):
        return
    for site in channel_set.sites:
        tensors = [site.owner] if isinstance(site.owner, nn.Parameter) else site.owner.parameters()
        for parameter in tensors:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


def _flags(owner: Owner) -> dict[str, bool]:
    if isinstance(owner, nn.Parameter):
        return {}
    return {name: p.requires_grad for name, p in owner.named_parameters()}


def _restore_flags(owner: nn.Module, flags: dict[str, bool]) -> None:
    for name, parameter in owner.named_parameters():
        parameter.requires_grad_(flags.get(name, True))


def _unique_sites(sets: list[ChannelSet]) -> list[Site]:
    return list({id(site): site for s in sets for site in s.sites}.values())


@contextmanager
def channel_graph(scope: Scope = "separator") -> Iterator[None]:
    """Give our graph to every torch-pruning pruner that is built inside.

    Args:
        scope: The scope of those graphs.

    Example:
        >>> import torch_pruning as tp
        >>> with channel_graph(scope="all"):  # doctest: +SKIP
        ...     pruner = tp.pruner.MetaPruner(model, x, tp.importance.RandomImportance())
    """
    theirs = dependency.DependencyGraph
    dependency.DependencyGraph = lambda: ChannelGraph(scope)
    try:
        yield
    finally:
        dependency.DependencyGraph = theirs
