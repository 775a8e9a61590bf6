"""What the commands share: options, opening models and data, and the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from sepprune_tp.errors import InputError
from sepprune_tp.files import check_writable
from sepprune_tp.loading import load_model

__all__ = [
    "AcceleratorOption",
    "AudioRootOption",
    "DataOption",
    "DeviceOption",
    "DevicesOption",
    "MixOption",
    "ModelArgument",
    "OutOption",
    "RateOption",
    "SeedOption",
    "console",
    "example_mixture",
    "hardware",
    "open_model",
    "rate_of",
    "say",
    "writable",
]

console = Console()

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="File, name on a hub (owner/name), address, module:function, or `demo`.",
        show_default=False,
    ),
]
DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Folder: mix/ s1/ s2/ (WHAM!, LibriMix), lists of these (Asteroid, Look2Hear, "
        "LibriMix's metadata), with or without split folders above; or recordings/ as in FSDD.",
        show_default=False,
    ),
]
AudioRootOption = Annotated[
    Path | None,
    typer.Option("--audio-root", help="Where the audio is, if not where the lists of --data say."),
]
MixOption = Annotated[
    str | None, typer.Option("--mix", help="Which of the mixtures, such as mix_both.")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="File to write.", show_default=False)]
RateOption = Annotated[
    int | None,
    typer.Option("--sample-rate", help="In Hz, for a model that does not say its own."),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1... The GPU if there is one.")
]
DevicesOption = Annotated[
    int, typer.Option("--devices", min=1, help="Devices that share every batch (needs Lightning).")
]
AcceleratorOption = Annotated[
    str | None, typer.Option("--accelerator", help="Their kind: cpu, gpu, auto; as --device says.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Same seed, same result.")]


def open_model(name: str, device: str | None = None) -> nn.Module:
    """Load a model, wherever it is.

    Args:
        name: What ``sepprune_tp.loading.load_model`` takes.
        device: Where to put it; the GPU if there is one when None.

    Returns:
        The model in eval mode.
    """
    return load_model(name).to(_device(device))


def hardware(device: str | None, accelerator: str | None) -> tuple[str, str]:
    """One device, and Lightning's name for the kind of several.

    Args:
        device: ``--device``.
        accelerator: ``--accelerator``; None: as the device is.

    Raises:
        InputError: If the two do not go together, or there is no such device.
    """
    if accelerator not in (None, "cpu", "gpu", "auto"):
        raise InputError(f"--accelerator is {accelerator!r}; it is one of cpu, gpu, auto.")
    named = {"cpu": "cpu", "gpu": "cuda"}.get(accelerator or "auto")
    chosen = _device(device or named)
    if named is not None and chosen.type != named:
        raise InputError(f"--device {device} is no {accelerator}. Leave one of the two out.")
    return str(chosen), accelerator or ("cpu" if chosen.type == "cpu" else "auto")


def rate_of(model: nn.Module, given: int | None) -> int:
    """The sample rate of a model in Hz, its own or the one given.

    Raises:
        InputError: If neither is known, or they differ.
    """
    own = getattr(model, "sample_rate", None)
    if own is None and given is None:
        raise InputError(
            f"{type(model).__name__} does not say its sample rate. Pass --sample-rate, in Hz."
        )
    if own is not None and given is not None and int(own) != given:
        raise InputError(
            f"--sample-rate is {given}, but {type(model).__name__} was made for {int(own)} Hz. "
            "Leave the option out, and resample the data."
        )
    return int(own if own is not None else given)  # type: ignore[arg-type]


def example_mixture(model: nn.Module, seconds: float, sample_rate: int) -> Tensor:
    """Noise of shape (1, T) on the model's device, the same every time.

    Raises:
        InputError: If it would hold no samples.
    """
    samples = round(seconds * sample_rate)
    if samples < 1:
        raise InputError(f"--seconds is {seconds}; it has to be above 0.")
    noise = torch.randn(1, samples, generator=torch.Generator().manual_seed(0))
    parameter: Any = next(model.parameters(), noise)
    return noise.to(device=parameter.device, dtype=parameter.dtype)


def say(text: str) -> None:
    """Print a line as it is: no markup, no wrapping, so that paths can be copied."""
    typer.echo(text)


def writable(out: Path) -> Path:
    """Make the folder of a file to write, before hours of work go into what it will hold."""
    return check_writable(out)


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name} is no device: {str(error).splitlines()[0]}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {name}: this torch sees no GPU. Use --device cpu.")
    return device
