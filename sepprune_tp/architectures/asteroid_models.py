"""Asteroid's models by class name and arguments, and the checkpoints that Asteroid writes."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.torch_version import TorchVersion

from sepprune_tp.errors import CheckpointError, require

__all__ = ["asteroid_args", "build_asteroid", "is_asteroid", "load_serialized"]

# Arguments that Asteroid only compares with others; they may be unequal once channels are gone.
REDUNDANT_ARGS = ("in_chan",)
SERIALIZED_KEYS = ("model_name", "model_args", "state_dict")


def is_asteroid(model: nn.Module) -> bool:
    """Whether a model's own class is one of Asteroid's that knows its arguments."""
    in_asteroid = type(model).__module__.partition(".")[0] == "asteroid"
    return in_asteroid and hasattr(model, "get_model_args")


def asteroid_args(model: nn.Module) -> dict[str, Any]:
    """The arguments of an Asteroid model as plain data (NumPy scalars as Python's)."""
    args: dict[str, Any] = model.get_model_args()  # type: ignore[operator]
    return {key: value.item() if _is_scalar(value) else value for key, value in args.items()}


def build_asteroid(name: str, args: dict[str, Any], where: str) -> nn.Module:
    """Build an Asteroid model from its class name and arguments.

    Args:
        name: Class name, such as ``"ConvTasNet"``.
        args: Arguments of its constructor, as ``get_model_args()`` gives them.
        where: The file that they came from, for messages.

    Returns:
        A model with random weights. Torch's global random state is as it was.

    Raises:
        CheckpointError: If there is no such class or it refuses the arguments.
        MissingExtraError: If Asteroid cannot be imported.
    """
    models = require("asteroid.models", "asteroid", f"{where} holds an Asteroid {name}, which")
    known = {m for m in models.__all__ if isinstance(getattr(models, m), type)}
    if name not in known:
        raise CheckpointError(
            f"{where} holds an Asteroid '{name}', and the installed Asteroid has no such model. "
            f"It has: {', '.join(sorted(known))}"
        )
    # Widths that differ by block stand as lists, which no constructor takes: any one width gives
    # the same module tree.
    uniform = {key: max(value) if _is_widths(value) else value for key, value in args.items()}
    fewer = {key: value for key, value in uniform.items() if key not in REDUNDANT_ARGS}
    failure = ""
    for attempt in (args, uniform, fewer):
        # What the constructor draws is thrown away: not from the user's generator.
        with torch.random.fork_rng(devices=[]):
            try:
                built: nn.Module = getattr(models, name)(**copy.deepcopy(attempt))
            except Exception as error:  # whatever a constructor of other people raises
                failure = failure or f"{type(error).__name__}: {error}"
            else:
                return built
    raise CheckpointError(
        f"{where} holds an Asteroid {name} that cannot be built from its arguments "
        f"{json.dumps(args, default=str)} ({failure}). Build it as it was before pruning and pass "
        "it as model=."
    )


def load_serialized(path: Path) -> nn.Module:
    """Read what ``torch.save(model.serialize(), path)`` wrote, without running its pickle freely.

    Args:
        path: The file.

    Returns:
        The model in eval mode, on the CPU.

    Raises:
        CheckpointError: If the file holds more than tensors and plain data, or is not Asteroid's.
    """
    conf = _read_plain(path)
    missing = [key for key in SERIALIZED_KEYS if not isinstance(conf, dict) or key not in conf]
    if missing:
        found = ", ".join(list(map(str, conf))[:6]) if isinstance(conf, dict) else type(conf)
        raise CheckpointError(
            f"{path} is not what Asteroid's serialize() gives: it lacks {', '.join(missing)} (it "
            f"holds {found}). For a training checkpoint, build the model, load its 'state_dict' "
            "into it, then use save_pruned(model, path)."
        )
    model = build_asteroid(str(conf["model_name"]), dict(conf["model_args"]), str(path))
    try:
        model.load_state_dict(conf["state_dict"])
    except RuntimeError as error:
        raise CheckpointError(
            f"The weights in {path} do not fit the {conf['model_name']} that its arguments build: "
            f"{str(error).splitlines()[-1].strip()}. A pruned model needs save_pruned instead of "
            "serialize()."
        ) from error
    return model.eval()


def _read_plain(path: Path) -> Any:
    """The content of a file of torch.save, refusing everything but tensors and plain data."""
    # serialize() stores torch.__version__, a str subclass that weights_only does not let through.
    with torch.serialization.safe_globals([TorchVersion]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds on files that are not its own
            raise CheckpointError(
                f"{path} cannot be read as tensors and plain data "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__}). It is "
                "truncated, not a file of torch.save, or holds Python objects, which are not "
                "loaded for safety. Save model.serialize() or use save_pruned."
            ) from error


def _is_widths(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, int) for v in value)


def _is_scalar(value: Any) -> bool:
    return hasattr(value, "item") and getattr(value, "ndim", None) == 0
