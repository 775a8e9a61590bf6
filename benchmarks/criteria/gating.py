"""Gates of the model of a search, and the layers that hold each of their groups."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.criteria.base import Search
from sepprune_tp import GateSet
from sepprune_tp.gates import Parametrisation
from sepprune_tp.graph.assembly import ChannelSet, Site

__all__ = ["by_component", "gates_of", "scope_of", "sets_of"]


def gates_of(
    search: Search, kind: str | Parametrisation = "budget", made: type[GateSet] = GateSet
) -> GateSet:
    """Gates of a search's model, all open.

    Args:
        search: The model, its example, the scope and the seed.
        kind: Scores to gates, as of ``GateSet``.
        made: The class.
    """
    return made(search.model, search.example, scope_of(search), kind, search.seed)


def scope_of(search: Search) -> str | Sequence[nn.Module]:
    """The scope with modules for their names."""
    if isinstance(search.scope, str):
        return search.scope
    return [search.model.get_submodule(name) for name in search.scope]


def sets_of(gates: GateSet) -> list[ChannelSet]:
    """The layers of each gated group, in the order of ``gates.groups``."""
    found = [one for one in gates.graph.prunable_sets() if one.ungated is None]
    names = [gates.graph.name_of(one.root.owner) for one in found]
    if names != [group.name for group in gates.groups]:
        raise RuntimeError("the graph's groups are not those of the gates")
    return found


def by_component(values: Tensor, site: Site, members: list[int]) -> Tensor:
    """Mean of a layer's values over the channels of each component; NaN where it holds none.

    Args:
        values: One a channel of the site, shape (n,).
        site: The layer's side.
        members: Components, in the order of the group's gates.

    Returns:
        Shape (len(members),), float64, on the CPU.
    """
    values, positions = values.detach().double().cpu(), site.positions()
    means = [float(values[positions[c]].mean()) if c in positions else torch.nan for c in members]
    return torch.tensor(means, dtype=torch.float64)
