"""Refit the layers of a pruned model to what the layers of the dense model give.

The dense model runs first, and a sample of what each layer gave is kept; then the layers of the
pruned model are refitted in the order in which they run. Where the samples are more than fit, both
models run again for the layers that are left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._modes import eval_mode
from .._unwrap import eagerly, unwrapped
from ..errors import InputError
from ..graph.kept import KeptChannels
from ..layers import LayerRule, rule_of
from ..layers.composite import named_layers, run_by_parts
from ..layers.regression import Regression

__all__ = ["Lockstep", "Refitted", "Solve", "mixtures_of"]

_HELD = 1 << 30  # bytes of what layers of the dense model give, beyond which no layer is added
_SAME = 1e-10  # relative energy of the error below which a layer gives what the dense one gives

Solve = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""(features (G, n, F), targets (G, n, O), weight (G, O, F), bias (G, O)) -> weight and bias."""


@dataclass(frozen=True)
class Refitted:
    """What became of one layer.

    Attributes:
        layer: Dotted name.
        before: Energy of the error of its output relative to that of the dense layer's output
            around its mean, on the fitted positions, with the weights that it had.
        after: The same with the new weights.
    """

    layer: str
    before: float
    after: float


@dataclass
class _Call:
    """A call of a dense layer: positions that were picked, and what the layer gave there."""

    shape: torch.Size
    picked: Tensor
    targets: list[Tensor]
    forced: list[Tensor | None]
    x: Tensor | None

    @property
    def size(self) -> int:
        """Bytes."""
        held = [self.picked, *self.targets, *self.forced, self.x]
        return sum(tensor.nbytes for tensor in held if tensor is not None)


@dataclass
class _Layer:
    """A layer that both models have."""

    name: str
    rule: LayerRule
    dense: nn.Module
    pruned: nn.Module
    from_dense: Regression
    form: Regression
    keep_in: Tensor
    keep_out: Tensor
    calls: list[_Call] = field(default_factory=list)

    @property
    def lost_inputs(self) -> bool:
        """Whether it mixes channels of which some are gone."""
        mixes = self.rule.relation == "maps"
        return mixes and self.keep_in.numel() < self.rule.n_in(self.dense)


class _Enough(Exception):
    """The pruned model need not run on: nothing is left, or a layer that it ran changed."""


class Lockstep:
    """Both models, and the layers to refit."""

    def __init__(
        self,
        pruned: nn.Module,
        dense: nn.Module,
        kept: KeptChannels,
        kinds: tuple[str, ...],
        samples: int,
        seed: int,
    ) -> None:
        """Pair the layers of the two models.

        Args:
            pruned: The pruned model.
            dense: The model that it was pruned from.
            kept: Which channels it still has.
            kinds: Kinds of regression to refit.
            samples: Positions to keep of each call.
            seed: Of the positions.

        Raises:
            InputError: If ``kept`` does not belong to the two models.
        """
        self._pruned, self._dense = unwrapped(pruned), unwrapped(dense)
        self._samples = samples
        self._seed = seed
        self._layers = list(_paired(self._dense, self._pruned, kept, kinds))

    def refit_apart(self, mixture: Tensor, solve: Solve) -> list[Refitted]:
        """Refit each layer that lost inputs, to what is left of the dense layer's inputs."""
        done = []
        whole = {layer.name for layer in self._layers if not layer.lost_inputs}
        for turn in self._turns(mixture, with_inputs=True, had=whole):
            for layer in turn:
                inputs = [call.x for call in layer.calls if call.x is not None]
                done += _refit(layer, inputs, solve)
        return done

    def refit_in_order(self, mixture: Tensor, solve: Solve) -> list[Refitted]:
        """Run the pruned model and refit each layer when it is reached.

        A layer that is called several times is refitted at its last call, and the model runs
        again; the layers between wait for it.
        """
        done: list[Refitted] = []
        for turn in self._turns(mixture, with_inputs=False, had=set()):
            left = {layer.name for layer in turn}
            while left:
                try:
                    self._run_pruned(mixture, solve, left, done)
                    break
                except _Enough:
                    continue
        return done

    def _run_pruned(
        self, mixture: Tensor, solve: Solve, left: set[str], done: list[Refitted]
    ) -> None:
        waiting: defaultdict[str, list[Tensor]] = defaultdict(list)

        def reached(layer: _Layer, x: Tensor) -> None:
            blocked = any(name != layer.name for name in waiting)
            if layer.name not in left or blocked:
                return
            inputs = waiting[layer.name]
            inputs.append(x)
            if len(inputs) == len(layer.calls):
                done.extend(_refit(layer, inputs, solve))
                left.discard(layer.name)
                del waiting[layer.name]
                if not left or len(layer.calls) > 1:
                    raise _Enough

        with ExitStack() as stack:
            stack.enter_context(_as_is(self._pruned))
            for layer in self._layers:
                hook = _Before(layer, reached)
                stack.callback(
                    layer.pruned.register_forward_pre_hook(hook, with_kwargs=True).remove
                )
            self._pruned(mixture)

    def _turns(self, mixture: Tensor, with_inputs: bool, had: set[str]) -> Iterator[list[_Layer]]:
        """Give the layers their samples, as many at a time as are to be held.

        They come in the order of their first calls, so that it makes no difference how many have
        their turn together.

        Args:
            mixture: What the models run on.
            with_inputs: Whether samples hold the inputs, too.
            had: Names of layers that need none; those that had their turn are added.
        """
        left = True
        while left:
            turn, left = self._watch(mixture, with_inputs, had)
            yield turn
            for layer in turn:
                had.add(layer.name)
                layer.calls.clear()

    def _watch(
        self, mixture: Tensor, with_inputs: bool, had: set[str]
    ) -> tuple[list[_Layer], bool]:
        """Run the dense model and keep a sample of what each layer gives that had no turn yet.

        All calls draw positions, so that those of a layer do not depend on its turn.

        Returns:
            Those layers, and whether there are more: samples are held up to a size.
        """
        turn: list[_Layer] = []
        generator = torch.Generator().manual_seed(self._seed)
        held, left = 0, False

        def gave(layer: _Layer, x: Tensor, y: Tensor) -> None:
            nonlocal held, left
            form = layer.from_dense
            total = form.rows(x, y)
            picked = torch.randperm(total, generator=generator)[: self._samples]
            if layer.name in had:
                return
            if not layer.calls:
                if held > _HELD:
                    left = True
                    return
                turn.append(layer)
            picked = picked.sort().values.to(x.device)
            keep = layer.keep_out.to(x.device)
            targets = [form.targets(s, x, y, picked, keep) for s in range(form.stages)]
            forced = [form.forced(s, x, picked, keep) for s in range(form.stages)]
            given = None
            if with_inputs:
                axis = layer.rule.axis(layer.dense, x)
                given = x.index_select(axis, layer.keep_in.to(x.device))
            layer.calls.append(_Call(y.shape, picked, targets, forced, given))
            held += layer.calls[-1].size

        with ExitStack() as stack:
            stack.enter_context(_as_is(self._dense))
            for layer in self._layers:
                hook = _Behind(layer, gave)
                stack.callback(layer.dense.register_forward_hook(hook, with_kwargs=True).remove)
            self._dense(mixture)
        return turn, left


class _Behind:
    """A forward hook that reports inputs and output of a layer."""

    def __init__(self, layer: _Layer, tell: Callable[[_Layer, Tensor, Tensor], None]) -> None:
        self._layer, self._tell = layer, tell

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if _readable(args, kwargs):
            self._tell(self._layer, args[0], self._layer.rule.output(output))


class _Before:
    """A forward pre-hook that reports the input of a layer."""

    def __init__(self, layer: _Layer, tell: Callable[[_Layer, Tensor], None]) -> None:
        self._layer, self._tell = layer, tell

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if _readable(args, kwargs):
            self._tell(self._layer, args[0])


def _readable(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the input is a tensor, and the only one: a recurrent layer starts from zeros."""
    others = [*args[1:], *kwargs.values()]
    return bool(args) and isinstance(args[0], Tensor) and not any(map(_holds_tensors, others))


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_holds_tensors, value))
    return isinstance(value, Tensor)


def _refit(layer: _Layer, inputs: list[Tensor], solve: Solve) -> list[Refitted]:
    """Solve the stages of a layer one after the other; nothing if it gives the same already."""
    before = after = total = 0.0
    changed = False
    for stage in range(layer.form.stages):
        x = torch.cat(
            [_features(layer, stage, *pair) for pair in zip(inputs, layer.calls, strict=True)], 1
        )
        y = torch.cat([call.targets[stage] for call in layer.calls], 1)
        weight, bias = layer.form.weight(stage), layer.form.bias(stage)
        size = float((y - y.mean(1, keepdim=True)).square().sum(dtype=torch.float64))
        wrong = _error(x, y, weight, bias)
        total, before = total + size, before + wrong
        if wrong > _SAME * float(y.square().sum(dtype=torch.float64)):
            layer.form.write(stage, *solve(x, y, weight, bias))
            changed = True
        after += _error(x, y, layer.form.weight(stage), layer.form.bias(stage))
    total = max(total, torch.finfo(torch.float64).tiny)
    return [Refitted(layer.name, before / total, after / total)] if changed else []


def _features(layer: _Layer, stage: int, x: Tensor, call: _Call) -> Tensor:
    forced = call.forced[stage]
    if forced is not None:
        return forced
    return layer.form.features(stage, x, call.shape, call.picked)


def _error(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> float:
    error = x @ weight.transpose(1, 2) - y
    error = error if bias is None else error + bias[:, None]
    return float(error.square().sum(dtype=torch.float64))


def _paired(
    dense: nn.Module, pruned: nn.Module, kept: KeptChannels, kinds: Iterable[str]
) -> Iterator[_Layer]:
    """The layers of both models that can be refitted."""
    others = dict(named_layers(pruned))
    shared = _shared(pruned)
    for name, module in named_layers(dense):
        rule, other = rule_of(module), others.get(name)
        if rule is None or other is None:
            continue
        from_dense, form = rule.regression(module), (rule_of(other) or rule).regression(other)
        if from_dense is None or form is None or form.kind not in kinds or other in shared:
            continue
        through = rule.relation == "through"
        keep_out = kept.outputs(name, rule.n_out(module))
        keep_in = keep_out if through else kept.inputs(name, rule.n_in(module))
        if (len(keep_in), len(keep_out)) != (rule.n_in(other), rule.n_out(other)):
            raise InputError(
                f"'{name}' has {rule.n_in(other)} inputs and {rule.n_out(other)} outputs in the "
                f"pruned model, but {len(keep_in)} and {len(keep_out)} of the dense layer's were "
                "kept. Make KeptChannels of the dense model before it is pruned, and give a copy "
                "of the dense model that was made then."
            )
        yield _Layer(name, rule, module, other, from_dense, form, keep_in, keep_out)


def _shared(model: nn.Module) -> set[nn.Module]:
    """Layers that hold a parameter which another layer holds too."""
    holders: defaultdict[int, set[nn.Module]] = defaultdict(set)
    for _, module in named_layers(model):
        rule = rule_of(module)
        for parameter in [] if rule is None else rule.parameters(module):
            holders[id(parameter)].add(module)
    return {module for group in holders.values() if len(group) > 1 for module in group}


@contextmanager
def _as_is(model: nn.Module) -> Iterator[None]:
    """Run a model in eval mode, uncompiled, attention part by part."""
    with eval_mode(model), eagerly(), run_by_parts(model.modules()):
        yield


def mixtures_of(batches: Iterable[Any], model: nn.Module) -> Tensor:
    """All mixtures of some batches, (N, T), where the model is.

    Args:
        batches: Of mixtures (B, T), or of (mixture, sources).
        model: The model.

    Returns:
        One batch.

    Raises:
        InputError: If there are none, or they differ in length.
    """
    found = [batch if isinstance(batch, Tensor) else batch[0] for batch in batches]
    if not found:
        raise InputError("batches is empty: give some of training mixtures, such as 8 of 4 x 2 s.")
    if len({tuple(mixture.shape[1:]) for mixture in found}) > 1:
        raise InputError("The mixtures differ in length; cut them to one, such as 2 s.")
    parameter = next(model.parameters())
    return torch.cat([mixture.to(parameter.device, parameter.dtype) for mixture in found])
