"""``sepprune evaluate``: SI-SDRi and SDRi on a folder of mixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sepprune_tp.commands.common import (
    AudioRootOption,
    DataOption,
    DeviceOption,
    MixOption,
    ModelArgument,
    RateOption,
    console,
    open_model,
    rate_of,
)
from sepprune_tp.data import open_mixtures
from sepprune_tp.evaluate import evaluate as score
from sepprune_tp.reporting.files import write_json

__all__ = ["evaluate"]


def evaluate(
    model: ModelArgument,
    data: DataOption,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    limit: Annotated[int | None, typer.Option(help="Only so many mixtures.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
    mix: MixOption = None,
    audio_root: AudioRootOption = None,
    sample_rate: RateOption = None,
    device: DeviceOption = None,
) -> None:
    """Separate the mixtures of a folder and score the estimates."""
    network = open_model(model, device)
    rate = rate_of(network, sample_rate)
    mixtures = open_mixtures(
        data, split, sample_rate=rate, mix=mix, audio_root=audio_root, limit=limit
    )
    result = score(network, mixtures, sample_rate=rate)
    table = Table(title=f"{model} on {result.mixtures} mixtures of {data}")
    for heading in ("Metric", "Mean (dB)", "Std (dB)"):
        table.add_column(heading, justify="left" if heading == "Metric" else "right")
    for name, word in (
        ("si_sdr", "SI-SDR"),
        ("si_sdri", "SI-SDRi"),
        ("sdr", "SDR"),
        ("sdri", "SDRi"),
    ):
        table.add_row(word, f"{getattr(result, name):.2f}", f"{result.std(name):.2f}")
    console.print(table)
    if json is not None:
        write_json(json, result.as_dict())
