"""``sepprune separate``: recordings in, one WAV file a speaker out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepprune_tp.commands.common import DeviceOption, ModelArgument, RateOption, open_model, say
from sepprune_tp.separation import separate_file

__all__ = ["separate"]


def separate(
    model: ModelArgument,
    files: Annotated[list[Path], typer.Argument(help="Recordings.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the sources.")] = Path(
        "separated"
    ),
    channel: Annotated[
        int | None, typer.Option(help="Which channel of a recording of several, from 0.")
    ] = None,
    block: Annotated[
        float | None,
        typer.Option(
            help="Seconds to separate at a time. Default: all of a recording of up to a minute, 30 "
            "of a longer one.",
            show_default=False,
        ),
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(
            help="Seconds that blocks share, at most half a block; longer than pauses, or speakers "
            "may change places. Default: a quarter of a block.",
            show_default=False,
        ),
    ] = None,
    sample_rate: RateOption = None,
    device: DeviceOption = None,
) -> None:
    """Write the sources of each recording as FILE_s1.wav, FILE_s2.wav..."""
    network = open_model(model, device)
    for file in files:
        found = separate_file(
            network,
            file,
            out,
            sample_rate=sample_rate,
            channel=channel,
            block=block,
            overlap=overlap,
        )
        for path in found:
            say(str(path))
