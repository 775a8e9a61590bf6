"""``sepprune profile``: where parameters and MACs are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sepprune_tp.commands.common import (
    DeviceOption,
    ModelArgument,
    RateOption,
    console,
    example_mixture,
    open_model,
    rate_of,
    say,
)
from sepprune_tp.profile import Profile
from sepprune_tp.profile import profile as measure
from sepprune_tp.reporting.files import write_json
from sepprune_tp.reporting.summary import profile_table

__all__ = ["profile"]


def profile(
    model: ModelArgument,
    seconds: Annotated[float, typer.Option(help="Length of the mixture.")] = 1.0,
    rows: Annotated[int, typer.Option(help="Layers to show.")] = 15,
    json: Annotated[Path | None, typer.Option(help="Also write all layers here.")] = None,
    sample_rate: RateOption = None,
    device: DeviceOption = None,
) -> None:
    """Show parameters and MACs of a model, by part and by layer."""
    network = open_model(model, device)
    rate = rate_of(network, sample_rate)
    cost = measure(network, example_mixture(network, seconds, rate))
    console.print(profile_table(cost, rows))
    heavy = cost.heaviest(0.9)
    say(f"{len(heavy)} of {len(cost.rows)} layers make up 90 % of the MACs.")
    if cost.uncounted:
        names = ", ".join(f"{row.name} ({row.kind})" for row in cost.uncounted)
        say(f"MACs unknown (no rule, or never called): {names}")
    if json is not None:
        write_json(json, as_data(cost))


def as_data(cost: Profile) -> dict[str, object]:
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
