"""Where a model's parameters and multiply-accumulates are, by layer and by part.

A MAC is one multiplication with a weight and its addition; the products of queries, keys and
values in attention count too. Normalisations, activations and element-wise products count 0 MACs;
their parameters are counted. One call of the model on the example input is measured, so MACs grow
with its length and batch. The layers' own rules (``sepprune_tp.layers``) do the counting, the same
that predict the cost of a set of masks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sepprune_tp._modes import eval_mode
from sepprune_tp._unwrap import eagerly, unwrapped
from sepprune_tp.architectures import part_names
from sepprune_tp.errors import InputError
from sepprune_tp.layers import LayerRule, rule_of
from sepprune_tp.layers.composite import named_layers, parts_of, run_by_parts
from sepprune_tp.operation_macs import OperationCounter

__all__ = ["Part", "Profile", "Row", "call_arguments", "part_of", "profile"]

CallCost = Callable[[tuple[Any, ...], Any], int]

LISTED = 20  # layers in the printed profile
PARTS = ("encoder", "separator", "decoder", "other")


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        name: Dotted name in the model.
        kind: The rule's word (``conv``, ``rnn``...), or the class name of a layer without a rule.
        params: Parameters; those that an earlier row also holds count there only.
        macs: Multiply-accumulates of all calls.
        share: Of the model's MACs, 0 to 1.
        params_share: Of the model's parameters, 0 to 1.
        part: ``encoder``, ``separator``, ``decoder`` or ``other``.
        counted: False if the MACs are unknown: the layer has a matrix of weights, and no rule or
            nobody called it (its weights were used from elsewhere).
        module: The layer itself.
    """

    name: str
    kind: str
    params: int
    macs: int
    share: float
    params_share: float
    part: str
    counted: bool
    module: nn.Module = field(repr=False, compare=False)


@dataclass(frozen=True)
class Part:
    """Totals of one part of the model.

    Attributes:
        params: Parameters.
        macs: Multiply-accumulates.
        share: Of the model's MACs, 0 to 1.
        params_share: Of the model's parameters, 0 to 1.
    """

    params: int
    macs: int
    share: float
    params_share: float


@dataclass(frozen=True)
class Profile:
    """Cost of a model on one example input.

    Attributes:
        model: Class name of the model.
        params: Parameters, tied ones once.
        macs: Multiply-accumulates.
        rows: One a layer, in the order of the model.
        shapes: Shapes of the example input.
        places: MACs of operations outside of layers, by module and place in its code.
    """

    model: str
    params: int
    macs: int
    rows: list[Row]
    shapes: list[tuple[int, ...]]
    places: Mapping[Any, list[int]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def parts(self) -> dict[str, Part]:
        """Totals of encoder, separator, decoder and other, by name."""
        return {name: self._part(name) for name in PARTS}

    @property
    def encoder(self) -> Part:
        """Totals of the encoder."""
        return self._part("encoder")

    @property
    def separator(self) -> Part:
        """Totals of the separator (Asteroid's masker)."""
        return self._part("separator")

    @property
    def decoder(self) -> Part:
        """Totals of the decoder."""
        return self._part("decoder")

    @property
    def uncounted(self) -> list[Row]:
        """Layers whose parameters count but whose MACs are unknown."""
        return [row for row in self.rows if not row.counted]

    def heaviest(self, share: float = 0.9) -> list[nn.Module]:
        """Find the fewest layers that make up a share of the MACs.

        Args:
            share: Of the model's MACs, above 0 and at most 1.

        Returns:
            Layers, the heaviest first; usable as ``scope=`` of ``GateSet``.

        Raises:
            InputError: If ``share`` is out of range.
        """
        if not 0 < share <= 1:
            raise InputError(f"share is {share}; give a share of the MACs in (0, 1], such as 0.9.")
        chosen: list[nn.Module] = []
        total = 0
        for row in sorted(self.rows, key=lambda row: -row.macs):
            if total >= share * self.macs or row.macs == 0:
                break
            chosen.append(row.module)
            total += row.macs
        return chosen

    def _part(self, name: str) -> Part:
        rows = [row for row in self.rows if row.part == name]
        params, macs = sum(row.params for row in rows), sum(row.macs for row in rows)
        return Part(params, macs, _share(macs, self.macs), _share(params, self.params))

    def __str__(self) -> str:
        """A line in all, one for each part, and the first layers that carry 90 % of the MACs."""
        lines = [f"{self.model}: {self.params:,} parameters, {self.macs:,} MACs on {self.shapes}"]
        for name, part in self.parts.items():
            lines.append(
                f"  {name:<10} {part.params:>12,} parameters {part.params_share:>6.1%}"
                f" {part.macs:>16,} MACs {part.share:>6.1%}"
            )
        heavy = {id(module) for module in self.heaviest(0.9)} if self.macs else set()
        lines.append(f"  {len(heavy)} of {len(self.rows)} layers make up 90 % of the MACs:")
        for row in [row for row in self.rows if id(row.module) in heavy][:LISTED]:
            lines.append(
                f"    {row.name:<44} {row.kind:<12} {row.macs:>16,} MACs {row.share:>6.1%}"
            )
        if self.uncounted:
            names = ", ".join(f"{row.name} ({row.kind})" for row in self.uncounted)
            lines.append(f"  MACs unknown (no rule, or never called): {names}")
        return "\n".join(lines)


def profile(
    model: nn.Module,
    example_inputs: Any,
    forward_fn: Callable[[nn.Module, Any], Any] | None = None,
) -> Profile:
    """Count parameters and MACs of a model by layer and by part.

    Args:
        model: Any model, or a wrapper around it (DataParallel, torch.compile...). Its mode,
            weights, buffers and hooks are as they were afterwards.
        example_inputs: What the model is called with: a tensor such as a mixture of shape (B, T)
            or (B, 1, T), a tuple or list of arguments, or a dict of keyword arguments.
        forward_fn: Calls the model on the example, instead of ``model(example)``; the example may
            then be anything.

    Returns:
        The profile.

    Raises:
        InputError: If the model cannot run on the example input.
    """
    model = unwrapped(model)
    given = call_arguments(example_inputs) if forward_fn is None else ((example_inputs,), {})
    shapes = [tuple(x.shape) for x in tree_leaves(given) if isinstance(x, Tensor)]
    call = partial(
        model if forward_fn is None else partial(forward_fn, model), *given[0], **given[1]
    )
    layers = dict(_layers(model))
    costs = {m: c for m, (_, _, c) in layers.items() if c is not None}
    counter = OperationCounter(model)
    macs = _measure(model, costs, call, shapes, counter)
    counts = _count_parameters(
        {module: cost is not None for module, (_, _, cost) in layers.items()}
    )
    total_params = sum(p.numel() for p in model.parameters())
    total_macs = sum(macs.values()) + sum(map(sum, counter.places.values()))
    rows = [
        Row(
            name=name,
            kind=kind,
            params=counts[module],
            macs=macs.get(module, 0),
            share=_share(macs.get(module, 0), total_macs),
            params_share=_share(counts[module], total_params),
            part=part_of(name, model),
            counted=module in macs or not _multiplies(module, name, cost is not None, counter),
            module=module,
        )
        for module, (name, kind, cost) in layers.items()
    ]
    rows += _operation_rows(model, counter, total_macs)
    kept = [row for row in rows if row.params or row.macs or row.kind != "weight"]
    return Profile(type(model).__name__, total_params, total_macs, kept, shapes, counter.places)


def _operation_rows(model: nn.Module, counter: OperationCounter, total: int) -> list[Row]:
    """Rows of weights that are used outside of their layers, and of products of activations."""
    names = {module: name for name, module in named_layers(model)}
    found = [
        (name, "weight", macs, model.get_submodule(name.rpartition(".")[0]))
        for name, macs in counter.weights.items()
    ]
    found += [(names[m] or type(m).__name__, "product", n, m) for m, n in counter.products.items()]
    return [
        Row(name, kind, 0, macs, _share(macs, total), 0.0, part_of(name, model), True, module)
        for name, kind, macs, module in found
    ]


def part_of(name: str, model: nn.Module) -> str:
    """Find which part of a separation model a layer belongs to.

    Args:
        name: Dotted name of the layer in the model; a wrapper's ``module.`` or ``model.`` in front
            does not matter.
        model: The model.

    Returns:
        ``encoder``, ``separator``, ``decoder`` or ``other``.
    """
    words = name.split(".")
    while len(words) > 1 and words[0] in ("module", "model"):
        words = words[1:]
    return part_names(model).get(words[0], "other")


def _layers(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, str, CallCost | None]]]:
    """Outermost layers whose cost is known, and other modules that own parameters.

    Yields:
        The module, and its name, its kind and the cost of one call (None if unknown).
    """
    costs = {module: _cost_of(module) for _, module in named_layers(model)}
    inside = {
        inner
        for module, (_, cost) in costs.items()
        if cost is not None
        for inner in module.modules()
        if inner is not module
    }
    for name, module in named_layers(model):
        if parts_of(module):
            continue  # its parts own its parameters
        kind, cost = costs[module]
        owns = any(True for _ in module.parameters(recurse=False))
        if module not in inside and (cost is not None or owns):
            yield module, (name, kind, cost)


def _cost_of(module: nn.Module) -> tuple[str, CallCost | None]:
    """A layer's kind, and its MACs as a function of the arguments and the output of one call."""
    rule = rule_of(module)
    if rule is not None and not getattr(module, "proj_size", 0):
        return rule.kind, partial(_rule_macs, rule, module)
    if isinstance(module, nn.LSTM):
        return "rnn", partial(_projected_macs, module)
    return type(module).__name__, None


def _rule_macs(rule: LayerRule, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> int:
    positions = rule.positions(module, inputs, output)
    return int(rule.macs(module, positions, rule.n_in(module), rule.n_out(module)))


def _projected_macs(module: nn.LSTM, inputs: tuple[Any, ...], output: Any) -> int:
    """MACs of an LSTM with projections, which cannot be pruned: every weight at every step."""
    matrices = [p for name, p in module.named_parameters() if name.startswith("weight")]
    steps: int = output[0].numel() // output[0].shape[-1]
    return steps * sum(p.numel() for p in matrices)


def _measure(
    model: nn.Module,
    costs: dict[nn.Module, CallCost],
    call: Callable[[], Any],
    shapes: list[tuple[int, ...]],
    counter: OperationCounter,
) -> dict[nn.Module, int]:
    """MACs of each layer that was called, in one call of the model in eval mode."""
    macs: dict[nn.Module, int] = {}

    def count(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
        cost = costs[module]((*inputs, *named.values()), out)
        macs[module] = macs.get(module, 0) + cost

    hooks = [layer.register_forward_hook(count, with_kwargs=True) for layer in costs]
    hooks += _follow_modules(model, set(costs), counter)
    places, operations = counter.modes()
    try:
        by_parts = run_by_parts(model.modules())
        with (
            warnings.catch_warnings(),  # an operation's own, which would seem to be ours
            eagerly(),
            eval_mode(model),
            torch.no_grad(),
            by_parts,
            places,
            operations,
        ):
            warnings.simplefilter("ignore")
            call()
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} cannot run on the example input of shape "
            f"{', '.join(map(str, shapes)) or 'unknown'} ({type(error).__name__}: {error}). Give "
            "what you call the model with, on its device: for a separator a mixture (B, T) or "
            "(B, 1, T) at its sample rate, long enough for its filters."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return macs


def _follow_modules(
    model: nn.Module, known: set[nn.Module], counter: OperationCounter
) -> list[Any]:
    """Tell the counter which module's code runs, and when it is a layer's that is counted."""
    hooks: list[Any] = []
    for _, module in named_layers(model):
        counts = module in known or bool(parts_of(module))

        def enter(module: nn.Module, args: Any, counts: bool = counts) -> None:
            counter.running.append(module)
            counter.inside += counts

        def leave(module: nn.Module, args: Any, output: Any, counts: bool = counts) -> None:
            counter.inside -= counts
            counter.running.pop()

        hooks.append(module.register_forward_pre_hook(enter, prepend=True))
        hooks.append(module.register_forward_hook(leave))
    return hooks


def _count_parameters(layers: dict[nn.Module, bool]) -> dict[nn.Module, int]:
    """Parameters of each layer (True: with all inside it), those that were met before left out."""
    seen: set[int] = set()
    counts = {}
    for module, whole in layers.items():
        rule = rule_of(module)
        if rule is not None and not rule.parameters(module):  # it owns none, but may stand for some
            counts[module] = int(rule.params(module, rule.n_in(module), rule.n_out(module)))
            continue
        fresh = {id(p): p for p in module.parameters(recurse=whole) if id(p) not in seen}
        seen.update(fresh)
        counts[module] = sum(p.numel() for p in fresh.values())
    return counts


def _multiplies(module: nn.Module, name: str, whole: bool, counter: OperationCounter) -> bool:
    """Whether a layer holds a matrix of weights that was not counted, so that it may take MACs."""
    return any(
        p.dim() >= 2 and (f"{name}.{key}" if name else key) not in counter.weights
        for key, p in module.named_parameters(recurse=whole)
    )


def call_arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments from what the caller gave."""
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    raise InputError(
        f"example_inputs is a {type(example_inputs).__name__}; give a tensor, a tuple of arguments "
        "or a dict of keyword arguments."
    )


def _share(count: int, total: int) -> float:
    return count / total if total else 0.0
