"""On random networks: whatever is offered is exact, and nothing crashes."""

from __future__ import annotations

import os
import re

import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_networks import Statistics, outcome
from random_plans import Plan, drawn_plan, network, shrunk
from random_steps import Step

from sepprune_tp.graph import ChannelGraph
from sepprune_tp.graph.prove import Proof

EXAMPLES = 500
MANY = int(os.environ.get("SEPPRUNE_RANDOM_NETWORKS", "20000"))


RARE = 0.02
"""Share of networks with a failure that is known (see ``KNOWN``) and rare."""
KNOWN = ("the cut copy fails", "by_file: CheckpointError", "are left, ")
"""What the proof's few masks and inputs miss by chance, and costs of a few forms: never values."""


PLANS = st.integers(0, 2**63).map(drawn_plan)
"""Hypothesis draws seeds: its own lists are short and alike; `shrunk` knows what is simpler."""


def check(examples: int, derandomize: bool) -> Statistics:
    """Draw many networks, and fail with a simple one that breaks the law."""
    statistics = Statistics()
    wrong: list[tuple[Plan, str]] = []

    @settings(
        max_examples=examples,
        derandomize=derandomize,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(plan=PLANS)
    def draw(plan: Plan) -> None:
        found = outcome(plan)
        statistics.add(found)
        if found.wrong:
            wrong.append((plan, found.wrong))

    draw()
    unknown = [one for one in wrong if not any(known in one[1] for known in KNOWN)]
    if unknown or len(wrong) > RARE * examples:
        plan, said = (unknown or wrong)[0]
        start = re.split(r"[\d(]", said)[0]
        plan = shrunk(plan, lambda simpler: outcome(simpler).wrong.startswith(start))
        found = outcome(plan)
        pytest.fail(f"{len(wrong)} are wrong. {plan}: {found.wrong}\n{found.trace}")
    return statistics


def test_what_is_offered_is_exact() -> None:
    check(EXAMPLES, derandomize=True)


@pytest.mark.slow
@pytest.mark.timeout(6 * 60 * 60)
def test_what_is_offered_is_exact_on_many(capsys: pytest.CaptureFixture[str]) -> None:
    statistics = check(MANY, derandomize=False)
    with capsys.disabled():
        print(f"\n{statistics}")


def test_without_the_proof_some_network_is_offered_a_wrong_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A negative control."""

    def prove_nothing(graph: ChannelGraph, *_: object) -> None:
        graph.tried = Proof(skipped="it was not asked for")

    plan = next(p for p in map(drawn_plan, range(100)) if "Constant" in network(p)[0].names)
    assert not outcome(plan).wrong
    monkeypatch.setattr(ChannelGraph, "_prove", prove_nothing)
    assert any(outcome(drawn_plan(seed)).wrong for seed in range(100))


def test_every_step_is_drawn_and_most_networks_have_groups() -> None:
    networks = [network(drawn_plan(seed))[0] for seed in range(1000)]
    assert {name for net in networks for name in net.names} == set(Step.kinds)
    assert sum(len(net.names) for net in networks) / len(networks) > 3
    some = [outcome(drawn_plan(seed)) for seed in range(400, 420)]
    assert sum(found.groups > 0 for found in some) >= 10
