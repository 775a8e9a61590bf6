"""Run a model once with labels beside its tensors, and record what each layer reads and makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from .._modes import eval_mode
from ..layers import LayerRule, rule_of
from ..layers.composite import named_layers, run_by_parts
from ..layers.held import HeldBuffer
from .labels import Channels, LabelStore, merge_along, varying_dims
from .operations import rule_for
from .rectangles import Rectangle, rectangle
from .sharing import DirectUses, couple, shared_parameters
from .tracing import Sites
from .whereabouts import Whereabouts

__all__ = ["Tracer", "shapes_of"]


class Tracer(TorchDispatchMode):
    """Labels every tensor of one eager forward pass.

    Attributes:
        store: Labels of live tensors.
        channels: All channels, united where they met.
        sites: For each layer (or bare parameter) its labels, in order of execution.
        output_shapes: Shapes of what the model returned.
        refused: Layers that have a rule but cannot be cut, with the reason.
        rectangles: Each channel axis that a reshape split; see ``rectangles.settle``.
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
        self.sites: dict[nn.Module | nn.Parameter, Sites] = {}
        self.refused: dict[nn.Module, str] = {}
        self.parameter_dims: dict[nn.Parameter, int] = {}
        self.rectangles: list[Rectangle] = []
        self._consumed: list[Tensor] = []
        self.output_shapes: Any = None
        self._inside_layer = 0
        self._owned = {t.untyped_storage()._cdata: (n, t, t) for n, t in _state(model)}
        self._held: dict[str, HeldBuffer] = {}
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
        with torch.no_grad(), eval_mode(self.model), by_parts, self._watching_modules():
            label = self.channels.fixed("it meets the model's input")
            _each_tensor(example_inputs, lambda t: self.store.set(t, label))
            with self:
                output = call()
            _each_tensor(output, self._protect_output)
            self.output_shapes = shapes_of(output)
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
        if not self._inside_layer:
            self._here.follow(func.overloadpacket.__name__)
            self._used_directly(args)
            rule = rule_for(func)
            if rule is not None:
                rule(self, func, args, kwargs, output)
            else:
                self._unknown(func, args, kwargs, output)
        return output

    def _unknown(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        entering: list[Tensor] = []
        _each_tensor((args, kwargs), lambda t: entering.append(t))
        labels = [x for x in map(self.store.get, entering) if x is not None]
        if not labels:
            return
        name = str(func.overloadpacket.__name__)
        self.protect(labels, f"operation '{name}' has no rule and may mix channels")
        label = self.channels.fixed(f"it is made by '{name}', which has no rule, {self._here}")
        _each_tensor(output, lambda t: self.store.set(t, label))

    # -- what operation rules use -----------------------------------------------------------------

    def protect(self, labels: Sequence[Tensor], why: str) -> None:
        """Protect every channel in ``labels`` with a reason and the place in the code."""
        where = str(self._here)
        for tensor in labels:
            self.channels.protect(torch.unique(tensor).tolist(), f"{why}, {where}")

    def leave_ungated(self, labels: Sequence[Tensor], why: str) -> None:
        """Let channels be cut but not gated, with a reason and the place in the code."""
        where = str(self._here)
        for tensor in labels:
            self.channels.leave_ungated(torch.unique(tensor).tolist(), f"{why}, {where}")

    def axis_split(self, labels: Tensor, axes: Sequence[int]) -> None:
        """Remember a channel axis that a reshape split."""
        self.rectangles.append(Rectangle(rectangle(labels, axes), self._here.place()))

    def consumed(self, labels: Tensor) -> bool:
        """Whether channels just went through a layer that closes them for the product to come."""
        return any(bool(torch.isin(labels, known).all()) for known in self._consumed)

    def is_parameter(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter or buffer of the model, or a view of one."""
        return tensor.untyped_storage()._cdata in self._owned

    def parameter_met(self, tensor: Tensor, labels: Tensor) -> None:
        """Record that a bare parameter or buffer is indexed by the channels that it met."""
        name, owner, whole = self._owned[tensor.untyped_storage()._cdata]
        offset = labels.dim() - tensor.dim()
        axes = [d for d in varying_dims(labels) if d >= offset and tensor.size(d - offset) > 1]
        if not axes:
            return
        place = tensor.stride(axes[0] - offset), tensor.size(axes[0] - offset)
        along = [d for d in range(whole.dim()) if (whole.stride(d), whole.size(d)) == place]
        if len(axes) > 1 or len(along) != 1 or owner in self._direct.layer_of:
            self.protect([labels], f"'{name}' meets it in a way that has no rule")
            return
        merged = merge_along(labels, axes[0], self.channels)
        found = owner if isinstance(owner, nn.Parameter) else self._holding(name, along[0])
        known = self.sites.get(found)
        if known is not None and known.outputs is not None:
            self._unite(known.outputs, merged)
        elif isinstance(found, nn.Parameter):
            self.sites[found] = Sites(None, None, merged)
            self.parameter_dims[found] = along[0]
        else:
            self.sites[found] = Sites(rule_of(found), None, merged)

    def _holding(self, name: str, dim: int) -> HeldBuffer:
        path, _, key = name.rpartition(".")
        held = HeldBuffer(self.model.get_submodule(path), key, dim)
        return self._held.setdefault(f"{name} {dim}", held)

    def derived(self, tensor: Tensor, output: Tensor) -> None:
        """Record that ``output`` is a function of a bare parameter, element by element."""
        name, owner, whole = self._owned[tensor.untyped_storage()._cdata]
        if tensor.shape == whole.shape == output.shape and tensor.stride() == whole.stride():
            self._owned[output.untyped_storage()._cdata] = (name, owner, output)

    def _used_directly(self, args: tuple[Any, ...]) -> None:
        """Note layers whose weights an operation outside of them reads."""
        for value in args:
            for tensor in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(tensor, Tensor):
                    entry = self._owned.get(tensor.untyped_storage()._cdata)
                    if entry is not None and entry[1] in self._direct.layer_of:
                        self._direct.note(entry[1], str(self._here))

    # -- layers -----------------------------------------------------------------------------------

    @contextmanager
    def _watching_modules(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self._names:
                rule = self._custom.get(module) or rule_of(module)
                before = module.register_forward_pre_hook(self._enter(rule), prepend=True)
                stack.callback(before.remove)
                after = module.register_forward_hook(self._leave(rule), with_kwargs=True)
                stack.callback(after.remove)
            yield

    def _enter(self, rule: LayerRule | None) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            self._here.enter(module)
            self._inside_layer += rule is not None

        return hook

    def _leave(self, rule: LayerRule | None) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if rule is not None:
                self._inside_layer -= 1
                if not self._inside_layer:
                    with torch._C._DisableTorchDispatch():
                        self._layer(rule, module, args, kwargs, output)
            self._here.leave()

        return hook

    def _layer(self, rule: LayerRule, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        self._here.follow(rule.kind)
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
        labels = self.store.get(entering[0])
        if rule.relation == "through":
            self._through(rule, module, labels, axis, result)
        else:
            self._maps(rule, module, labels, axis, result)
        _each_tensor(out, lambda t: self._protect_rest(t, result, module))

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


def _each_tensor(values: Any, visit: Callable[[Tensor], object]) -> None:
    if isinstance(values, Tensor):
        visit(values)
    elif isinstance(values, (tuple, list)):  # the usual cases, without the cost of a tree
        for value in values:
            _each_tensor(value, visit)
    elif values is not None and not isinstance(values, (int, float, str)):
        tree_map(lambda v: visit(v) if isinstance(v, Tensor) else None, values)


def _state(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def shapes_of(outputs: Any) -> Any:
    """The outputs of a model with a shape in place of each tensor."""
    return tree_map(lambda v: v.shape if isinstance(v, Tensor) else None, outputs)
