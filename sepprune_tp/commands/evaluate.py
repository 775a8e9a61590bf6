"""``sepprune evaluate``: SI-SDRi and SDRi on a folder of mixtures."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sepprune_tp.commands.common import (
    AudioRootOption,
    DataOption,
    DeviceOption,
    MixOption,
    ModelArgument,
    RateOption,
    SeedOption,
    open_model,
    rate_of,
    words,
)
from sepprune_tp.commands.output import show, watched

__all__ = ["evaluate"]

METRICS = (("si_sdr", "SI-SDR"), ("si_sdri", "SI-SDRi"), ("sdr", "SDR"), ("sdri", "SDRi"))


def evaluate(
    model: ModelArgument,
    data: DataOption,
    split: Annotated[
        str, typer.Option(help="train, val or test.", autocompletion=words("train", "val", "test"))
    ] = "test",
    limit: Annotated[int | None, typer.Option(help="Only so many mixtures.")] = None,
    mix: MixOption = None,
    audio_root: AudioRootOption = None,
    seed: SeedOption = 0,
    sample_rate: RateOption = None,
    device: DeviceOption = None,
) -> dict[str, Any]:
    """Separate the mixtures of a folder and score the estimates."""
    from rich.table import Table

    from sepprune_tp.commands.datasets import open_data
    from sepprune_tp.evaluate import evaluate as score

    network = open_model(model, device)
    rate = rate_of(network, sample_rate)
    options = {"audio_root": audio_root, "limit": limit, "seed": seed}
    mixtures = open_data(data, split, sample_rate=rate, mix=mix, **options)
    with watched(mixtures, "evaluating") as items:
        result = score(network, items, sample_rate=rate)
    table = Table(title=f"{model} on {result.mixtures} mixtures of {data}")
    for heading in ("Metric", "Mean (dB)", "Std (dB)"):
        table.add_column(heading, justify="left" if heading == "Metric" else "right")
    for name, word in METRICS:
        table.add_row(word, f"{getattr(result, name):.2f}", f"{result.std(name):.2f}")
    show(table)
    return {"model": model, "data": str(data), "split": split, **result.as_dict()}
