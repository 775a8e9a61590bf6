"""``sepprune explain``: which channels go together, and why some may not go."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from sepprune_tp.commands.common import (
    DeviceOption,
    ModelArgument,
    RateOption,
    example_mixture,
    open_model,
    rate_of,
    say,
    words,
)

__all__ = ["explain"]


def explain(
    model: ModelArgument,
    layer: Annotated[
        str, typer.Argument(help="Dotted name of a layer; every group if left out.")
    ] = "",
    side: Annotated[
        str,
        typer.Option(
            help="in or out: only these channels of the layer.",
            show_default=False,
            autocompletion=words("in", "out"),
        ),
    ] = "",
    scope: Annotated[
        str, typer.Option(help="separator or all.", autocompletion=words("separator", "all"))
    ] = "separator",
    seconds: Annotated[float, typer.Option(help="Length of the mixture to follow.")] = 1.0,
    sample_rate: RateOption = None,
    device: DeviceOption = None,
) -> dict[str, Any]:
    """Show which channels go together, where they meet in the code, and what protects some."""
    from sepprune_tp.graph import ChannelGraph

    network = open_model(model, device)
    example = example_mixture(network, seconds, rate_of(network, sample_rate))
    graph = ChannelGraph(scope).build_dependency(network, example)
    told = graph.explain(layer, side or None) if layer else graph.report()
    say(str(told))
    return asdict(told)
