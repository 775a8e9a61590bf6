"""``sepprune separate``: recordings in, one WAV file a speaker out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sepprune_tp.commands.common import (
    DeviceOption,
    DryRunOption,
    ModelArgument,
    RateOption,
    example_mixture,
    note,
    open_model,
    rate_of,
    say,
)
from sepprune_tp.commands.output import progress
from sepprune_tp.errors import InputError

__all__ = ["separate"]


def separate(
    model: ModelArgument,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Recordings.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the sources.")
    ] = Path("separated"),
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
    dry_run: DryRunOption = False,
    sample_rate: RateOption = None,
    device: DeviceOption = None,
) -> dict[str, Any]:
    """Write the sources of each recording as FILE_s1.wav, FILE_s2.wav..."""
    from sepprune_tp.separation import separate_file

    network = open_model(model, device)
    if dry_run:
        return _plan(network, files, out, channel, rate_of(network, sample_rate))
    how = {"sample_rate": sample_rate, "channel": channel, "block": block, "overlap": overlap}
    written: dict[str, list[Path]] = {}
    with progress("separating", len(files)) as advance:
        for number, file in enumerate(files):
            advance(number, file.name)
            written[str(file)] = separate_file(network, file, out, **how)  # type: ignore[arg-type]
            for path in written[str(file)]:
                say(str(path))
        advance(len(files), "")
    return {"model": model, "sources": written}


def _plan(
    network: Any, files: list[Path], out: Path, channel: int | None, rate: int
) -> dict[str, Any]:
    """Open the recordings, count the sources, and say what would be written."""
    import torch

    from sepprune_tp._modes import eval_mode
    from sepprune_tp.separation.reading import Recording

    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder.")
    with eval_mode(network), torch.no_grad():
        sources = int(network(example_mixture(network, 1.0, rate)).shape[1])
    note("Dry run: nothing is separated, nothing is written.")
    plans: dict[str, Any] = {}
    for file in files:
        recording = Recording(file, rate, channel)
        seconds = recording.length / rate
        recording.close()
        paths = [out / f"{file.stem}_s{number + 1}.wav" for number in range(sources)]
        plans[str(file)] = {"seconds": seconds, "sources": paths}
        say(f"{file} ({seconds:.1f} s) -> {', '.join(map(str, paths))}")
    return {"dry_run": True, "files": plans}
