"""Run a model once with labels beside its tensors, and record what each layer reads and makes."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from .._modes import eval_mode
from ..layers import LayerRule, base_rule_of, rule_of
from ..layers.bare import BareAxis, BareTensor, BareWeight
from ..layers.composite import named_layers, run_by_parts
from .bare_tensors import BareTensors, Bundle
from .calls import CallGate, CallPlace, Key, can_pool, key_of
from .labels import Channels, LabelStore, constant_along, merge_along, varying_dims
from .operations import PRODUCTS, rule_for
from .outputs import tensors_of
from .rectangles import Rectangle, rectangle
from .schema import arguments
from .sharing import DirectUses, couple, shared_parameters
from .tracing import Sites
from .whereabouts import Whereabouts

__all__ = ["Tracer"]

_NORM_KINDS = {"batch_norm": "BatchNormRule", "group_norm": "GroupNormRule"}


@dataclass
class _Call:
    """A torch function that runs in the model's own code."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    key: Key
    turn: int

    @property
    def name(self) -> str:
        """Of the function."""
        return str(getattr(self.function, "__name__", "")).strip("_")


class _Calls(TorchFunctionMode):
    """Tells the tracer which torch function of the model's code an operation is part of."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        tracer, kwargs = self._tracer, kwargs or {}
        if tracer.inside_layer:
            return func(*args, **kwargs)
        before = tracer.call
        tracer.call = tracer.place(func, args, kwargs, sys._getframe(1))
        try:
            return func(*args, **kwargs)
        finally:
            tracer.call = before


class Tracer(TorchDispatchMode):
    """Labels every tensor of one eager forward pass.

    Attributes:
        store: Labels of live tensors.
        channels: All channels, united where they met.
        bare: Parameters and buffers outside of layers.
        bundles: Labels that stand for several channels each, with these.
        sites: For each layer (or bare parameter) its labels, in order of execution.
        refused: Layers that have a rule but cannot be cut, with the reason.
        rectangles: Each channel axis that a reshape split; see ``rectangles.settle``.
        places: Calls of functions that read or pool channels, by module and place in its code.
        products: What the cost of each product outside of layers goes with, by module and place:
            labels (it is proportional to how many are left), a layer, or None.
        beside: For layers that work along another axis, the channels that each run is for.
        by_calls: Layers and bare weights that are gated by these calls.
    """

    def __init__(
        self, model: nn.Module, custom: Mapping[nn.Module, LayerRule] | None = None
    ) -> None:
        """Prepare to trace.

        Args:
            model: The model.
            custom: Rules of layers of this model that no rule is registered for.
        """
        super().__init__()
        self.model = model
        self._custom = custom or {}
        self.store = LabelStore()
        self._names = {module: name for name, module in named_layers(model)}
        self._here = Whereabouts(self._names)
        self.channels = Channels()
        self.channels.where = lambda: self._here.number_in(self.channels)
        self.bare = BareTensors(model, self.channels)
        self.bundles: list[Bundle] = self.bare.bundles
        self.sites: dict[nn.Module | nn.Parameter, Sites] = {}
        self.refused: dict[nn.Module, str] = {}
        self.rectangles: list[Rectangle] = []
        self.parameter_dims: dict[nn.Parameter, int] = {}
        self.places: dict[tuple[nn.Module, Key], CallPlace] = {}
        self._turns: list[Counter[Key]] = [Counter()]
        self._seen: dict[tuple[nn.Module, Key], int] = {}
        self.products: dict[tuple[nn.Module, Key], list[Any]] = {}
        self.scaling: list[Any] = []
        self.beside: dict[nn.Module, Tensor] = {}
        self.by_calls: set[nn.Module] = set()
        self.ran: set[nn.Module] = set()
        self._weights: dict[str, BareWeight] = {}
        self._own_rules: dict[nn.Module, LayerRule] = {}
        self._as_layers: set[nn.Module] = set()
        self._positions: dict[int, list[int]] = {}
        self._pooled: dict[tuple[str, int], str] = {}
        self._inside_custom = 0
        self._consumed: list[Tensor] = []
        self.inside_layer = 0
        self.call: _Call | None = None
        self._direct = DirectUses(model)
        self.shared = shared_parameters(model)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare the first trace the 2 s that importing the compiler takes; we compile nothing."""
        return False

    # -- one pass ---------------------------------------------------------------------------------

    def run(self, call: Callable[[], Any], example_inputs: Any) -> None:
        """Trace one forward pass.

        Args:
            call: Runs the model on the example.
            example_inputs: The tensors of the example, whose channels are the model's input.
        """
        by_parts = run_by_parts(self.model.modules())
        with (
            warnings.catch_warnings(),  # an operation's own, which would seem to be ours
            torch.no_grad(),
            eval_mode(self.model),
            by_parts,
            self._watching_modules(),
        ):
            warnings.simplefilter("ignore")
            label = self.channels.fixed("it meets the model's input")
            _each_tensor(example_inputs, lambda t: self.store.set(t, label))
            with _Calls(self), self:
                output = call()
            for tensor in tensors_of(output):
                self._protect_output(tensor)
                self._uses_positions(tensor)
        for at, place in self.places.items():
            place.turns = self._seen[at]
        self.by_calls -= self._as_layers
        self.ran |= self._direct.used() | set(self._own_rules)
        self._protect_pooled()
        self._add_bare_sites()
        couple(self.shared, self.sites, self.channels, self._names.__getitem__)
        self._direct.protect(self.sites, self.channels, self._names.__getitem__)

    def _protect_output(self, tensor: Tensor) -> None:
        labels = self.store.get(tensor)
        if labels is not None:
            self.channels.protect(torch.unique(labels).tolist(), "it is an output of the model")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if not self.inside_layer:
            self._here.follow(func.overloadpacket.__name__)
            self.scaling = []
            if self._positions:
                self._uses_positions((args, kwargs))
            rule = rule_for(func)
            if rule is None:
                self._unknown(func, args, kwargs, output)
            else:
                try:
                    rule(self, func, arguments(func, args, kwargs), output)
                except Exception as error:  # a mistake of ours: what enters is protected
                    self._unknown(func, args, kwargs, output, error)
            if func.overloadpacket in PRODUCTS:
                self._note_product(func.overloadpacket)
        return output

    def _note_product(self, packet: Any) -> None:
        """Remember what the cost of a product goes with."""
        key = () if self.call is None else self.call.key
        count = 2 if "attention" in packet.__name__ else 1
        found = [*self.scaling, *[None] * count][:count]
        module = self._here.module() or self.model
        self.products.setdefault((module, key), []).extend(found)

    def _unknown(
        self, func: Any, args: Any, kwargs: Any, output: Any, error: Exception | None = None
    ) -> None:
        entering: list[Tensor] = []
        _each_tensor((args, kwargs), lambda t: entering.append(t))
        labels = [x for x in map(self.store.get, entering) if x is not None]
        if not labels:
            return
        name = str(func.overloadpacket.__name__)
        why = "has no rule and may mix channels"
        if error is not None:
            lines = str(error).strip().splitlines() or [""]
            why = f"could not be followed ({type(error).__name__}: {lines[0][:120]})"
        self.protect(labels, f"operation '{name}' {why}")
        if self._inside_custom:
            return
        made = f"it is made by '{name}', which {why.replace(' and may mix channels', '')}"
        label = self.channels.fixed(f"{made}, {self._here}")
        _each_tensor(output, lambda t: self.store.set(t, label))

    # -- what operation rules use -----------------------------------------------------------------

    def protect(self, labels: Sequence[Tensor], why: str) -> None:
        """Protect every channel in ``labels`` with a reason and the place in the code."""
        where = str(self._here)
        for tensor in labels:
            if self._inside_custom:  # a user says how it is cut; the proof says whether that is so
                self.channels.suspect(torch.unique(tensor).tolist(), f"{why}, {where}")
            else:
                self.channels.protect(torch.unique(tensor).tolist(), f"{why}, {where}")

    def suspect(self, labels: Sequence[Tensor], why: str) -> None:
        """Say what protects channels if the proof finds that they cannot be cut."""
        where = str(self._here)
        for tensor in labels:
            self.channels.suspect(torch.unique(tensor).tolist(), f"{why}, {where}")

    def gate(self, labels: Sequence[Tensor], why: str, pools: bool = False) -> None:
        """Let gates close channels in the running call; where they cannot, protect them."""
        wanted = torch.cat([torch.unique(x).flatten().long() for x in labels])
        gate = None if self.call is None else self._gate_of(self.call, wanted, pools)
        if gate is None:
            self.protect(labels, why)
            return
        self.channels.consumed.update(int(x) for x in wanted.tolist() if x)
        assert self.call is not None
        place = self.places.setdefault((gate.module, gate.key), CallPlace())
        place.gates.setdefault(self.call.turn, []).append(gate)

    def place(self, func: Any, args: Any, kwargs: Any, frame: Any) -> _Call:
        """Note that a function of the model's code starts to run."""
        key = key_of(frame)
        turns = self._turns[-1]
        turns[key] += 1
        module = self._here.module() or self.model
        self._seen[module, key] = max(self._seen.get((module, key), 0), turns[key])
        return _Call(func, args, kwargs, key, turns[key] - 1)

    def _gate_of(self, call: _Call, wanted: Tensor, pools: bool) -> CallGate | None:
        module = self._here.module() or self.model
        if pools and not can_pool(call.name):
            return None
        found: dict[int, Tensor] = {}
        leaves = tree_flatten((call.args, call.kwargs))[0]
        for number, leaf in enumerate(leaves):
            if not isinstance(leaf, Tensor) or (found and not (pools or self._sums(call))):
                continue
            known = self.store.get(leaf)
            if known is not None and bool(torch.isin(known, wanted[wanted > 0]).any()):
                found[number] = _compressed(known)
        if not found:
            return None
        return CallGate(module, call.key, call.name, pools, found)

    def _sums(self, call: _Call) -> bool:
        return call.name in ("cosine_similarity", "pairwise_distance", "norm", "normalize", "sum")

    def head_labels(self, rows: Tensor) -> Tensor | None:
        """Labels that stand for whole rows of channels, shape (rows,); None for a single row."""
        distinct, inverse = torch.unique(rows.long(), dim=0, return_inverse=True)
        if len(distinct) < 2:
            return None
        heads = self.channels.fresh(len(distinct))
        self.channels.virtual.update(heads.tolist())
        self.bundles.append(Bundle(heads, distinct))
        return heads[inverse]

    def axis_split(self, labels: Tensor, axes: Sequence[int]) -> None:
        """Remember a channel axis that a reshape split."""
        self.rectangles.append(Rectangle(rectangle(labels, axes), self._here.place()))

    def consumed(self, labels: Tensor) -> bool:
        """Whether channels just went through a layer that closes them for the product to come."""
        return any(bool(torch.isin(labels, known).all()) for known in self._consumed)

    # -- bare tensors -----------------------------------------------------------------------------

    def met(self, tensor: Tensor, labels: Tensor) -> None:
        """A bare tensor met ``labels``, of the shape of the result, element by element."""
        numbers = self.bare.numbers(tensor)
        if numbers is None or self._met_own_layer(tensor, labels):
            return
        self._note_layers(numbers)
        before = set(self.bare.labels)
        if not self.bare.met(numbers.expand(labels.shape), labels):
            self.protect([labels], "a parameter or buffer meets it in a way that has no rule")
        self._note_axes(before)

    def _note_layers(self, numbers: Tensor) -> None:
        """Protect layers whose weights the model reads outside of them, in a way of its own."""
        for name in self.bare.names_in(numbers):
            tensor = self.bare.tensors[name]
            if tensor in self._direct.layer_of:
                self._direct.note(tensor, str(self._here))

    def mark_positions(self, tensor: Tensor, labels: Tensor) -> None:
        """A tensor holds positions among channels: these are protected if it is used."""
        mark = int(self.channels.fresh(1))
        self._positions[mark] = torch.unique(labels).tolist()
        self.store.set(tensor, mark)

    def _uses_positions(self, values: Any) -> None:
        """Protect channels whose positions an operation reads."""
        tensors: list[Tensor] = []
        _each_tensor(values, lambda t: tensors.append(t))
        for tensor in tensors:
            if not tensor.is_floating_point():
                labels = self.store.get(tensor)
                found = [] if labels is None else torch.unique(labels).tolist()
                for mark in self._positions.keys() & set(found):
                    why = f"its position among the channels is used, {self._here}"
                    self.channels.protect(self._positions[mark], why)

    def bare_pooled(self, numbers: Tensor, dims: Sequence[int], name: str) -> None:
        """A bare tensor was pooled along some axes: channels that lie there are protected."""
        for dim in dims:
            for _, line in self.bare.lines(numbers, dim) or ():
                why = f"'{name}' pools over the entries of '{line.name}', {self._here}"
                self._pooled.setdefault((line.name, line.axis), why)

    def _protect_pooled(self) -> None:
        """Protect the channels along axes of bare tensors that were pooled."""
        for (name, axis), why in self._pooled.items():
            known = self.bare.labels.get((name, axis))
            if known is not None:
                self.channels.protect(known.tolist(), why)
            self._protect_axis(name, axis, why)
            weight = self._weights.get(name)
            sites = None if weight is None else self.sites.get(weight)
            if weight is not None and sites is not None:
                for side, labels in (
                    (weight.axis_in, sites.inputs),
                    (weight.axis_out, sites.outputs),
                ):
                    if side == axis and labels is not None:
                        self.channels.protect(labels.tolist(), why)

    def _protect_axis(self, name: str, axis: int, why: str) -> None:
        """Protect channels along an axis of a parameter of a layer with a forward of its own."""
        path, _, key = name.rpartition(".")
        module = self.model.get_submodule(path)
        sites = self.sites.get(module)
        if module in self._own_rules and sites is not None:
            sides = self._own_rules[module].sides(module).get(key, ())
            side = sides[axis] if axis < len(sides) else None
            labels = sites.inputs if side == "in" else sites.outputs if side == "out" else None
            if labels is not None:
                self.channels.protect(labels.tolist(), why)

    def _note_axes(self, before: set[tuple[str, int]]) -> None:
        """Remember when the axes of bare tensors were first met, among the layers."""
        for key in self.bare.labels.keys() - before:
            labels = self.bare.labels[key]
            self.sites[self.bare.owners[key]] = Sites(rule_of(self.bare.owners[key]), None, labels)

    def _met_own_layer(self, tensor: Tensor, labels: Tensor) -> bool:
        """Whether a tensor is the bias of a layer that was recognized by its product."""
        name = self.bare.name_of(tensor)
        if name is None:
            return False
        path, _, key = name.rpartition(".")
        module = self.model.get_submodule(path)
        known = self.sites.get(module)
        if module not in self._own_rules or known is None or known.outputs is None or key != "bias":
            return False
        if known.outputs.numel() != tensor.numel():
            return False
        axes = varying_dims(labels)
        if len(axes) == 1:
            self._unite(merge_along(labels, axes[0], self.channels), known.outputs)
        return True

    def _own_layer(self, tensor: Any, kind: str) -> tuple[nn.Module, LayerRule] | None:
        """The layer of a known kind, with a forward of its own, that a whole weight belongs to."""
        name = None if not isinstance(tensor, Tensor) else self.bare.name_of(tensor)
        if name is None:
            return None
        path, _, key = name.rpartition(".")
        module = self.model.get_submodule(path)
        rule = base_rule_of(module)
        if rule is None or rule.kind != kind or rule.refuses(module) is not None:
            return None
        if key not in ("weight", "bias", "running_mean", "running_var"):
            return None
        if getattr(module, key, None) is not self.bare.tensors[name]:
            return None
        return module, rule

    def bare_norm(self, tensors: Sequence[Any], labels: Tensor, axis: int, kind: str) -> None:
        """Bare tensors of an entry per channel scaled an axis of ``labels``."""
        known = [t for t in tensors if isinstance(t, Tensor)]
        own = self._own_layer(known[0], "norm") if known else None
        wanted = {"batch_norm": "batchnorm", "group_norm": "groupnorm", "layer_norm": "layernorm"}
        if own is not None and wanted[kind] in type(own[1]).__name__.lower():
            module, rule = own
            merged = merge_along(labels, axis, self.channels)
            if merged.numel() == rule.n_out(module):
                self._own_rules[module] = rule
                self.by_calls.add(module)
                self._record(module, Sites(rule, None, merged))
                return
        shape = [1] * labels.dim()
        shape[axis] = -1
        for tensor in known:
            if tensor.numel() > 1:
                self.met(tensor.view(shape), labels)

    def bare_product(
        self, activation: Tensor, weight: Tensor, labels: Tensor, kind: str
    ) -> Tensor | None:
        """A product (…, n, K) @ (…, K, J) with a bare weight: labels of (…, J)."""
        numbers = self.bare.numbers(weight)
        assert numbers is not None
        if weight.shape[-1] == 1 and self._is_vector(numbers):
            self.gate([labels], "a product with a bare vector")
            self.scaling = [labels.amax(-2)]
            turned = weight.transpose(-1, -2).expand(labels.shape)
            self.met(turned, labels)
            return None
        batch = [d for d in self.bare.varying(numbers) if d < weight.dim() - 2]
        parts = weight.shape[batch[0]] if batch else 1
        read, made = self.bare.lines(numbers, -2), self.bare.lines(numbers, -1)
        if weight.shape[-1] == 1:
            made = _single(read, numbers)
        if read is None or made is None or len(read) > 1 or len(made) > 1 or len(batch) > 1:
            self.protect([labels], "a product with a weight that is computed in an unknown way")
            return None
        (_, line_in), (_, line_out) = read[0], made[0]
        if line_in.name != line_out.name or not _in_order(line_in) or not _in_order(line_out):
            self.protect([labels], "a product with a weight that is computed in an unknown way")
            return None
        self.gate([labels], "a product with a bare weight")
        if parts > 1:
            rows = labels.movedim(batch[0], 0).movedim(-1, 1).flatten(2).amax(2)
            inputs = rows.long()
        else:
            inputs = merge_along(labels, labels.dim() - 1, self.channels)[None]
        own = self._own_layer(_whole(self.bare, line_in.name), "linear") if parts == 1 else None
        if own is not None and (line_in.axis, line_out.axis) == (1, 0):
            outputs = self._reads(own[0], own[1], inputs[0], own[1].n_out(own[0]), 1, 1)
            self._own_rules[own[0]] = own[1]
        else:
            self._note_layers(numbers)
            owner = self._bare_weight(line_in.name, line_in.axis, line_out.axis, parts, parts)
            count = weight.shape[-1] * parts
            outputs = self._reads(owner, rule_of(owner), inputs.flatten(), count, parts, parts)
        shape = [1] * labels.dim()
        shape[-1] = weight.shape[-1]
        if parts > 1:
            shape[batch[0]] = parts
        return outputs.view(parts, -1).view(shape).to(labels.dtype)

    def _is_vector(self, numbers: Tensor) -> bool:
        """Whether a computed tensor comes from parameters of one axis."""
        names = self.bare.names_in(numbers)
        return all(sum(n > 1 for n in self.bare.tensors[name].shape) <= 1 for name in names)

    def _bare_weight(
        self, name: str, axis_in: int, axis_out: int, parts_in: int, parts_out: int
    ) -> BareWeight:
        path, _, key = name.rpartition(".")
        if name not in self._weights:
            host = self.model.get_submodule(path)
            self._weights[name] = BareWeight(host, key, axis_in, axis_out, parts_in, parts_out)
            self._names[self._weights[name]] = name
        return self._weights[name]

    def _reads(
        self,
        owner: nn.Module,
        rule: LayerRule | None,
        inputs: Tensor,
        count: int,
        parts_in: int,
        parts_out: int,
    ) -> Tensor:
        """Record a product with weights that are read by a call; returns its outputs."""
        assert rule is not None
        self._tie_parts(inputs, parts_in)
        known = self.sites.get(owner)
        made = self._fresh(count, parts_out) if known is None else known.outputs
        assert made is not None
        self.by_calls.add(owner)
        self._record(owner, Sites(rule, inputs, made))
        self.scaling = [owner]
        return made

    def convolved(self, named: dict[str, Any], output: Tensor) -> bool:
        """A convolution with a bare weight; whether it is one that is known."""
        x, weight, groups = named["input"], named["weight"], int(named["groups"])
        numbers, labels = self.bare.numbers(weight), self.store.get(x)
        if numbers is None or self.store.get(weight) is not None:
            return False
        transposed = bool(named["transposed"])
        axis_in, axis_out = (0, 1) if transposed else (1, 0)
        if labels is not None and set(varying_dims(labels)) - {0, 1}:
            return False
        if labels is not None and constant_along(labels, 1) and x.shape[1] > 1:
            return False
        kept = torch.zeros(x.shape[1], dtype=torch.long)
        if labels is not None:
            kept = merge_along(labels, 1, self.channels)
        own = self._own_layer(_whole_view(self.bare, weight), "conv")
        if own is not None:
            outputs: Tensor | None = self._own_convolution(*own, kept, labels)
        elif groups > 1 and weight.shape[1] == 1 and output.shape[1] == x.shape[1]:
            outputs = kept  # depthwise: each channel by itself
            self.scaling = [kept]
            self._note_layers(numbers)
            self.met(weight, kept.view(-1, *[1] * (weight.dim() - 1)).expand(weight.shape))
        else:
            outputs = self._bare_convolution(
                numbers, weight, axis_in, axis_out, groups, kept, labels
            )
        if outputs is None:
            return False
        along = outputs.view(1, -1, *[1] * (output.dim() - 2)).expand(output.shape)
        if bool((outputs > 0).any()):
            self.store.set(output, along)
            bias = named.get("bias")
            if bias is not None and bias.numel() > 1:
                self.met(bias.view(1, -1, *[1] * (output.dim() - 2)), along)
        return True

    def _own_convolution(
        self, module: nn.Module, rule: LayerRule, kept: Tensor, labels: Tensor | None
    ) -> Tensor:
        self._own_rules[module] = rule
        self.by_calls.add(module)
        if rule.relation == "through":
            merged = kept
            read, made = rule.units(module)
            if read > 1:
                for unit in merged.view(-1, read):
                    self.channels.unite_all(unit)
                merged = merged.view(-1, read).amax(1)
            if labels is not None:
                self._record(module, Sites(rule, None, merged))
            self.scaling = [module]
            return merged.repeat_interleave(made) if made > 1 else merged
        tie_in, tie_out = rule.ties(module)
        if labels is not None:
            self.gate([labels], "a convolution")
        return self._reads(module, rule, kept, rule.n_out(module), tie_in, tie_out)

    def _bare_convolution(
        self,
        numbers: Tensor,
        weight: Tensor,
        axis_in: int,
        axis_out: int,
        groups: int,
        kept: Tensor,
        labels: Tensor | None,
    ) -> Tensor | None:
        made, read = self.bare.lines(numbers, axis_out), self.bare.lines(numbers, axis_in)
        if weight.shape[axis_in] == 1:
            read = _single(made, numbers)
        if weight.shape[axis_out] == 1:
            made = _single(read, numbers)
        if made is None or read is None or len(made) > 1 or len(read) > 1:
            return None
        line_in, line_out = read[0][1], made[0][1]
        if line_in.name != line_out.name or not _in_order(line_in) or not _in_order(line_out):
            return None
        self._note_layers(numbers)
        parts_in, parts_out = (1, groups) if axis_in == 0 else (groups, 1)
        owner = self._bare_weight(line_in.name, line_in.axis, line_out.axis, parts_in, parts_out)
        if labels is not None:
            self.gate([labels], "a convolution")
        self._tie_parts(kept, groups)
        count = weight.shape[axis_out] * parts_out
        outputs = self._reads(owner, rule_of(owner), kept, count, groups, groups)
        return outputs

    def _add_bare_sites(self) -> None:
        """Give bare parameters with one axis of channels to torch-pruning as it knows them."""
        weights = {owner.tensor for owner in self._weights.values()}
        axes: dict[str, list[BareAxis]] = {}
        for (name, axis), owner, entries in list(self.bare.axes_of()):
            if self._is_weight_axis(name, axis, entries):
                self.sites.pop(owner, None)
                continue
            self.sites.setdefault(owner, Sites(rule_of(owner), None, entries))
            axes.setdefault(name, []).append(owner)
        made = {self.channels.find(n) for labels in self.made() for n in labels.tolist() if n}
        single: dict[nn.Module, nn.Parameter] = {}
        for name, owners in axes.items():
            tensor = self.bare.tensors[name]
            hidden = tensor in self._direct.layer_of or self._is_own(name)
            for owner in owners:
                if hidden:
                    labels = self.sites.pop(owner).outputs
                    assert labels is not None
                    why = f"'{name}' meets it in a way that has no rule"
                    self.channels.protect(labels.tolist(), why)
                elif isinstance(tensor, nn.Parameter) and len(owners) == 1:
                    held = self.bare.labels[name, owner.dim].tolist()
                    made_elsewhere = made & {self.channels.find(entry) for entry in held}
                    if made_elsewhere and tensor not in weights:
                        single[owner] = tensor
                        self.parameter_dims[tensor] = owner.dim
        bare = [o for o in self.sites if isinstance(o, BareTensor)]
        for stand_in in filter(self._in_custom, bare):
            del self.sites[stand_in]  # a user's pruner cuts it
            single.pop(stand_in, None)
        for name, weight in self._weights.items():
            if weight in self.sites and self.bare.tensors[name] in self._direct.layer_of:
                known = self.sites.pop(weight)
                why = f"it meets the weights of a layer outside of it, '{name}'"
                for labels in (known.inputs, known.outputs):
                    self.channels.protect([] if labels is None else labels.tolist(), why)
        found: dict[nn.Module | nn.Parameter, Sites] = {}
        for site_owner, sites in self.sites.items():
            parameter = single.get(site_owner) if isinstance(site_owner, nn.Module) else None
            if parameter is None:
                found[site_owner] = sites
            else:
                found[parameter] = Sites(None, None, sites.outputs)
        self.sites = found

    def looked_up(self, weight: Tensor, output: Tensor) -> bool:
        """Rows of the table of an embedding layer with a forward of its own."""
        own = self._own_layer(weight, "embedding")
        if own is None:
            return False
        module, rule = own
        known = self.sites.get(module)
        made = self.channels.fresh(rule.n_out(module)) if known is None else known.outputs
        assert made is not None
        self._own_rules[module] = rule
        self.by_calls.add(module)
        self._record(module, Sites(rule, None, made))
        self.store.set(output, _along(made, output.dim() - 1, output))
        return True

    def _in_custom(self, owner: BareTensor) -> bool:
        name = self._names[owner.host]
        return any(
            name == held or name.startswith(f"{held}.")
            for held in (self._names[module] for module in self._custom)
        )

    def _is_weight_axis(self, name: str, axis: int, entries: Tensor) -> bool:
        """Whether an axis is one of a bare weight; its entries are then channels of that."""
        weight = self._weights.get(name)
        sites = None if weight is None else self.sites.get(weight)
        if weight is None or sites is None or axis not in (weight.axis_in, weight.axis_out):
            return False
        labels = sites.inputs if axis == weight.axis_in else sites.outputs
        assert labels is not None
        for part in labels.view(-1, entries.numel()):
            self._unite(part, entries)
        return True

    def _is_own(self, name: str) -> bool:
        return self.model.get_submodule(name.rpartition(".")[0]) in self._own_rules

    # -- layers -----------------------------------------------------------------------------------

    @contextmanager
    def _watching_modules(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in list(self._names):
                if module in self._custom:
                    stack.callback(
                        module.register_forward_pre_hook(self._enter_custom, prepend=True).remove
                    )
                    hook = module.register_forward_hook(self._leave_custom, with_kwargs=True)
                    stack.callback(hook.remove)
                    continue
                rule = rule_of(module)
                before = module.register_forward_pre_hook(self._enter(rule), prepend=True)
                stack.callback(before.remove)
                after = module.register_forward_hook(self._leave(rule), with_kwargs=True)
                stack.callback(after.remove)
            yield

    def _enter(self, rule: LayerRule | None) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            self._here.enter(module)
            self._turns.append(Counter())
            self.ran.add(module)
            self.inside_layer += rule is not None

        return hook

    def _leave(self, rule: LayerRule | None) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if rule is not None:
                self.inside_layer -= 1
                if not self.inside_layer:
                    with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
                        self._layer_or_refused(rule, module, args, kwargs, output)
            self._turns.pop()
            self._here.leave()

        return hook

    def _enter_custom(self, module: nn.Module, args: Any) -> None:
        self._enter(None)(module, args)
        self._inside_custom += 1

    def _leave_custom(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A layer that only a user's pruner knows how to cut: its own code says what it reads."""
        self._inside_custom -= 1
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            self._custom_layer(self._custom[module], module, args, kwargs, output)
        self._turns.pop()
        self._here.leave()

    def _custom_layer(
        self, rule: LayerRule, module: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> None:
        entering: list[Tensor] = []
        _each_tensor((args, kwargs), lambda t: entering.append(t))
        result = rule.output(output)
        read, made = self.store.get(entering[0]), self.store.get(result)
        if read is None:
            return
        inputs = merge_along(read, rule.axis(module, entering[0]), self.channels)
        self.by_calls.add(module)
        if rule.relation == "through":
            self._record(module, Sites(rule, None, inputs))
            if made is None:
                self.store.set(result, _along(inputs, rule.axis(module, result), result))
            return
        axis = rule.axis(module, result)
        if made is None:
            outputs = self.channels.fresh(result.shape[axis])
            self.store.set(result, _along(outputs, axis, result))
        else:
            outputs = merge_along(made, axis, self.channels)
        self._record(module, Sites(rule, inputs, outputs))

    def _layer_or_refused(
        self, rule: LayerRule, module: nn.Module, args: Any, kwargs: Any, out: Any
    ) -> None:
        try:
            self._layer(rule, module, args, kwargs, out)
        except Exception as error:  # a mistake of ours: the layer and what enters are protected
            entering: list[Tensor] = []
            _each_tensor((args, kwargs), lambda t: entering.append(t))
            why = f"its rule fails on it ({type(error).__name__}: {error})"
            self._refused(module, why, entering, out)
            known = self.sites.get(module)
            for labels in () if known is None else (known.inputs, known.outputs):
                if labels is not None:
                    self.channels.protect(labels.tolist(), self.refused[module])

    def _layer(self, rule: LayerRule, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        self._here.follow(rule.kind)
        self._as_layers.add(module)
        result = rule.output(out)
        entering: list[Tensor] = []
        _each_tensor((args, kwargs), lambda t: entering.append(t))
        why = rule.refuses(module)
        if why is None and not self._shares_by_axis(rule, module):
            why = "its weights are shared with another layer"
        if why is None and not isinstance(result, Tensor):
            why = "it returns something other than a tensor"
        if why is not None:
            self._refused(module, why, entering, out)
            return
        axis = rule.axis(module, entering[0])
        labels = self._entering(entering[0], axis)
        if rule.relation == "through":
            self._through(rule, module, labels, axis, result)
        else:
            self._maps(rule, module, labels, axis, result)
            self._states(rule, module, entering[1:], result, out)
        _each_tensor(out, lambda t: self._protect_rest(t, result, module))

    def _entering(self, tensor: Tensor, axis: int) -> Tensor | None:
        """Labels of what enters a layer; a bare tensor becomes one with channels here."""
        labels = self.store.get(tensor)
        if labels is None and self.bare.known(tensor):
            numbers = self.bare.numbers(tensor)
            assert numbers is not None
            self._note_layers(numbers)
            before = set(self.bare.labels)
            labels = self.bare.as_labels(tensor, axis % tensor.dim())
            self._note_axes(before)
        return labels

    def _states(
        self, rule: LayerRule, module: nn.Module, entering: list[Tensor], result: Tensor, out: Any
    ) -> None:
        """States of a recurrent layer (…, hidden) are its hidden units, going in and out."""
        known = self.sites.get(module)
        if rule.kind != "rnn" or known is None or known.outputs is None:
            return
        made = known.outputs
        for tensor in entering:
            labels = self.store.get(tensor) if tensor.is_floating_point() else None
            if labels is not None and labels.size(-1) == made.numel():
                self._unite(merge_along(labels, labels.dim() - 1, self.channels), made)

        def mark(tensor: Tensor) -> None:
            floats = tensor is not result and tensor.is_floating_point()
            if floats and tensor.dim() >= 2 and tensor.size(-1) == made.numel():
                self.store.set(tensor, _along(made, tensor.dim() - 1, tensor))

        _each_tensor(out, mark)

    def _shares_by_axis(self, rule: LayerRule, module: nn.Module) -> bool:
        """Whether the axes of all parameters that a layer shares are known."""
        sides = rule.sides(module)
        holders = [holder for found in self.shared.values() for holder in found]
        return all(holder.name in sides for holder in holders if holder.module is module)

    def _refused(self, module: nn.Module, why: str, entering: list[Tensor], out: Any) -> None:
        reason = f"layer '{self._names[module]}' cannot be cut: {why}"
        self.refused[module] = reason
        labels = [x for x in map(self.store.get, entering) if x is not None]
        for tensor in labels:
            self.channels.protect(torch.unique(tensor).tolist(), reason)
        label = self.channels.fixed(reason)
        _each_tensor(out, lambda t: self.store.set(t, label))

    def _through(
        self, rule: LayerRule, module: nn.Module, labels: Tensor | None, axis: int, out: Tensor
    ) -> None:
        if labels is None:
            return
        merged = merge_along(labels, axis, self.channels)
        self._tie_parts(merged, rule.ties(module)[0])
        read, made = rule.units(module)
        if read > 1:
            for unit in merged.view(-1, read):
                self.channels.unite_all(unit)
            merged = merged.view(-1, read).amax(1)
        self._record(module, Sites(rule, None, merged))
        if rule.consumes(module):
            self._consumed.append(merged)
        outputs = merged.repeat_interleave(made) if made > 1 else merged
        self.store.set(out, _along(outputs, rule.axis(module, out), out))

    def _maps(
        self, rule: LayerRule, module: nn.Module, labels: Tensor | None, axis: int, out: Tensor
    ) -> None:
        if labels is not None and rule.reads(module) and self._beside(labels, axis):
            self._works_beside(rule, module, labels, axis, out)
            return
        inputs = None
        tie_in, tie_out = rule.ties(module)
        if rule.reads(module):
            if labels is None:
                inputs = torch.zeros(rule.n_in(module), dtype=torch.long)
            else:
                inputs = merge_along(labels, axis, self.channels)
                self._lost(labels, axis, module)
            self._tie_parts(inputs, tie_in)
        known = self.sites.get(module)
        made = self._fresh(rule.n_out(module), tie_out) if known is None else known.outputs
        assert made is not None
        self._record(module, Sites(rule, inputs, made))
        index = torch.tensor(rule.output_index(module))
        self.store.set(out, _along(made[index], rule.axis(module, out), out))

    def _beside(self, labels: Tensor, axis: int) -> bool:
        """Whether channels lie along other axes than the one that a layer reads."""
        along = varying_dims(labels)
        return bool(along) and axis % labels.dim() not in along and labels.size(axis) > 1

    def _works_beside(
        self, rule: LayerRule, module: nn.Module, labels: Tensor, axis: int, out: Tensor
    ) -> None:
        """A layer that works on another axis, for each channel alike: channels stay in place."""
        name = self._names[module]
        kept = labels.amax(axis, keepdim=True)
        if kept.dim() != out.dim():
            self.protect([labels], f"layer '{name}' takes its channels for positions")
            return
        for dim in range(kept.dim()):
            if kept.size(dim) != out.size(dim) and kept.size(dim) > 1:
                if dim in varying_dims(labels):
                    self.protect([labels], f"layer '{name}' takes its channels for positions")
                    return
                kept = kept.amax(dim, keepdim=True)
        self.beside[module] = labels.amax(axis)
        fixed = f"layer '{name}' works along another axis than that of the channels that it gets"
        made = torch.full((rule.n_out(module),), self.channels.fixed(fixed))
        inputs = torch.full((rule.n_in(module),), self.channels.fixed(fixed))
        self._record(module, Sites(rule, inputs, made))
        self.store.set(out, kept.expand(out.shape))

    def _fresh(self, count: int, parts: int) -> Tensor:
        """New labels, the same in each of several equal parts (what pools over parts is fine)."""
        return self.channels.fresh(count // parts).repeat(parts)

    def _lost(self, labels: Tensor, axis: int, module: nn.Module) -> None:
        """Channels that lie along an axis other than the one that the layer reads."""
        for dim in varying_dims(labels):
            if dim != axis and labels.size(axis) == 1:
                name = self._names[module]
                self.protect([labels], f"layer '{name}' takes its channels for positions")
                return

    def _protect_rest(self, tensor: Tensor, result: Tensor, module: nn.Module) -> None:
        if tensor is not result and self.store.get(tensor) is None:
            reason = f"it is a state that layer '{self._names[module]}' returns beside its output"
            self.store.set(tensor, self.channels.fixed(reason))

    def _record(self, module: nn.Module, sites: Sites) -> None:
        known = self.sites.get(module)
        if known is None:
            self.sites[module] = sites
            return
        for old, new in ((known.inputs, sites.inputs), (known.outputs, sites.outputs)):
            if old is not None and new is not None:
                self._unite(old, new)

    def _unite(self, one: Tensor, other: Tensor) -> None:
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            self.channels.unite(a, b)

    def tie(self, first: nn.Module, second: nn.Module, index: Sequence[int]) -> None:
        """Unite output ``j`` of ``second`` with output ``index[j]`` of ``first``, for all ``j``.

        A layer that is not followed (it did not run, or cannot be cut) protects the other.
        """
        one, other = (self.sites[m].outputs if m in self.sites else None for m in (first, second))
        if one is not None and other is not None:
            self._unite(one[torch.tensor(index)], other)
        for labels, layer in ((one, second), (other, first)):
            if labels is not None and (one is None or other is None):
                reason = f"its width is that of layer '{self._names[layer]}', which cannot be cut"
                self.channels.protect(labels.tolist(), reason)

    def made(self) -> list[Tensor]:
        """Labels of the output channels of each layer that makes its own."""
        return [
            sites.outputs
            for sites in self.sites.values()
            if sites.outputs is not None and sites.rule and sites.rule.relation == "maps"
        ]

    def _tie_parts(self, labels: Tensor, parts: int) -> None:
        if parts > 1 and labels.numel() % parts == 0:
            for column in labels.view(parts, -1).unbind(1):
                self.channels.unite_all(column)


def _along(labels: Tensor, axis: int, out: Tensor) -> Tensor:
    shape = [1] * out.dim()
    shape[axis] = -1
    return labels.view(shape).expand(out.shape)


def _compressed(labels: Tensor) -> Tensor:
    """Labels with one element along each axis on which they do not change; int64, a copy.

    Of an axis along which they repeat (heads in the batch axis), one period.
    """
    along = varying_dims(labels)
    for dim in range(labels.dim()):
        if dim not in along and labels.size(dim) > 1:
            labels = labels.amax(dim, keepdim=True)
    for dim in along:
        size = labels.size(dim)
        for period in range(2, size // 2 + 1):
            if size % period == 0:
                once = labels.narrow(dim, 0, period)
                tiled = torch.cat([once] * (size // period), dim)
                if torch.equal(tiled, labels):
                    labels = once
                    break
    return labels.long().clone()


def _in_order(line: Any) -> bool:
    """Whether entries of a parameter lie along an axis as in the parameter, all of them."""
    index = line.index
    return bool((index == torch.arange(index.numel())).all())


def _single(lines: Any, numbers: Tensor) -> Any:
    """The line of an axis of one element, on the parameter of the other lines."""
    if lines is None or len(lines) != 1:
        return None
    where, line = lines[0]
    return [(where[:1], type(line)(line.name, 1 - line.axis, line.index[:1] * 0))]


def _whole(bare: BareTensors, name: str) -> Tensor:
    return bare.tensors[name]


def _whole_view(bare: BareTensors, tensor: Tensor) -> Tensor | None:
    name = bare.name_of(tensor)
    return None if name is None else bare.tensors[name]


def _each_tensor(values: Any, visit: Callable[[Tensor], object]) -> None:
    if isinstance(values, Tensor):
        visit(values)
    elif isinstance(values, (tuple, list)):  # the usual cases, without the cost of a tree
        for value in values:
            _each_tensor(value, visit)
    elif values is not None and not isinstance(values, (int, float, str)):
        tree_map(lambda v: visit(v) if isinstance(v, Tensor) else None, values)
