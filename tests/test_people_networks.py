"""Networks as people write them: gated is pruned, or the reason says where; on all of them."""

from __future__ import annotations

import importlib
from functools import cache

import pytest
from people_networks import CASES, COST_NOT_YET, NOT_YET, Outcome, examine, wanted

from sepprune_tp.graph.prove import Proof

NAMES = wanted()


@cache
def outcome(name: str) -> Outcome:
    """A third of the networks also goes through a file."""
    return examine(name, with_file=list(CASES).index(name) % 3 == 0)


@pytest.mark.parametrize("name", NAMES)
def test_it_comes_out_as_wanted(name: str) -> None:
    assert not outcome(name).failure, str(outcome(name))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in COST_NOT_YET])
def test_predicted_parameters_are_those_that_are_left(name: str) -> None:
    assert not outcome(name).cost, str(outcome(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NOT_YET, *COST_NOT_YET])
def test_what_is_not_yet_as_wanted_is_listed_for_a_reason(name: str) -> None:
    found = examine(name)
    assert found.failure if name in NOT_YET else found.cost, "as wanted now: take it off the list"


def test_the_collection() -> None:
    kinds = {case.kind for case in CASES.values()}
    assert len(CASES) >= 500 and len(kinds) >= 16
    assert {*NOT_YET, *COST_NOT_YET} <= CASES.keys()
    assert {case.want for case in CASES.values()} == {"cut", "safe", "refused"}


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("scaled_by_the_present_width", "wrong value: gated and cut differ by"),
        ("a_ramp_over_the_channels", "wrong value: gated and cut differ by"),
        ("a_number_in_the_code", "fails when cut: RuntimeError:"),
    ],
)
def test_without_a_proof_mistakes_are_seen(
    name: str, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A negative control: this collection would tell."""
    module = importlib.import_module("sepprune_tp.graph.channel_graph")
    monkeypatch.setattr(module, "prove", lambda graph, bench: Proof())
    assert str(examine(name)).startswith(seen)
