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
from sepprune_tp.exporting import FORMATS, export_model, format_of

__all__ = ["export"]


def export(
    model: ModelArgument,
    out: OutOption,
    format: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(FORMATS)}; by the ending of the file (.onnx, .pt2, else TorchScript) "
            "if not given."
        ),
    ] = "",
    seconds: Annotated[float, typer.Option(help="Length of the mixture to trace with.")] = 1.0,
    fixed_length: Annotated[
        bool, typer.Option("--fixed-length", help="Only for mixtures of that length.")
    ] = False,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="int8 weights for linear and recurrent layers (TorchScript only)."
        ),
    ] = False,
    sample_rate: RateOption = None,
) -> None:
    """Write a model as TorchScript, ONNX or torch.export, after checking that it gives the same."""
    network = open_model(model, "cpu")
    chosen = format_of(out, format)
    example = example_mixture(network, seconds, rate_of(network, sample_rate))
    exported = export_model(
        network, example, writable(out), chosen, any_length=not fixed_length, int8=int8
    )
    lengths = "any length" if exported.any_length else f"{example.shape[-1]} samples only"
    say(
        f"Wrote {out} ({chosen}): mixtures (B, T) of {lengths}; differs from the model by at most "
        f"{exported.difference:.1e} on {len(exported.shapes)} shapes."
    )
    if exported.quantisation is not None:
        say(str(exported.quantisation))
