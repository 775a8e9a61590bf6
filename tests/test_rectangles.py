"""Channel axes that a reshape splits: which of the two sides shrinks, and when neither may."""

from __future__ import annotations

import copy

import pytest
import torch
from laws import far
from torch import Tensor, nn

from sepprune_tp.gates import GateSet
from sepprune_tp.graph import ChannelGraph
from sepprune_tp.graph.labels import Channels, Place
from sepprune_tp.graph.rectangles import Rectangle, rectangle, settle
from sepprune_tp.importance import SepPruneImportance
from sepprune_tp.pruner import SepPrunePruner

X = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Bottle(nn.Module):
    """conv -> (B, C * T) -> linear -> (B, C, T) -> conv, as a bottleneck between two halves."""

    def __init__(self, rows: int | None, residual: bool, literal: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 6, 1)
        self.narrow, self.wide = nn.Linear(24, 5), nn.Linear(5, 24)
        self.last = nn.Conv1d(6, 1, 1)
        self.rows, self.residual, self.literal = rows, residual, literal

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 4) -> (B, 1, 4)."""
        x = torch.relu(self.conv(x))
        y = self.wide(torch.tanh(self.narrow(x.flatten(1))))
        y = y.view(-1, 6 if self.literal else self.rows or x.shape[1], 4)
        return self.last(y + x) if self.residual else self.last(y)


def groups_of(model: nn.Module) -> dict[str, int]:
    graph = ChannelGraph("all").build_dependency(model, X)
    return {name: group.channel_set.size for name, group in graph.named_groups()}


def model_layers(gates: GateSet, group: str) -> list[str]:
    """Names of the layers that a group cuts."""
    sets = {g.name_of(s.root.owner): s for g in [gates.graph] for s in g.prunable_sets()}
    return [gates.graph.name_of(site.owner) for site in sets[group].sites]


def assert_exact(model: nn.Module, closed: dict[str, int]) -> None:
    gates = GateSet(model, X, "all")
    gates.load_masks(
        {g.name: torch.arange(g.size) % 3 != closed.get(g.name, 3) for g in gates.groups}
    )
    pruned = copy.deepcopy(model)
    SepPrunePruner(pruned, X, SepPruneImportance(gates)).step()
    with torch.no_grad():
        with gates:
            found = model(X)
        assert far(found, pruned(X)) < 1e-10 < 1e-3 < far(found, model(X))


def test_rows_shrink_where_another_layer_counts_them() -> None:
    model = Bottle(None, residual=True).double().eval()
    assert groups_of(model) == {"conv": 6, "narrow": 5}
    assert_exact(model, {"conv": 1})


def test_rows_that_are_a_number_in_the_code_stay() -> None:
    """Neither 6 rows nor 4 columns may be fewer."""
    model = Bottle(None, residual=False, literal=True).double().eval()
    graph = ChannelGraph("all").build_dependency(model, X)
    assert groups_of(model) == {"conv": 6, "narrow": 5}
    assert graph.protected["wide"]
    assert_exact(model, {"conv": 1, "narrow": 2})


def test_rows_that_are_the_width_of_another_layer_go_with_it() -> None:
    """Nothing tells the trace that the 6 is the width of ``conv``: the proof finds it."""
    model = Bottle(None, residual=False).double().eval()
    assert groups_of(model) == {"conv": 6, "narrow": 5}
    assert_exact(model, {"conv": 1})
    assert_exact(model, {"conv": 2, "narrow": 0})
    gates = GateSet(model, X, "all")
    assert "wide" in model_layers(gates, "conv")


def test_rows_that_are_a_number_in_an_attribute_go_and_it_follows() -> None:
    model = Bottle(6, residual=False).double().eval()
    assert groups_of(model) == {"conv": 6, "narrow": 5, "wide": 6}
    assert_exact(model, {"conv": 1})
    assert_exact(model, {"wide": 1, "narrow": 2})
    gates = GateSet(model, X, "all")
    gates.load_masks({"wide": torch.arange(6) < 4})
    SepPrunePruner(model, X, SepPruneImportance(gates)).step()
    assert (model.rows, model.wide.out_features, model.last.in_channels) == (4, 16, 4)


def test_columns_shrink_where_rows_do_not() -> None:
    """Two sources of 4 features each: features go from both sources at once."""
    net = (
        nn.Sequential(
            nn.Flatten(), nn.Linear(4, 8), nn.Unflatten(1, (2, -1)), nn.Tanh(), nn.Linear(4, 3)
        )
        .double()
        .eval()
    )
    assert groups_of(net) == {"1": 4}
    assert_exact(net, {"1": 1})


def test_a_later_tie_settles_an_earlier_rectangle() -> None:
    channels = Channels()
    grid, made = channels.fresh(6).view(2, 3), channels.fresh(2)
    for row, label in zip(grid, made.tolist(), strict=True):
        for other in row.tolist():
            channels.unite(other, label)
    settle([Rectangle(grid, Place("view"))], channels, [made])
    assert channels.find(int(grid[0, 0])) != channels.find(int(grid[1, 0]))
    assert len({channels.find(label) for label in grid.flatten().tolist()}) == 2


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_rows_that_are_united_shrink(order: list[int], counted: bool) -> None:
    """No other axis can: whether the code counts the rows, in which order, is what is proved."""
    channels = Channels()
    grid, made = channels.fresh(6).view(3, 2), channels.fresh(3)
    for row, label in zip(grid, made[order].tolist(), strict=True):
        for other in row.tolist():
            channels.unite(other, label)
    settle([Rectangle(grid, Place("view"))], channels, [made] if counted else [])
    assert len({channels.find(label) for label in grid.flatten().tolist()}) == 3


@pytest.mark.parametrize("axis", [0, 1, None])
def test_a_rectangle_shrinks_along_the_axis_that_is_asked_for(axis: int | None) -> None:
    """Else along the last one."""
    channels = Channels()
    grid = channels.fresh(6).view(3, 2)
    settle([Rectangle(grid, Place("view"))], channels, [], axes={} if axis is None else {0: axis})
    roots = torch.tensor([channels.find(label) for label in grid.flatten().tolist()]).view(3, 2)
    assert len(roots.unique()) == (3 if axis == 0 else 2)
    assert bool((roots == (roots[:, :1] if axis == 0 else roots[:1])).all())


def test_three_axes() -> None:
    channels = Channels()
    labels = channels.fresh(24).view(1, 2, 3, 1, 4).expand(5, 2, 3, 7, 4)
    grid = rectangle(labels, [1, 2, 4])
    assert grid.shape == (2, 3, 4)
    settle([Rectangle(grid, Place("view"))], channels, [])
    roots = [[channels.find(label) for label in row] for row in grid.view(6, 4).tolist()]
    assert all(row == roots[0] for row in roots) and len(set(roots[0])) == 4
