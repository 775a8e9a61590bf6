"""A plan of ``--dry-run`` in words."""

from __future__ import annotations

from typing import Any

from sepprune_tp.commands.output import note, say

__all__ = ["say_plan"]


def say_plan(plan: dict[str, Any], rate: int) -> None:
    """Print a plan."""
    note("Dry run: nothing is trained, nothing is written.")
    say(
        f"Model      {plan['model']}: {plan['params']:,} parameters, {plan['macs']:,} MACs for 1 s "
        f"at {rate} Hz"
    )
    if "groups" in plan:
        say(
            f"Channels   {plan['gateable_channels']:,} in {plan['groups']} groups may go (scope "
            f"{plan['scope']}); {plan['protected_layers']} layers may lose none"
        )
    for bound in plan.get("bounds", []):
        if bound["asked"] is not None:
            text = f"at most {_figure(bound['most'])} {bound['unit']}; {_least(bound)}"
            say(f"Budget     {bound['resource']}={bound['asked']}: {text}")
        else:
            text = f"{_figure(bound['least'])} to {_figure(bound['dense'])}"
            say(f"No bound   {bound['resource']}: {text}, as the search decides")
    data = plan["training_mixtures"]
    held = plan["validation_mixtures"]
    say(
        f"Data       {'mixed as they are needed' if data is None else f'{data:,} mixtures'} to "
        f"train on, {'none' if held is None else f'{held:,}'} to validate on"
    )
    passes = "" if plan["epochs"] is None else f", {plan['epochs']:.3g} epochs"
    say(
        f"Work       {plan['steps']:,} steps of {plan['batch_size']} mixtures{passes}; about "
        f"{_duration(plan['seconds'])} here, going by one step ({plan['seconds_per_step']:.2g} s)"
    )
    if plan["resumes"]:
        say(f"State      {plan['state']} is there: the job would go on from it if it fits")
    if plan["writes"]:
        say(f"Writes     {', '.join(map(str, plan['writes']))}")
    if "groups" in plan:
        note("Which channels go, and so widths and quality, the search has to find out.")


def _least(bound: dict[str, Any]) -> str:
    share = bound["least"] / bound["dense"]
    least, dense = _figure(bound["least"]), _figure(bound["dense"])
    return f"the least reachable is {least} ({share:.1%} of {dense})"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
