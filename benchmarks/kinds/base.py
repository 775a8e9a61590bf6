"""What a kind of experiment is to the entry and to the page of results."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.config import Experiment

__all__ = ["Kind", "wants"]

Only = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of experiment.

    Attributes:
        run: (experiment, only, say): measure what is missing of what ``only`` selects (by
            ``model``, ``seed``, ``criterion``, ``recovery``, ``budget``; None: all).
        status: How far an experiment is, in a few words.
        section: The lines of its section in RESULTS.md, from its records; none if there are none.
    """

    run: Callable[[Experiment, Only, Callable[[str], None]], None]
    status: Callable[[Experiment], str]
    section: Callable[[Experiment], list[str]]


def wants(only: Only, key: str, value: Any) -> bool:
    """Whether a value is among those asked for."""
    asked: Collection[Any] | None = only.get(key)
    return not asked or value in asked
