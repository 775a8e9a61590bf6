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

    def __init__(self, rows: int | None, residual: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 6, 1)
        self.narrow, self.wide = nn.Linear(24, 5), nn.Linear(5, 24)
        self.last = nn.Conv1d(6, 1, 1)
        self.rows, self.residual = rows, residual

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 4) -> (B, 1, 4)."""
        x = torch.relu(self.conv(x))
        y = self.wide(torch.tanh(self.narrow(x.flatten(1))))
        y = y.view(-1, self.rows or x.shape[1], 4)
        return self.last(y + x) if self.residual else self.last(y)


def groups_of(model: nn.Module) -> dict[str, int]:
    graph = ChannelGraph("all").build_dependency(model, X)
    return {name: group.channel_set.size for name, group in graph.named_groups()}


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


@pytest.mark.parametrize("rows", [6, None])
def test_rows_that_may_be_a_constant_stay(rows: int | None) -> None:
    """Nothing tells the trace whether the 6 is a number in the code, so no row may go.

    Where it is the width of another layer, the trial finds that this layer has to keep it.
    """
    model = Bottle(rows, residual=False).double().eval()
    graph = ChannelGraph("all").build_dependency(model, X)
    assert groups_of(model) == ({"conv": 6, "narrow": 5} if rows else {"narrow": 5})
    assert rows or graph.protected["conv"].startswith("the model does not run without it")
    assert graph.protected["wide"] == "all of its channels are coupled into one"


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
    settle([Rectangle(grid, Place("view"))], channels, [])  # without the layer that counts rows
    assert len({channels.find(label) for label in grid.flatten().tolist()}) == 1


def test_order_of_rows_matters() -> None:
    """A layer that makes the same channels in another order does not count these rows."""
    channels = Channels()
    grid, made = channels.fresh(6).view(3, 2), channels.fresh(3)
    for row, label in zip(grid, made.flip(0).tolist(), strict=True):
        for other in row.tolist():
            channels.unite(other, label)
    settle([Rectangle(grid, Place("view"))], channels, [made])
    assert len({channels.find(label) for label in grid.flatten().tolist()}) == 1


def test_three_axes() -> None:
    channels = Channels()
    labels = channels.fresh(24).view(1, 2, 3, 1, 4).expand(5, 2, 3, 7, 4)
    grid = rectangle(labels, [1, 2, 4])
    assert grid.shape == (2, 3, 4)
    settle([Rectangle(grid, Place("view"))], channels, [])
    roots = [[channels.find(label) for label in row] for row in grid.view(6, 4).tolist()]
    assert all(row == roots[0] for row in roots) and len(set(roots[0])) == 4
