"""``sepprune profile``: where parameters and MACs are."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepprune_tp.commands.common import (
    DeviceOption,
    ModelArgument,
    RateOption,
    example_mixture,
    open_model,
    rate_of,
    say,
)
from sepprune_tp.commands.output import show

if TYPE_CHECKING:
    from sepprune_tp.profile import Profile

__all__ = ["profile"]


def profile(
    model: ModelArgument,
    seconds: Annotated[float, typer.Option(help="Length of the mixture.")] = 1.0,
    rows: Annotated[int, typer.Option(help="Layers to show; JSON has all.")] = 15,
    sample_rate: RateOption = None,
    device: DeviceOption = None,
) -> dict[str, Any]:
    """Show parameters and MACs of a model, by part and by layer."""
    from sepprune_tp.profile import profile as measure
    from sepprune_tp.reporting.summary import profile_table

    network = open_model(model, device)
    rate = rate_of(network, sample_rate)
    cost = measure(network, example_mixture(network, seconds, rate))
    show(profile_table(cost, rows))
    heavy = cost.heaviest(0.9)
    say(f"{len(heavy)} of {len(cost.rows)} layers make up 90 % of the MACs.")
    if cost.uncounted:
        names = ", ".join(f"{row.name} ({row.kind})" for row in cost.uncounted)
        say(f"MACs unknown (no rule, or never called): {names}")
    return as_data(cost)


def as_data(cost: Profile) -> dict[str, Any]:
    """A profile as plain data: totals, parts and layers."""
    keys = ("name", "kind", "part", "params", "macs", "share", "params_share", "counted")
    return {
        "model": cost.model,
        "params": cost.params,
        "macs": cost.macs,
        "shapes": [list(shape) for shape in cost.shapes],
        "parts": {name: asdict(part) for name, part in cost.parts.items()},
        "rows": [{key: getattr(row, key) for key in keys} for row in cost.rows],
    }
