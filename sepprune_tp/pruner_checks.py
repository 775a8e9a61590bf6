"""What a pruner is given, checked before anything is cut."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch_pruning.pruner import importance as scores

from ._advice import advise
from .errors import InputError
from .gates import refuse_gated
from .gates.coverage import prunable_params, unreached, warn_of_little, warn_of_unreached
from .graph import ChannelGraph, ChannelGroup
from .graph.group import GroupUnion, build_group
from .layers.composite import named_layers

__all__ = [
    "check_options",
    "check_ready",
    "check_round_to",
    "keeping_best",
    "warn_of_gaps",
    "warn_of_nan",
]

_HELP = "run loss.backward() on training batches first, and step() before zero_grad()"


# -- options --------------------------------------------------------------------------------------


def check_options(model: nn.Module, options: Mapping[str, Any]) -> None:
    """Check torch-pruning's options, as far as it does not.

    Args:
        model: The model.
        options: By their names in torch-pruning; those that are missing are its defaults.

    Raises:
        InputError: If a ratio is no share, a layer is not of the model, or a number makes no sense.
    """
    for name in ("pruning_ratio", "ch_sparsity", "head_pruning_ratio"):
        if options.get(name) is not None:
            _check_ratio(name, options[name])
    for name in ("pruning_ratio_dict", "ch_sparsity_dict", "head_pruning_ratio_dict"):
        if options.get(name) is not None:
            _check_ratios(name, options[name], model)
    most = options.get("max_pruning_ratio", 1.0)
    if not _is_number(most) or not 0 <= most <= 1:
        raise InputError(f"max_pruning_ratio={most!r}: give a share from 0 to 1")
    steps = options.get("iterative_steps", 1)
    if not _is_count(steps):
        raise InputError(f"iterative_steps={steps!r}: give a whole number from 1 on")
    if options.get("round_to") is not None:
        check_round_to(options["round_to"])


def check_round_to(round_to: object) -> None:
    """Refuse a step of widths that is none.

    Raises:
        InputError: If it is no whole number from 1 on.
    """
    if not _is_count(round_to):
        raise InputError(
            f"round_to={round_to!r}: widths are multiples of 1 or more, give a whole number"
        )


def _check_ratio(name: str, ratio: object) -> None:
    if not _is_number(ratio) or not 0 <= ratio < 1:  # type: ignore[operator]
        raise InputError(
            f"{name}={ratio!r}: give the share of the channels to remove, from 0 to below 1 (0.5 "
            "removes half; every layer keeps one channel at least)"
        )


def _check_ratios(name: str, ratios: object, model: nn.Module) -> None:
    if not isinstance(ratios, Mapping):
        raise InputError(f"{name} is a {type(ratios).__name__}; give a dict of layers to ratios")
    known = {layer for _, layer in named_layers(model)}
    for key, ratio in ratios.items():
        for layer in key if isinstance(key, tuple) else (key,):
            if layer not in known:
                raise InputError(
                    f"{name} lists a {type(layer).__name__} that is not part of "
                    f"{type(model).__name__}; its keys are modules of the model that is pruned "
                    "(of this copy of it), or tuples of them"
                )
        _check_ratio(f"{name}[...]", ratio)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 1


# -- before a step --------------------------------------------------------------------------------


def check_ready(pruner: Any) -> None:
    """See that a model can be pruned now, and that the importance has what it needs.

    Args:
        pruner: The pruner, at the beginning of a step; a step that is refused does not count.

    Raises:
        InputError: If the model runs with gates, or gradients are missing.
    """
    try:
        refuse_gated(pruner.model, "prune")
        _check_gradients(pruner.model, pruner.importance)
    except InputError:
        pruner.current_step -= 1
        raise


def _check_gradients(model: nn.Module, importance: Any) -> None:
    kind = type(importance).__name__
    if isinstance(importance, scores.OBDCImportance):
        if not importance.steps:
            raise InputError(
                f"{kind} has seen no gradients: call its _prepare_model(model, pruner), then for "
                "each batch loss.backward() and its step()"
            )
    elif isinstance(importance, scores.GroupHessianImportance):
        _check_squares(model, importance)
    elif isinstance(importance, scores.GroupTaylorImportance) and not _has_gradients(model):
        raise InputError(
            f"{kind} scores channels by gradients, and no parameter of this "
            f"{type(model).__name__} has one that is not zero: {_HELP}"
        )


def _check_squares(model: nn.Module, importance: Any) -> None:
    """See that squared gradients were accumulated.

    Raises:
        InputError: If not.
    """
    kind, seen = type(importance).__name__, importance._accu_grad
    own = [parameter for parameter in model.parameters() if parameter in seen]
    for parameter in own:  # zero_grad() may have taken what it is going to fill
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if own:
        return
    how = (
        f"for each batch run model.zero_grad(), loss.backward() and accumulate_grad(model) of the "
        f"{kind}, then step()"
    )
    if not _has_gradients(model):
        raise InputError(
            f"{kind} scores channels by squared gradients, and has seen none of this "
            f"{type(model).__name__}: {how}"
        )
    if any(p.grad is not None and bool((p.grad < 0).any()) for p in model.parameters()):
        raise InputError(
            f"{kind} has not accumulated the gradients of this {type(model).__name__}, and would "
            f"take them for their squares: {how}"
        )


def _has_gradients(model: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


# -- what is left whole ---------------------------------------------------------------------------


def warn_of_gaps(graph: ChannelGraph) -> None:
    """Warn where little of a model can be pruned, and of layers that its example misses."""
    kind = type(graph.model).__name__
    warn_of_unreached(graph, unreached(graph))
    warn_of_little(graph, prunable_params(graph), f"{kind} has little to prune")


def warn_of_nan(graph: ChannelGraph, group: ChannelGroup, score: Any) -> None:
    """Warn of scores that are no numbers: torch-pruning does not prune by them."""
    if score is not None and bool(score.isnan().any()):
        advise(
            f"the scores of group '{graph.name_of(group[0].dep.target.module)}' are NaN, so it "
            "keeps its channels: its weights (or gradients) are all zero, or NaN"
        )


def keeping_best(pruner: Any, groups: Iterator[Any]) -> Iterator[Any]:
    """What a ranking removes, but where it would empty a group, all but its best channels.

    torch-pruning leaves such a group whole.

    Args:
        pruner: The pruner, on our graph.
        groups: What torch-pruning's own ``_prune`` yields.

    Yields:
        Groups to remove.
    """
    while True:
        with _unchecked(pruner.DG):
            group = next(groups, None)
        if group is None:
            return
        if not pruner.DG.check_pruning_group(group):
            group = _without_best(pruner, group)
        if group is not None:
            yield group


@contextmanager
def _unchecked(graph: Any) -> Iterator[None]:
    """Let torch-pruning's ranking yield groups that would lose all channels."""
    graph.check_pruning_group = lambda group: True
    try:
        yield
    finally:
        del graph.check_pruning_group


def _without_best(pruner: Any, group: ChannelGroup | GroupUnion) -> Any:
    """The same removal without the best channels of the group; None if it cannot be told."""
    if isinstance(group, GroupUnion):
        return None
    whole = build_group(pruner.DG, group.channel_set, group.channel_set.components)
    score = pruner.estimate_importance(whole)
    if score is None:
        return None
    root, dep = group.channel_set.root, group[0].dep
    positions = root.positions()
    if len(score) == root.components.numel():
        by_component = {
            component: float(torch.stack([score[i] for i in places]).mean())
            for component, places in positions.items()
        }
    else:  # one score for each component
        by_component = dict(zip(positions, score.tolist(), strict=False))
    ranked = sorted(by_component, key=lambda component: -by_component[component])
    kept = set(ranked[: pruner.round_to or 1])
    going = {c for c in root.components[list(group[0].idxs)].tolist() if c} - kept
    for site in group.channel_set.sites:  # a layer that holds a part of the group keeps one, too
        used = site.members().keys()
        if used <= going:
            kept.add(max(used, key=lambda component: by_component.get(component, 0.0)))
    best = set(root.where(kept).tolist())
    removed = [index for index in group[0].idxs if index not in best]
    return pruner.DG.get_pruning_group(dep.target.module, dep.handler, removed)
