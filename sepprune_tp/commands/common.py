"""What the commands share: options, and opening models.

Nothing here imports torch before a command runs, so that help and completion are quick.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepprune_tp.commands.output import console, note, say
from sepprune_tp.errors import InputError
from sepprune_tp.files import check_writable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = [
    "AcceleratorOption",
    "AudioRootOption",
    "DataOption",
    "DeviceOption",
    "DevicesOption",
    "DryRunOption",
    "MixOption",
    "ModelArgument",
    "OutOption",
    "RateOption",
    "SeedOption",
    "console",
    "example_mixture",
    "hardware",
    "load_model",
    "note",
    "open_model",
    "rate_of",
    "say",
    "words",
    "writable",
]

RUNNING = "Running"


def words(*known: str) -> Callable[[str], list[str]]:
    """Shell completion of an option that is one of a few words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in known if word.startswith(incomplete)]

    return complete


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="File, hub name, module:function, `demo`.",
        show_default=False,
    ),
]
DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Folder, or a conf.yml.",
        show_default=False,
    ),
]
AudioRootOption = Annotated[
    Path | None,
    typer.Option(
        "--audio-root",
        metavar="DIR",
        help="Where the audio of lists is now.",
    ),
]
MixOption = Annotated[
    str | None,
    typer.Option(
        "--mix",
        metavar="NAME",
        help="Which: mix_clean, mix_both...",
        autocompletion=words("mix", "mix_clean", "mix_both", "mix_single"),
    ),
]
OutOption = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="FILE", help="File to write.", show_default=False),
]
RateOption = Annotated[
    int | None,
    typer.Option(
        "--sample-rate", metavar="HZ", help="Of a model that does not say.", rich_help_panel=RUNNING
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="cpu, cuda... (a GPU if any).",
        rich_help_panel=RUNNING,
    ),
]
DevicesOption = Annotated[
    int,
    typer.Option(
        "--devices",
        min=1,
        metavar="N",
        help="That share every batch.",
        rich_help_panel=RUNNING,
    ),
]
AcceleratorOption = Annotated[
    str | None,
    typer.Option(
        "--accelerator",
        metavar="KIND",
        help="Of these: cpu, gpu, auto.",
        hidden=True,
        autocompletion=words("cpu", "gpu", "auto"),
    ),
]
SeedOption = Annotated[
    int,
    typer.Option("--seed", metavar="N", help="Same seed, same result.", rich_help_panel=RUNNING),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", metavar="", help="Check it all, write nothing."),
]


def load_model(source: str) -> nn.Module:
    """See :func:`sepprune_tp.loading.load_model`."""
    from sepprune_tp.loading import load_model as load

    return load(source)


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
    import torch

    samples = round(seconds * sample_rate)
    if samples < 1:
        raise InputError(f"--seconds is {seconds}; it has to be above 0.")
    noise = torch.randn(1, samples, generator=torch.Generator().manual_seed(0))
    parameter: Any = next(model.parameters(), noise)
    return noise.to(device=parameter.device, dtype=parameter.dtype)


def writable(out: Path, make: bool = True) -> Path:
    """Make the folder of a file to write, before hours of work go into what it will hold.

    Args:
        out: The file.
        make: Whether to; a dry run only looks.

    Raises:
        WriteError: If there can be no such file.
    """
    return check_writable(out, make)


def _device(name: str | None) -> torch.device:
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name} is no device: {str(error).splitlines()[0]}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {name}: this torch sees no GPU. Use --device cpu.")
    return device
