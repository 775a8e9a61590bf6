"""Attention is its parts: the same outputs, exact pruning inside the heads, one form on disk."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning as tp
from architectures import PlainAttention, randomised
from laws import far, keep_by, mixture, pruned_copy
from torch import Tensor, nn

from sepprune_tp.checkpoint import load_pruned, save_pruned
from sepprune_tp.gates import GateSet
from sepprune_tp.graph import ChannelGraph
from sepprune_tp.importance import SepPruneImportance
from sepprune_tp.layers.attention import PrunedAttention, attend, separate
from sepprune_tp.layers.attention_parts import Product, Projection
from sepprune_tp.layers.composite import parts_of, run_by_parts
from sepprune_tp.profile import profile
from sepprune_tp.pruner import SepPrunePruner

DOUBLE = torch.float64
HEADS = 3


def attention(**options: Any) -> nn.MultiheadAttention:
    def build() -> nn.Module:
        return nn.MultiheadAttention(12, HEADS, **options)

    made = randomised(build, 0, DOUBLE)
    assert isinstance(made, nn.MultiheadAttention)
    return made


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return mixture(math.prod(shape), seed=seed, dtype=DOUBLE).view(shape)


# -- the same outputs -----------------------------------------------------------------------------

FORMS = list(itertools.product([True, False], ["self", "cross", "widths"], [True, False]))


def inputs(first: bool, form: str, batched: bool) -> tuple[dict[str, Any], list[Tensor]]:
    options: dict[str, Any] = {"batch_first": first}
    if form == "widths":
        options |= {"kdim": 8, "vdim": 10}
    shapes = [(2, 5, 12), (2, 7, options.get("kdim", 12)), (2, 7, options.get("vdim", 12))]
    if form == "self":
        shapes = shapes[:1] * 3
    made = [tokens(*shape, seed=0 if form == "self" else i) for i, shape in enumerate(shapes)]
    if form == "cross":
        made[2] = made[1]
    if not batched:
        return options, [x[0] for x in made]
    return options, [x if first else x.transpose(0, 1) for x in made]


@pytest.mark.parametrize(("first", "form", "batched"), FORMS)
@pytest.mark.parametrize("cut", [False, True], ids=["dense", "separate"])
def test_parts_compute_what_torch_computes(
    first: bool, form: str, batched: bool, cut: bool
) -> None:
    options, (query, key, value) = inputs(first, form, batched)
    module = attention(**options)
    with torch.no_grad():
        own, weights = module(query, key, value)
    changed = copy.deepcopy(module)
    if cut:
        separate(changed)
        assert isinstance(changed, PrunedAttention)
        assert changed.embed_dim == 12 and changed.head_dim == 4
    with run_by_parts([changed]):
        found, found_weights = changed(query, key, value)
    assert far(found, own) < 1e-12 and found.shape == own.shape
    assert weights.shape == found_weights.shape and far(found_weights, weights) < 1e-12
    fused, nothing = changed(query, key, value, need_weights=False)
    assert nothing is None and far(fused, own) < 1e-12


MASKS: dict[str, dict[str, Any]] = {
    "pairs": {"attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1)},
    "causal": {"attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1), "is_causal": True},
    "numbers": {"attn_mask": torch.arange(25, dtype=DOUBLE).view(5, 5) / 10},
    "heads": {"attn_mask": torch.arange(150).view(6, 5, 5) % 4 == 1},
    "padding": {"key_padding_mask": torch.arange(10).view(2, 5) % 5 > 2},
    "both": {
        "attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(2),
        "key_padding_mask": torch.arange(10).view(2, 5) % 5 > 3,
    },
}


@pytest.mark.parametrize("case", MASKS)
@pytest.mark.parametrize("averaged", [True, False])
def test_masks(case: str, averaged: bool) -> None:
    module, x = attention(batch_first=True), tokens(2, 5, 12)
    options = {**MASKS[case], "average_attn_weights": averaged}
    own, weights = module(x, x, x, **options)
    found, found_weights = attend(module, x, x, x, **options)
    assert far(found, own) < 1e-12 and far(found_weights, weights) < 1e-12
    open_pairs = attend(module, x, x, x)[0]
    assert far(open_pairs, own) > 1e-3  # the mask does something
    fused = attend(module, x, x, x, need_weights=False, fused=True, **MASKS[case])[0]
    assert far(fused, own) < 1e-12


def test_dropout_only_in_training() -> None:
    module, x = attention(batch_first=True, dropout=0.5), tokens(2, 5, 12)
    once, again = attend(module, x, x, x)[0], attend(module, x, x, x)[0]
    assert torch.equal(once, again)
    module.train()
    assert not torch.equal(attend(module, x, x, x)[0], once)


def test_gradients_reach_packed_weights() -> None:
    module, x = attention(batch_first=True), tokens(2, 5, 12)
    loss = module.train()(x, x, x)[0].square().sum()
    own = torch.autograd.grad(loss, list(module.parameters()))
    found = torch.autograd.grad(
        attend(module, x, x, x)[0].square().sum(), list(module.parameters())
    )
    for one, other in zip(own, found, strict=True):
        assert far(other, one) < 1e-10


# -- groups and exact pruning ---------------------------------------------------------------------


class Frames(nn.Module):
    """An attention between two linear layers."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.into = nn.Linear(4, 12)
        self.attention = nn.MultiheadAttention(12, HEADS, batch_first=True, **options)
        self.out = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, 4) -> (B, L, 2)."""
        x = self.into(x)
        return self.out(x + self.attention(x, x, x, need_weights=False)[0])


def test_groups_of_one_attention() -> None:
    graph = ChannelGraph("all").build_dependency(Frames(), torch.randn(1, 6, 4))
    groups = {name: group.channel_set for name, group in graph.named_groups()}
    sizes = {name: channels.size for name, channels in groups.items()}
    assert sizes == {"into": 12, "attention.query": 4, "attention.value": 4}
    inner = {graph.name_of(site.owner) for site in groups["attention.query"].sites}
    assert inner == {"attention.query", "attention.key", "attention.scores"}
    mixed = {(graph.name_of(s.owner), s.side) for s in groups["attention.value"].sites}
    assert ("attention.out_proj", "in") in mixed


def test_heads_keep_equal_widths_and_the_scale() -> None:
    example = tokens(1, 6, 4)
    gates = GateSet(randomised(Frames, 1, DOUBLE), example, scope="all")
    gates.load_masks({"attention.query": torch.tensor([True, False, True, True])})
    pruned: Any = pruned_copy(gates, example)
    module = pruned.attention
    assert module.q_proj_weight.shape == module.k_proj_weight.shape == (9, 12)
    assert module.v_proj_weight.shape == (12, 12)
    x = tokens(2, 9, 4, seed=3)
    with gates:
        masked = gates.model(x)
    assert far(pruned(x), masked) < 1e-12
    module.scale_dim = 3  # what attention of that width would use: not the same function
    assert far(pruned(x), masked) > 1e-4


def test_a_product_of_projections_by_hand_is_gated() -> None:
    """The product is a call in the model's own code, where gates reach in."""

    class ByHand(Frames):
        def forward(self, x: Tensor) -> Tensor:
            query, key = self.into(x), self.into2(x)
            return self.out(torch.softmax(query @ key.transpose(1, 2), -1) @ self.value(x))

        def __init__(self) -> None:
            super().__init__()
            self.into2, self.value = nn.Linear(4, 12), nn.Linear(4, 12)

    example = tokens(1, 6, 4)
    gates = GateSet(randomised(ByHand, 0, DOUBLE), example, scope="all")
    assert {group.name: group.size for group in gates.groups} == {"into": 12, "value": 12}
    graph = gates.graph
    (keys,) = [c for c in graph.prunable_sets() if graph.name_of(c.root.owner) == "into"]
    assert keys.ungated is None
    assert {graph.name_of(site.owner) for site in keys.sites} == {"into", "into2"}
    gates.load_masks(keep_by(gates, "odd"))
    x = tokens(2, 9, 4, seed=1)
    with gates:
        masked = gates.model(x)
    assert far(pruned_copy(gates, example)(x), masked) < 1e-12
    assert far(gates.model(x), masked) > 1e-3


def test_fused_attention_by_hand() -> None:
    """Queries and keys shrink alike, by channels of every head, and the scale with them."""

    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(4, 12) for _ in range(3))
            self.out = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (
                f(x).view(*x.shape[:2], 3, -1).transpose(1, 2)
                for f in (self.query, self.key, self.value)
            )
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.out(mixed.transpose(1, 2).flatten(2))

    example = tokens(1, 6, 4)
    gates = GateSet(randomised(Fused, 0, DOUBLE), example, scope="all")
    assert [(group.name, group.size) for group in gates.groups] == [("query", 4), ("value", 4)]
    x = tokens(2, 9, 4, seed=1)
    for closed in ("query", "value"):
        every, half = torch.ones(4, dtype=torch.bool), torch.tensor([True, False, False, True])
        gates.load_masks({name: half if name == closed else every for name in ("query", "value")})
        with gates:
            masked = gates.model(x)
        pruned: Any = pruned_copy(gates, example)
        assert far(pruned(x), masked) < 1e-12
        assert far(gates.model(x), masked) > 1e-3
        kept = {name for name, rows in pruned.named_parameters() if len(rows) == 6}
        layers = ("query", "key") if closed == "query" else ("value",)
        assert kept == {f"{layer}.{key}" for layer in layers for key in ("weight", "bias")}


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attention_without_parts_is_refused(options: dict[str, Any]) -> None:
    model = Frames(**options)
    graph = ChannelGraph("all").build_dependency(model, torch.randn(1, 6, 4))
    assert next(iter(options)) in graph.protected["into"]
    assert not list(graph.named_groups())
    kinds = {row.name: row.kind for row in profile(model, torch.randn(1, 6, 4)).rows}
    assert kinds["attention"] == "attention"


def test_ignoring_the_attention_keeps_it_whole() -> None:
    model = Frames()
    graph = ChannelGraph("all").build_dependency(
        model, torch.randn(1, 6, 4), ignored_layers=[model.attention]
    )
    assert [name for name, _ in graph.named_groups()] == ["into"]
    listed = ChannelGraph([model.attention]).build_dependency(model, torch.randn(1, 6, 4))
    assert [name for name, _ in listed.named_groups()] == ["attention.query", "attention.value"]


class Translator(nn.Module):
    """``nn.Transformer`` between layers that make and read its features."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Linear(4, 12), nn.Linear(5, 12)
        self.body = nn.Transformer(12, 3, 2, 2, 10, dropout=0.0, batch_first=True)
        self.out = nn.Linear(12, 2)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """(B, S, 4), (B, L, 5) -> (B, L, 2), each target reads those before it."""
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.out(self.body(self.source(source), self.target(target), tgt_mask=causal))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_transformer(dtype: torch.dtype) -> None:
    example = (tokens(1, 6, 4).to(dtype), tokens(1, 5, 5).to(dtype))
    gates = GateSet(randomised(Translator, 0, dtype), example, scope="all")
    names = {group.name for group in gates.groups}
    assert "body.decoder.layers.1.multihead_attn.value" in names
    assert len(names & {"source", "target"}) == 1  # d_model is one for both
    assert gates.graph.protected.keys() == {"out"}
    gates.load_masks(keep_by(gates, "odd"))
    predicted = gates.cost()
    model = copy.deepcopy(gates.model)
    SepPrunePruner(model, example, SepPruneImportance(gates)).step()
    assert profile(model, example).macs == predicted.macs
    x = (tokens(2, 9, 4, seed=1).to(dtype), tokens(2, 7, 5, seed=2).to(dtype))
    with gates:
        masked = gates.model(*x)
    limit = 1e-5 if dtype == torch.float32 else 1e-10
    assert far(model(*x), masked) < limit
    with torch.no_grad():  # torch's fused layers run where nothing asks for a gradient
        assert far(model(*x), masked) < limit
    assert far(gates.model(*x), masked) > 1e-2


# -- cost, criteria, files ------------------------------------------------------------------------


def test_profile_lists_the_parts() -> None:
    model = Frames()
    found = profile(model, torch.randn(2, 6, 4))
    rows = {row.name: (row.params, row.macs) for row in found.rows}
    assert rows["attention.query"] == (12 * 13, 2 * 6 * 144)
    assert rows["attention.scores"] == rows["attention.context"] == (0, 2 * 6 * 6 * 12)
    assert found.params == sum(p.numel() for p in model.parameters())
    assert found.params == sum(row.params for row in found.rows)


CRITERIA = {
    "magnitude": tp.importance.GroupMagnitudeImportance(),
    "taylor": tp.importance.GroupTaylorImportance(),
    "hessian": tp.importance.GroupHessianImportance(),
    "lamp": tp.importance.LAMPImportance(),
    "fpgm": tp.importance.FPGMImportance(),
    "random": tp.importance.RandomImportance(),
}


@pytest.mark.parametrize("kind", CRITERIA)
def test_criteria_of_torch_pruning(kind: str) -> None:
    model, example = randomised(Frames, 0, torch.float32), torch.randn(2, 6, 4)
    criterion = CRITERIA[kind]
    model(example).square().sum().backward()
    if kind == "hessian":
        criterion.accumulate_grad(model)
    SepPrunePruner(model, example, criterion, pruning_ratio=0.5, scope="all").step()
    assert model.attention.q_proj_weight.shape == (6, 6)
    assert model.attention.k_proj_bias.shape == (6,)
    assert model.attention.q_proj_weight.grad.shape == (6, 6)
    model(example).sum().backward()


def test_magnitude_reads_the_rows_of_each_role() -> None:
    model, example = Frames(), torch.randn(2, 6, 4)
    with torch.no_grad():
        model.attention.in_proj_weight[12 + torch.arange(0, 12, 4)] *= 100  # keys, index 0
    graph = ChannelGraph("all").build_dependency(model, example)
    group = dict(graph.named_groups())["attention.query"]
    scores = tp.importance.GroupMagnitudeImportance()(group)
    assert int(scores.view(HEADS, 4).mean(0).argmax()) == 0


def test_frozen_weights_stay_frozen() -> None:
    model, example = Frames(), torch.randn(1, 6, 4)
    model.attention.in_proj_weight.requires_grad_(False)
    SepPrunePruner(
        model, example, tp.importance.GroupMagnitudeImportance(), 0.5, scope="all"
    ).step()
    flags = {name: p.requires_grad for name, p in model.attention.named_parameters()}
    assert not any(flags[f"{role}_proj_weight"] for role in "qkv")
    assert flags["q_proj_bias"] and flags["out_proj.weight"]


def test_pruned_twice_saved_and_loaded(tmp_path: Path) -> None:
    model, example = randomised(PlainAttention, 0, torch.float32), mixture(1, 400)
    for seed in range(2):
        gates = GateSet(model, example, scope="all")
        gates.load_masks(keep_by(gates, "odd", seed))
        predicted = gates.cost()
        with torch.no_grad(), gates:
            masked = model(example)
        model = pruned_copy(gates, example)
        assert far(model(example), masked) < 1e-5
        measured = profile(model, example)
        assert (measured.params, measured.macs) == (predicted.params, predicted.macs)
    save_pruned(model, tmp_path / "small.safetensors")
    loaded = load_pruned(tmp_path / "small.safetensors", model=PlainAttention())
    assert torch.equal(loaded(example), model(example))
    assert isinstance(loaded.attention, PrunedAttention)


def test_parts_leave_with_their_module() -> None:
    module = attention()
    parts = parts_of(module)
    assert parts is parts_of(module)
    query, scores = parts["query"], parts["scores"]
    assert isinstance(query, Projection) and isinstance(scores, Product)
    assert query.weight.data_ptr() == module.in_proj_weight.data_ptr()
    assert list(query.parameters()) == []
    del module
    with pytest.raises(AssertionError, match="outlive"):
        _ = query.weight
