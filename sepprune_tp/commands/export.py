"""``sepprune export``: a file that runs without this package."""

from __future__ import annotations

from typing import Annotated

import typer

from sepprune_tp.commands.common import (
    ModelArgument,
    OutOption,
    RateOption,
    example_mixture,
    open_model,
    rate_of,
    say,
    writable,
)
from sepprune_tp.exporting import FORMATS, export_model

__all__ = ["export"]


def export(
    model: ModelArgument,
    out: OutOption,
    format: Annotated[
        str, typer.Option(help=f"{' or '.join(FORMATS)}; by the ending of the file if not given.")
    ] = "",
    seconds: Annotated[float, typer.Option(help="Length of the mixture to trace with.")] = 1.0,
    sample_rate: RateOption = None,
) -> None:
    """Write a model as TorchScript or ONNX, after checking that it gives the same output."""
    chosen = format or ("onnx" if out.suffix == ".onnx" else "torchscript")
    network = open_model(model, "cpu")
    example = example_mixture(network, seconds, rate_of(network, sample_rate))
    exported = export_model(network, example, writable(out), chosen)
    lengths = "any length" if exported.any_length else f"{example.shape[-1]} samples only"
    say(
        f"Wrote {out} ({chosen}): mixtures (B, T) of {lengths}; differs from the model by at most "
        f"{exported.difference:.1e}."
    )
