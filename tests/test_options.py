"""torch-pruning's options mean on our graph what they mean on its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch_pruning as tp
from laws import far, pruned_copy
from torch import Tensor, nn

from sepprune_tp.errors import InputError
from sepprune_tp.gates import GateSet
from sepprune_tp.graph import ChannelGraph, channel_graph

EXAMPLE = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
MAGNITUDE = tp.importance.GroupMagnitudeImportance()


class Block(nn.Module):
    """A transformer block as timm writes it: one projection for queries, keys and values."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.into, self.qkv = nn.Linear(8, width), nn.Linear(width, 3 * width)
        self.proj, self.head = nn.Linear(width, width), nn.Linear(width, 5)
        self.scale = nn.Parameter(torch.ones(width))
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, 8) -> (B, N, 5)."""
        x = self.into(x)
        parts = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.head(x + self.scale * self.proj(y.transpose(1, 2).flatten(2)))


def pruner(model: nn.Module, **options: Any) -> Any:
    with channel_graph("all"):
        return tp.pruner.MagnitudePruner(model, EXAMPLE, MAGNITUDE, pruning_ratio=0.5, **options)


def sizes(graph: ChannelGraph) -> dict[str, int]:
    return {name: group.channel_set.size for name, group in graph.named_groups()}


def test_num_heads_of_an_attention_with_one_projection() -> None:
    model = Block()
    pruner(model, num_heads={model.qkv: 4}).step()
    assert (model.qkv.out_features, model.proj.in_features) == (24, 8)
    assert model(EXAMPLE).shape == (2, 6, 5)


def test_a_product_of_queries_and_keys_is_gated() -> None:
    model, example = Block().double().eval(), EXAMPLE.double()
    assert sizes(ChannelGraph("all").build_dependency(model, example)) == {"into": 16, "qkv": 4}
    gates = GateSet(model, example, scope="all")
    assert {group.name: group.size for group in gates.groups} == {"into": 16, "qkv": 4}
    gates.load_masks({"qkv": torch.tensor([True, False, True, True])})
    with torch.no_grad(), gates:
        masked = model(example)
    pruned: Any = pruned_copy(gates, example)
    assert (pruned.qkv.out_features, pruned.proj.in_features) == (36, 12)
    with torch.no_grad():
        assert far(pruned(example), masked) < 1e-12 < 1e-3 < far(model(example), masked)


def test_whole_heads_are_refused() -> None:
    model = Block()
    with pytest.raises(InputError, match="prune_num_heads=True is not possible"):
        pruner(model, num_heads={model.qkv: 4}, prune_num_heads=True, head_pruning_ratio=0.5)


def test_out_channel_groups_shrink_alike() -> None:
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 2))
    weight = model[0].weight.detach().clone()
    pruner(model, out_channel_groups={model[0]: 3}).step()
    kept = [int((weight == row).all(1).nonzero()) for row in model[0].weight]
    assert len(kept) == 6
    assert [k % 4 for k in kept[:2]] == [k % 4 for k in kept[2:4]] == [k % 4 for k in kept[4:]]


def test_output_transform_says_which_outputs_count() -> None:
    class Features(Block):
        def forward(self, x: Tensor) -> Any:
            features = super().forward(x)
            return self.last(features), features

    graph = ChannelGraph("all").build_dependency(Features(), EXAMPLE)
    assert graph.protected["head"] == "it is an output of the model"
    graph = ChannelGraph("all").build_dependency(
        Features(), EXAMPLE, output_transform=lambda outputs: outputs[0]
    )
    assert sizes(graph)["head"] == 5


def test_forward_fn_calls_the_model() -> None:
    model = Block()
    graph = ChannelGraph("all").build_dependency(
        model, {"anything": EXAMPLE}, forward_fn=lambda net, batch: net(batch["anything"])
    )
    assert sizes(graph) == {"into": 16, "qkv": 4} and graph.tried.skipped is None


def test_ignored_parameters_keep_what_they_meet() -> None:
    model = Block()
    graph = ChannelGraph("all").build_dependency(model, EXAMPLE, ignored_params=[model.scale])
    assert graph.protected["into"] == "'scale' is to be ignored"
    pruner(model, ignored_layers=[model.scale]).step()
    assert model.into.out_features == 16 and model.qkv.out_features == 24


def test_root_module_types_choose_groups() -> None:
    model = Block()
    pruner(model, root_module_types=[nn.Conv1d]).step()
    assert model.into.out_features == 16
    pruner(model, root_module_types=[nn.Linear]).step()
    assert model.into.out_features == 8


def test_unwrapped_parameters_are_found_without_being_named() -> None:
    for options in ({}, {"unwrapped_parameters": [(None, 0)]}):
        model = Block()
        if options:
            options = {"unwrapped_parameters": [(model.scale, 0)]}
        pruner(model, **options).step()
        assert model.scale.shape == (8,)


def test_pruning_history_is_replayed() -> None:
    model, fresh = Block(), Block()
    fresh.load_state_dict(copy.deepcopy(model.state_dict()))
    first = pruner(model, num_heads={model.qkv: 4})
    first.step()
    graph = ChannelGraph("all").build_dependency(fresh, EXAMPLE)
    graph.load_pruning_history(first.pruning_history())
    assert first.pruning_history() and torch.equal(model(EXAMPLE), fresh(EXAMPLE))


class Scale(nn.Module):
    """A layer that only its author knows how to cut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.gain = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        """Sizes by singular values of matrices of one element, which no rule of ours follows."""
        return torch.linalg.svdvals(x[..., None, None]).squeeze(-1) * self.gain


class Divided(Scale):
    """A layer that we know as well: it divides by a norm over channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.square().sum(-1, keepdim=True).sqrt() * self.gain


class ScalePruner(tp.pruner.BasePruningFunc):
    def prune_out_channels(self, layer: Scale, idxs: Sequence[int]) -> Scale:
        keep = [i for i in range(layer.width) if i not in set(idxs)]
        layer.gain = self._prune_parameter_and_grad(layer.gain, keep, 0)
        layer.width = len(keep)
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Scale) -> int:
        return layer.width

    get_in_channels = get_out_channels


def test_customized_pruners_make_a_layer_known() -> None:
    def make() -> nn.Sequential:
        return nn.Sequential(nn.Linear(8, 12), Scale(12), nn.Linear(12, 2))

    model = make()
    graph = ChannelGraph("all").build_dependency(model, EXAMPLE)
    assert "operation '_linalg_svd' has no rule" in graph.protected["0"]
    for key in (Scale, model[1]):
        graph = ChannelGraph("all").build_dependency(
            model, EXAMPLE, customized_pruners={key: ScalePruner()}
        )
        assert sizes(graph) == {"0": 12}
    model = make()
    pruner(model, customized_pruners={Scale: ScalePruner()}).step()
    assert (model[0].out_features, model[1].width, model[2].in_features) == (6, 6, 6)
    assert model(EXAMPLE).shape == (2, 6, 2)


def test_customized_pruners_of_a_layer_that_pools_over_channels() -> None:
    """Its author's way of cutting it is taken, and it is still exact."""
    model = nn.Sequential(nn.Linear(8, 12), Divided(12), nn.Linear(12, 2))
    assert sizes(ChannelGraph("all").build_dependency(model, EXAMPLE)) == {"0": 12}
    pruner(model, customized_pruners={Divided: ScalePruner()}).step()
    assert (model[0].out_features, model[1].width, model[2].in_features) == (6, 6, 6)
    assert model(EXAMPLE).shape == (2, 6, 2)
