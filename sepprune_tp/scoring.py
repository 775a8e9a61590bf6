"""What torch-pruning's importances see of a group: all of its weights, recurrent ones too."""

from __future__ import annotations

from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch_pruning._helpers import GroupItem
from torch_pruning.dependency import Dependency, Node
from torch_pruning.pruner import function
from torch_pruning.pruner import importance as scores

from .graph import ChannelGraph, ChannelGroup
from .layers import rule_of

__all__ = ["seen_by"]

_OWN_TABLES = (scores.OBDCImportance, scores.ActivationImportance)
"""Importances that look layers up in tables of their own, which do not know our stand-ins."""


def seen_by(importance: Any, group: ChannelGroup) -> tp.Group:
    """The group as an importance is to score it.

    torch-pruning's importances by weight (magnitude, Taylor, Hessian, LAMP, FPGM, and what derives
    from them) skip recurrent layers. They get a group in which these stand as linear layers with
    the same weights and gradients; see :func:`sepprune_tp.layers.unit_weights.recurrent_views`.

    Args:
        importance: What will score it.
        group: A group of our graph with all of its channels.

    Returns:
        A group to be scored, not pruned; ``group`` itself if there is nothing to show.
    """
    by_weight = isinstance(importance, scores.GroupMagnitudeImportance)
    if not by_weight or isinstance(importance, _OWN_TABLES):
        return group
    shown = tp.Group()
    shown._DG = group._DG
    views = [_views(group._DG, item) for item in group]
    if views and not views[0] and not _is_scored(group[0]):
        views[0] = [_silent(group[0])]  # the first that is scored has to hold every channel
    for item, found in zip(group, views, strict=True):
        shown._group.extend(found or [item])
    return shown if any(views) else group


_SCORED = (
    function.prune_conv_out_channels,
    function.prune_conv_in_channels,
    function.prune_depthwise_conv_out_channels,
    function.prune_linear_out_channels,
    function.prune_linear_in_channels,
    function.prune_batchnorm_out_channels,
)


def _is_scored(item: Any) -> bool:
    """Whether torch-pruning's importances by weight know the layer of an item."""
    return item.dep.handler in _SCORED


def _silent(item: Any) -> GroupItem:
    """An item that stands for a layer without weights that are scored: zeros for its channels."""
    layer = nn.Linear(1, max(item.idxs) + 1, False)
    layer.weight.data.zero_()
    layer.weight.grad = torch.zeros_like(layer.weight)
    node = Node(layer, None, item.dep.target.name)
    cut = function.prune_linear_out_channels
    dep = Dependency(item.dep.trigger, cut, source=item.dep.source, target=node)
    shown = GroupItem(dep, list(item.idxs))
    shown.root_idxs = list(item.root_idxs)
    return shown


def _views(graph: ChannelGraph, item: Any) -> list[GroupItem]:
    """The items that stand for one item, none if it is to be seen as it is."""
    layer, found = item.dep.target.module, []
    rule = graph.rules.get(layer) or rule_of(layer) if isinstance(layer, nn.Module) else None
    if rule is None:
        return []
    for view in rule.linear_views(layer, "out" if graph.side_of(item.dep) == "out" else "in"):
        out = view.side == "out"
        cut = function.prune_linear_out_channels if out else function.prune_linear_in_channels
        node = Node(view.layer, None, item.dep.target.name)
        dep = Dependency(item.dep.trigger, cut, source=item.dep.source, target=node)
        shown = GroupItem(dep, [view.offset + index for index in item.idxs])
        shown.root_idxs = list(item.root_idxs)
        found.append(shown)
    return found
