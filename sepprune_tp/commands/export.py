"""``sepprune export``: a file that runs without this package."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sepprune_tp.commands.common import (
    ModelArgument,
    OutOption,
    RateOption,
    example_mixture,
    note,
    open_model,
    rate_of,
    say,
    words,
    writable,
)

__all__ = ["FORMATS", "export"]

FORMATS = ("torchscript", "onnx", "pt2")  # of sepprune_tp.exporting, without its imports


def export(
    model: ModelArgument,
    out: OutOption,
    format: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(FORMATS)}. Default: by the file's ending (.onnx, .pt2, else "
            "TorchScript).",
            autocompletion=words(*FORMATS),
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Export and compare, but keep no file.")
    ] = False,
    sample_rate: RateOption = None,
) -> dict[str, Any]:
    """Write a model as TorchScript, ONNX or torch.export, after checking that it gives the same."""
    from sepprune_tp.exporting import export_model, format_of

    network = open_model(model, "cpu")
    chosen = format_of(out, format)
    example = example_mixture(network, seconds, rate_of(network, sample_rate))
    writable(out, make=not dry_run)
    how = {"any_length": not fixed_length, "int8": int8}
    if dry_run:
        with tempfile.TemporaryDirectory() as folder:
            exported = export_model(network, example, Path(folder) / out.name, chosen, **how)
        note("Dry run: no file was kept.")
    else:
        exported = export_model(network, example, out, chosen, **how)
    lengths = "any length" if exported.any_length else f"{example.shape[-1]} samples only"
    said = "Would write" if dry_run else "Wrote"
    say(
        f"{said} {out} ({chosen}): mixtures (B, T) of {lengths}; differs from the model by at most "
        f"{exported.difference:.1e} on {len(exported.shapes)} shapes."
    )
    if exported.quantisation is not None:
        say(str(exported.quantisation))
    return {
        "model": model,
        "out": out,
        "dry_run": dry_run,
        "format": chosen,
        "difference": exported.difference,
        "shapes": exported.shapes,
        "any_length": exported.any_length,
        "int8": None if exported.quantisation is None else asdict(exported.quantisation),
    }
