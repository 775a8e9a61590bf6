"""``SepPrunePruner``, and what lets any torch-pruning pruner follow learned gates."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch_pruning import ops
from torch_pruning.pruner.algorithms.base_pruner import BasePruner

from ._unwrap import unwrapped, warn_if_distributed
from .errors import InputError
from .gates import GateSet, refuse_gated
from .gates.coverage import check_closed, warn_of_lost
from .graph import ChannelGraph, ChannelGroup, Scope, channel_graph, is_lent
from .importance import SepPruneImportance
from .layers import rule_of
from .layers.composite import hosts_in, named_layers, parts_of
from .pruner_checks import (
    check_options,
    check_ready,
    check_round_to,
    keeping_best,
    warn_of_gaps,
    warn_of_nan,
)
from .scoring import seen_by
from .search.ranking import Steps, check_steps
from .search.rounding import steps_for

__all__ = ["SepPrunePruner", "install", "pruned_copy"]

_RATIOS = ("pruning_ratio_dict", "ch_sparsity", "ch_sparsity_dict")
_ROOTS = [ops.TORCH_CONV, ops.TORCH_LINEAR, nn.RNNBase]


class SepPrunePruner(BasePruner):
    """torch-pruning's pruner on the channel graph.

    With :class:`SepPruneImportance` and no ``pruning_ratio`` it removes what the masks close; with
    a ``pruning_ratio`` it ranks by score as torch-pruning does. Any other importance runs on the
    same graph, as a baseline; torch-pruning's then score recurrent weights too.

    Example:
        >>> import torch, torch_pruning as tp
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU(), nn.Conv1d(8, 1, 3))
        >>> magnitude = tp.importance.GroupMagnitudeImportance()
        >>> pruner = SepPrunePruner(net, torch.randn(1, 1, 16), magnitude, 0.5, scope="all")
        >>> pruner.step()
        >>> net[0].out_channels
        4

    Attributes:
        keeps_best: Whether a group of which the ranking would take all channels keeps its best one
            (as many as ``round_to``); False: it is left whole, as torch-pruning does.
    """

    keeps_best = True

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        importance: Any,
        pruning_ratio: float | None = None,
        scope: Scope | None = None,
        **options: Any,
    ) -> None:
        """Build the graph and prepare to prune.

        Args:
            model: The model, or a wrapper around it; the module inside is pruned in place by
                :meth:`step`.
            example_inputs: What the model is called with.
            importance: :class:`SepPruneImportance` or any torch-pruning importance.
            pruning_ratio: Share of channels to remove, as in torch-pruning; without it the masks
                of the learned gates are followed.
            scope: ``"separator"``, ``"all"`` or modules; default: that of the gates, else
                ``"separator"``.
            **options: torch-pruning's (``global_pruning``, ``round_to``, ``iterative_steps``...);
                ``forward_fn`` and ``output_transform`` are by default those of the gates.
                Where masks are followed, ``round_to`` also closes the lowest scores of a group
                until its width is a multiple (one that keeps less than a step stays as it is), and
                ``"auto"`` takes for each group the step that this machine likes.

        Raises:
            InputError: If there is neither a ratio nor learned gates to follow, an option cannot
                be, the model runs with gates, or the gates are of another model.
            NotLearnedError: If the importance has no learned gates.
        """
        warn_if_distributed(model)
        model = unwrapped(model)
        refuse_gated(model, "make a pruner")
        learned = isinstance(importance, SepPruneImportance)
        by_ratio = pruning_ratio is not None or any(options.get(name) for name in _RATIOS)
        if not learned and not by_ratio:
            raise InputError(
                f"{type(importance).__name__} ranks channels but does not say how many to keep: "
                "give pruning_ratio=, or use SepPruneImportance with learned gates"
            )
        self._steps = _steps(importance, by_ratio, options)
        table = importance.table_for(model) if learned else None
        if scope is None:
            scope = "separator" if table is None else table.scope_in(model)
        for name in ("in_channel_groups", "out_channel_groups", "num_heads"):
            options.setdefault(name, {})  # torch-pruning's defaults are shared between pruners
        options.setdefault("root_module_types", _ROOTS)
        with channel_graph(scope, **({} if table is None else table.options)):
            super().__init__(
                model,
                example_inputs,
                importance,
                pruning_ratio=0.0 if pruning_ratio is None else pruning_ratio,
                **options,
            )
        _complete_ratios(self, options.get("pruning_ratio_dict"))
        self._by_masks = not by_ratio
        if table is None:
            warn_of_gaps(self.graph)
        else:
            table.check(self.graph)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse copies and pickles.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "a pruner cannot be copied or pickled: it holds the graph of its model. Copy the model "
            "(copy.deepcopy) and make another pruner of the copy; gates and importances can be "
            "copied and pickled."
        )

    @property
    def graph(self) -> ChannelGraph:
        """The channel graph of the model."""
        graph: ChannelGraph = self.DG
        return graph

    def estimate_importance(self, group: ChannelGroup) -> Any:
        """Score a group, recurrent weights included.

        Args:
            group: A group of the graph with all of its channels.

        Returns:
            A score for each channel of its root, shape (len(root idxs),); None if there is none.
        """
        score = self.importance(seen_by(self.importance, group))
        warn_of_nan(self.graph, group, score)
        return score

    def _prune(self) -> Iterator[ChannelGroup]:
        check_ready(self)
        if self._by_masks:
            return self._closed_groups()
        ranked = super()._prune()
        return keeping_best(self, ranked) if self.keeps_best else ranked

    def _closed_groups(self) -> Iterator[ChannelGroup]:
        """For each group, the part that the masks close."""
        table = self.importance.table_for(self.model)
        check_closed(self.graph, table)
        if self._steps == 1:
            warn_of_lost(self.graph, table)
        groups = self.DG.get_all_groups(self.ignored_layers, self.root_module_types)
        for group in list(groups):
            keep = self.importance.keeps(group)
            if keep is None or bool(keep.all()):
                continue
            keep = self._rounded(group, keep)
            idxs = [i for i, kept in zip(group[0].idxs, keep.tolist(), strict=True) if not kept]
            dep = group[0].dep
            yield self.DG.get_pruning_group(dep.target.module, dep.handler, idxs)

    def _rounded(self, group: ChannelGroup, keep: Tensor) -> Tensor:
        """The mask of a group without its lowest scores beyond a multiple of its step."""
        name = self.graph.name_of(group[0].dep.target.module)
        step = self._steps if isinstance(self._steps, int) else self._steps.get(name, 1)
        spare = int(keep.sum()) % step
        if spare == int(keep.sum()):
            return keep
        scores = self.importance(group).double().masked_fill(~keep, float("inf"))
        rounded = keep.clone()
        rounded[scores.argsort(stable=True)[:spare]] = False
        return rounded


def _steps(importance: Any, by_ratio: bool, options: dict[str, Any]) -> Steps:
    """The steps of widths where masks are followed; torch-pruning rounds ratios itself."""
    round_to: Any = options.get("round_to")
    if round_to is None:
        return 1
    if by_ratio and isinstance(round_to, str):
        raise InputError(
            f"round_to={round_to!r} goes with learned gates whose masks are followed; with a "
            "pruning_ratio give a number"
        )
    if by_ratio or not isinstance(round_to, (str, Mapping)):
        check_round_to(round_to)
    if by_ratio:
        return 1
    del options["round_to"]
    if isinstance(round_to, int):
        return round_to
    if importance.gates is None:
        raise InputError(
            f"round_to={round_to!r} needs the gates to measure their layers: give "
            "SepPruneImportance(gates)"
        )
    steps = steps_for(importance.gates, round_to)
    check_steps(importance.gates.groups, steps)
    return steps


def pruned_copy(gates: GateSet, keep: Tensor | None = None) -> nn.Module:
    """A copy of the gates' model without the channels that hard masks close.

    Args:
        gates: Gates of a dense model, which stays as it is.
        keep: True where a gate is open, shape (N,); default: the present masks.

    Returns:
        The pruned copy.
    """
    chosen = copy.copy(gates)
    chosen.set_keep(gates.keep if keep is None else keep)
    model = copy.deepcopy(gates.model)
    SepPrunePruner(model, gates.example_inputs, SepPruneImportance(chosen)).step()
    return model


def _complete_ratios(pruner: Any, ratios: Mapping[Any, float] | None) -> None:
    """Give layers that torch-pruning has no type for the ratio that was asked for them.

    It reads ``pruning_ratio_dict`` for its own layer types only and passes over GRU, RNN and
    filterbanks in silence.
    """
    for number, (key, ratio) in enumerate((ratios or {}).items()):
        modules = key if isinstance(key, tuple) else (key,)
        for index, layer in enumerate(
            part for module in modules for _, part in named_layers(module)
        ):
            rule = rule_of(layer)
            if rule is None or rule.relation == "through" or layer in pruner._layer_to_scope:
                continue
            scope = f"_User_Defined_Scope_{number}"
            if not pruner.global_pruning:
                scope += f"_of_layer_{index}"  # a ranking of its own
            pruner._layer_to_scope[layer] = (scope, modules)
            pruner.pruning_ratio_dict[layer] = pruner.iterative_pruning_ratio_scheduler(
                ratio, pruner.iterative_steps
            )


def _tied_parts(model: nn.Module, given: Mapping[Any, int] | None) -> dict[Any, int]:
    """What torch-pruning does not ask parts of layers for: how many equal parts shrink alike."""
    found: dict[Any, int] = dict(given or {})
    for host in hosts_in(model.modules()):
        for part in parts_of(host).values():
            rule = rule_of(part)
            if rule is not None and rule.ties(part)[1] > 1:
                found.setdefault(part, rule.ties(part)[1])
    return found


def _refuse_head_pruning(options: Mapping[str, Any]) -> None:
    if options.get("prune_num_heads"):
        raise InputError(
            "prune_num_heads=True is not possible on the channel graph: the heads of an attention "
            "are tied, and each loses the same of its dimensions. Leave it out (prune_head_dims "
            "stays on), or use torch-pruning's own graph."
        )


def _checked_prune(pruner: Any, prune: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """A step of one of torch-pruning's own pruners, on our graph."""
    check_ready(pruner)
    if isinstance(pruner.importance, SepPruneImportance):
        return keeping_best(pruner, prune())
    return prune()


def install() -> None:
    """Let every torch-pruning pruner that is given :class:`SepPruneImportance` use our graph.

    Pruners that are given another importance are untouched. Called once, on import of the package.
    """
    original = BasePruner.__init__
    if getattr(original, "_sepprune", False):
        return
    names = list(inspect.signature(original).parameters)[4:]

    @functools.wraps(original)
    def init(
        self: Any, model: Any, example_inputs: Any, importance: Any, *a: Any, **k: Any
    ) -> None:
        learned = isinstance(importance, SepPruneImportance)
        if not learned and not is_lent():
            original(self, model, example_inputs, importance, *a, **k)
            return
        options = {**dict(zip(names, a, strict=False)), **k}
        _refuse_head_pruning(options)
        k["out_channel_groups"] = _tied_parts(unwrapped(model), k.get("out_channel_groups"))
        check_options(unwrapped(model), options)
        if isinstance(self, SepPrunePruner):
            original(self, model, example_inputs, importance, *a, **k)
            return
        warn_if_distributed(model)
        model = unwrapped(model)
        refuse_gated(model, "make a pruner")
        if learned:
            table = importance.table_for(model)
            with channel_graph(table.scope_in(model), **table.options):
                original(self, model, example_inputs, importance, *a, **k)
            table.check(self.DG)
        else:
            original(self, model, example_inputs, importance, *a, **k)
            warn_of_gaps(self.DG)
        _complete_ratios(self, options.get("pruning_ratio_dict"))
        self._prune = functools.partial(_checked_prune, self, self._prune)

    init._sepprune = True  # type: ignore[attr-defined]
    BasePruner.__init__ = init
