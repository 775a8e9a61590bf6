"""``SepPrunePruner``, and what lets any torch-pruning pruner follow learned gates."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch_pruning import ops
from torch_pruning.pruner.algorithms.base_pruner import BasePruner

from ._unwrap import unwrapped, warn_if_distributed
from .errors import InputError
from .graph import ChannelGraph, ChannelGroup, Scope, channel_graph, is_lent
from .importance import SepPruneImportance
from .layers import rule_of
from .layers.composite import hosts_in, named_layers, parts_of
from .scoring import seen_by

__all__ = ["SepPrunePruner", "install"]

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
    """

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
            **options: torch-pruning's (``global_pruning``, ``round_to``, ``iterative_steps``...).

        Raises:
            InputError: If there is neither a ratio nor learned gates to follow.
            NotLearnedError: If the importance has no learned gates.
        """
        warn_if_distributed(model)
        model = unwrapped(model)
        learned = isinstance(importance, SepPruneImportance)
        by_ratio = pruning_ratio is not None or options.get("pruning_ratio_dict") is not None
        if not learned and not by_ratio:
            raise InputError(
                f"{type(importance).__name__} ranks channels but does not say how many to keep: "
                "give pruning_ratio=, or use SepPruneImportance with learned gates"
            )
        if scope is None:
            scope = importance.scope_for(model) if learned else "separator"
        for name in ("in_channel_groups", "out_channel_groups", "num_heads"):
            options.setdefault(name, {})  # torch-pruning's defaults are shared between pruners
        options.setdefault("root_module_types", _ROOTS)
        with channel_graph(scope):
            super().__init__(
                model,
                example_inputs,
                importance,
                pruning_ratio=0.0 if pruning_ratio is None else pruning_ratio,
                **options,
            )
        _complete_ratios(self, options.get("pruning_ratio_dict"))
        self._by_masks = not by_ratio

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
        return self.importance(seen_by(self.importance, group))

    def _prune(self) -> Iterator[ChannelGroup]:
        if self._by_masks:
            yield from self._closed_groups()
        else:
            yield from super()._prune()

    def _closed_groups(self) -> Iterator[ChannelGroup]:
        """For each group, the part that the masks close."""
        groups = self.DG.get_all_groups(self.ignored_layers, self.root_module_types)
        for group in list(groups):
            keep = self.importance.keeps(group)
            if keep is None or bool(keep.all()):
                continue
            idxs = [i for i, kept in zip(group[0].idxs, keep.tolist(), strict=True) if not kept]
            dep = group[0].dep
            yield self.DG.get_pruning_group(dep.target.module, dep.handler, idxs)


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


def install() -> None:
    """Let every torch-pruning pruner that is given :class:`SepPruneImportance` use our graph.

    Pruners that are given another importance are untouched. Called once, on import of the package.
    """
    original = BasePruner.__init__
    if getattr(original, "_sepprune", False):
        return

    @functools.wraps(original)
    def init(
        self: Any, model: Any, example_inputs: Any, importance: Any, *a: Any, **k: Any
    ) -> None:
        if isinstance(importance, SepPruneImportance) or is_lent():
            _refuse_head_pruning(k)
        if not isinstance(importance, SepPruneImportance) or isinstance(self, SepPrunePruner):
            if is_lent():
                model = unwrapped(model)
                k["out_channel_groups"] = _tied_parts(model, k.get("out_channel_groups"))
            original(self, model, example_inputs, importance, *a, **k)
            return
        warn_if_distributed(model)
        model = unwrapped(model)
        k["out_channel_groups"] = _tied_parts(model, k.get("out_channel_groups"))
        with channel_graph(importance.scope_for(model)):
            original(self, model, example_inputs, importance, *a, **k)
        _complete_ratios(self, k.get("pruning_ratio_dict"))

    init._sepprune = True  # type: ignore[attr-defined]
    BasePruner.__init__ = init
