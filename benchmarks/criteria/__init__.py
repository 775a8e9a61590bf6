"""Criteria: ways to choose the channels of a trained separator under a budget, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

from benchmarks.criteria import (
    feature_rank,
    gates,
    joint,
    learned,
    norm_scale,
    paper,
    torch_pruning,
    udsp,
)
from benchmarks.criteria.base import Batch, Chosen, Criterion, Search, UnreachableError
from benchmarks.criteria.options import OptionError, read

__all__ = [
    "CRITERIA",
    "Batch",
    "Chosen",
    "Criterion",
    "NamedCriterion",
    "OptionError",
    "Search",
    "UnreachableError",
    "criterion",
]


@dataclass(frozen=True)
class NamedCriterion:
    """A criterion whose name says some of its options.

    Attributes:
        name: As records write it.
        module: Holds ``choose`` and its ``Options``.
        fixed: Options that belong to the name; a search cannot change them.
        options: Further ones; those of a search go first.
    """

    name: str
    module: ModuleType
    fixed: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, search: Search) -> Chosen:
        """Choose channels; see :class:`Criterion`."""
        given = {**self.options, **search.options}
        self.check(given)
        chosen: Chosen = self.module.choose(replace(search, options={**self.fixed, **given}))
        return chosen

    @property
    def mixtures(self) -> int:
        """Training mixtures that its search learns from; 0 of what learns nothing by steps."""
        found = read(self.module.Options, {**self.fixed, **self.options})
        return int(getattr(found, "steps", 0)) * int(getattr(found, "batch", 1))

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse options that the criterion does not have.

        Raises:
            OptionError: If one is unknown, has a wrong value, or belongs to the name.
        """
        if taken := sorted(set(options) & set(self.fixed)):
            said = ", ".join(f"{name}={self.fixed[name]!r}" for name in taken)
            raise OptionError(f"{self.name!r} stands for {said}; take another criterion instead")
        try:
            read(self.module.Options, {**self.fixed, **options})
        except OptionError as error:
            raise OptionError(f"{self.name!r}: {error}") from error


def _of_torch_pruning() -> list[NamedCriterion]:
    """Every importance: by itself global, with ``/local`` or ``/isomorphic`` so."""
    found = []
    for importance in torch_pruning.IMPORTANCES:
        for mode in torch_pruning.MODES:
            name = importance if mode == "global" else f"{importance}/{mode}"
            fixed = {"importance": importance, "mode": mode}
            found.append(NamedCriterion(name, torch_pruning, fixed))
    return found


_ALL = [
    NamedCriterion("sepprune", gates, {"lookahead": False, "family": False}),
    NamedCriterion("sepprune/lookahead", gates, {"lookahead": True, "family": False}),
    NamedCriterion("sepprune/family", gates, {"lookahead": True, "family": True}),
    NamedCriterion("paper", paper, {"masks": "ranked"}),
    NamedCriterion("paper/last sample", paper, {"masks": "last sample"}),
    NamedCriterion("HRank", feature_rank),
    NamedCriterion("UDSP", udsp),
    NamedCriterion("NormScale", norm_scale),
    NamedCriterion("joint", joint),
    NamedCriterion("learned", learned),
    *_of_torch_pruning(),
]

CRITERIA: dict[str, NamedCriterion] = {one.name: one for one in _ALL}
"""Every criterion, by the name in records."""


def criterion(name: str, options: Mapping[str, Any] | None = None) -> NamedCriterion:
    """A criterion with options of an experiment.

    Args:
        name: One of :data:`CRITERIA`.
        options: As the criterion's ``Options`` say.

    Raises:
        OptionError: If there is no criterion of that name, or it does not take the options.
    """
    if name not in CRITERIA:
        raise OptionError(f"no criterion is called {name!r}; there are {', '.join(CRITERIA)}")
    given = dict(options or {})
    CRITERIA[name].check(given)
    return replace(CRITERIA[name], options=given)
