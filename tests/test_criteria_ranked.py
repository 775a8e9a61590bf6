"""Criteria that rank channels by what they compute or by their norms' gains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from criteria_cases import X, chosen, constant_channel, drawn, search_of, share
from torch import nn

from benchmarks.criteria import feature_rank
from benchmarks.criteria.gating import gates_of
from benchmarks.criteria.norm_scale import scales
from benchmarks.criteria.ranking import at_one_rate
from sepprune_tp import GateSet


def test_rank_of_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(25, generator=generator)
    periodic = torch.randn(5, generator=generator).repeat(5)
    series = torch.stack([square, periodic, torch.zeros(25)])
    assert feature_rank.ranks(series[:, None], 1e-2).tolist() == [5, 1, 0]
    with_rest = torch.cat([series, torch.ones(3, 3)], 1)  # 28 frames: three are left over
    assert feature_rank.ranks(with_rest[:, None], 1e-2).tolist() == [5, 1, 0]
    table = torch.randn(2, 1, 4, 3, generator=generator)
    table[1] = table[1, :, :1]
    assert feature_rank.ranks(table, 1e-2).tolist() == [3, 1]


def test_rank_is_zero_for_a_constant_zero() -> None:
    search = search_of()
    group = next(g for g in GateSet(search.model, X).groups if "TCN.0" in g.name)
    constant_channel(search.model, group.name, 3)
    gates = gates_of(search)
    ranks = feature_rank.mean_ranks(gates, drawn(0)(2, 1), 1e-2)[group.gates]
    assert ranks[3] == 0 and ranks.argmin() == 3
    assert ranks.sort().values[1] > 0
    assert all(
        not chosen("HRank", search, **{"global": g}).masks[group.name][3] for g in (False, True)
    )


def test_rank_reads_channels_of_recurrent_layers() -> None:
    search = search_of("DPRNNTasNet")
    gates = gates_of(search)
    name = next(
        g.name for g in gates.groups if isinstance(search.model.get_submodule(g.name), nn.LSTM)
    )
    group = next(g for g in gates.groups if g.name == name)
    layer: Any = search.model.get_submodule(name)
    size = layer.hidden_size
    with torch.no_grad():  # the output gate of unit 2 is shut in both directions
        for key, parameter in layer.named_parameters():
            rows = parameter[3 * size + 2 :: 4 * size]
            rows.copy_(torch.zeros_like(rows) if key.startswith("weight") else rows * 0 - 1e4)
    ranks = feature_rank.mean_ranks(gates, drawn(0)(1, 1), 1e-2)[group.gates]
    assert len(ranks) == group.size
    assert ranks[2] == 0 and (ranks > 0).sum() == group.size - 1


def test_one_rate_is_the_smallest_that_meets_the_budget() -> None:
    search = search_of()
    gates = gates_of(search)
    scores = torch.rand(len(gates), generator=torch.Generator().manual_seed(0))
    masks, rate = at_one_rate(gates, scores, 0.5)
    for group in gates.groups:
        mask, own = masks[group.name], scores[group.gates]
        assert (~mask).sum() == min(group.size - 1, int(rate * group.size + 1e-9))
        assert own[mask].min() > own[~mask].max()
    sizes = {group.size for group in gates.groups}
    less = max(k / n for n in sizes for k in range(n) if k / n < rate)
    fewer = {
        g.name: scores[g.gates] >= scores[g.gates].sort().values[int(less * g.size + 1e-9)]
        for g in gates.groups
    }
    assert share("ConvTasNet", masks) <= 0.5 < share("ConvTasNet", fewer)
    assert at_one_rate(gates, scores, 1.0)[1] == 0


@pytest.mark.parametrize("local", [False, True])
def test_scale_drops_a_channel_whose_gain_is_zero(local: bool) -> None:
    search = search_of(budget=0.95)
    group = next(g for g in GateSet(search.model, X).groups if "TCN.0" in g.name)
    block: Any = search.model.get_submodule(group.name.rpartition(".")[0])
    with torch.no_grad():
        for module in block.modules():
            if hasattr(module, "gamma"):
                module.gamma[5] = 0
    found = scales(gates_of(search))[group.gates]
    assert found[5] == 0 and found.sort().values[1] > 0
    norms = [m.gamma.detach().abs() for m in block.modules() if hasattr(m, "gamma")]
    assert len(norms) == 2  # of the depthwise layer, in front of it and behind it
    torch.testing.assert_close(found, torch.stack(norms).double().mean(0))
    assert not chosen("NormScale", search, local=local).masks[group.name][5]


def test_groups_without_norms_stay() -> None:
    search = search_of(budget=0.9)
    gates = gates_of(search)
    bare = scales(gates).isnan()
    found = chosen("NormScale", search)
    without = [g.name for g in gates.groups if bare[g.gates].all()]
    assert without == found.details["without norms"]
    assert without and all(found.masks[name].all() for name in without)
