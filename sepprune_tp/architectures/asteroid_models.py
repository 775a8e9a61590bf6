"""Asteroid's models by class name and arguments."""

from __future__ import annotations

import copy
import importlib
import json
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from sepprune_tp.architectures.bounded import Room
from sepprune_tp.errors import CheckpointError, require
from sepprune_tp.files.extent import short

__all__ = ["asteroid_args", "build_asteroid", "class_names", "is_asteroid"]

# Arguments that Asteroid only compares with others; they may be unequal once channels are gone.
REDUNDANT_ARGS = ("in_chan",)
REFUSED = {
    "XUMX": "Asteroid 0.7 refuses to build XUMX under torch 2, where it calls it broken, and this "
    "package needs torch 2. Prune another model; to run this one as it is, use torch<2.0 with "
    "asteroid<0.7"
}
"""Models that are in Asteroid and cannot be built, each with the reason and what to do."""


def is_asteroid(model: nn.Module) -> bool:
    """Whether a model's own class is one of Asteroid's that knows its arguments."""
    in_asteroid = type(model).__module__.partition(".")[0] == "asteroid"
    return in_asteroid and hasattr(model, "get_model_args")


def asteroid_args(model: nn.Module) -> dict[str, Any]:
    """Arguments that build a model with the same module tree, as plain data.

    Args:
        model: An Asteroid model, pruned or not.

    Returns:
        What ``get_model_args()`` gives, NumPy's numbers as Python's; widths that decide about a
        layer's existence are such that it comes out as it is.
    """
    args: dict[str, Any] = _plain(model.get_model_args())  # type: ignore[operator]
    masker: Any = getattr(model, "masker", None)
    if hasattr(masker, "input_layer") and "n_heads" in args:
        args["n_filters"] = _filters_for(args["n_filters"], args["n_heads"], masker.input_layer)
        args.pop("in_chan", None)
    return args


def _filters_for(n_filters: int, n_heads: Any, input_layer: nn.Module | None) -> int:
    """A number of filters with which DPTransformer has an input layer, or has none, as here.

    It makes one if the number is no multiple of the heads.
    """
    heads = max(n_heads) if isinstance(n_heads, list) else int(n_heads)
    missing = -n_filters % heads
    if input_layer is None:
        return n_filters + missing
    return n_filters if missing else n_filters + 1


def _plain(value: Any) -> Any:
    """Numbers and arrays of NumPy as Python's, at any depth."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value.tolist() if hasattr(value, "tolist") else value


def class_names(where: str) -> dict[str, str]:
    """The classes of models that the installed Asteroid has, by their names in lower case.

    Args:
        where: The file that needs one, for messages.

    Raises:
        MissingExtraError: If Asteroid cannot be imported.
    """
    models = require("asteroid.models", "asteroid", f"{where} holds an Asteroid model, which")
    return {m.lower(): m for m in models.__all__ if isinstance(getattr(models, m), type)}


def build_asteroid(
    name: str, args: dict[str, Any], where: str, room: Room | None = None
) -> nn.Module:
    """Build an Asteroid model from its class name and arguments.

    Args:
        name: Class name, such as ``"ConvTasNet"``.
        args: Arguments of its constructor, as ``get_model_args()`` gives them.
        where: The file that they came from, for messages.
        room: What the tensors of that file give reason to build; None for arguments of our own.

    Returns:
        A model with random weights. Torch's global random state is as it was.

    Raises:
        CheckpointError: If there is no such class, it refuses the arguments, or these ask for a
            model far larger than its tensors.
        MissingExtraError: If Asteroid cannot be imported.
    """
    known = class_names(where)
    if name not in known.values():
        raise CheckpointError(
            f"{where} holds an Asteroid '{short(name, 80)}', and the installed Asteroid has no "
            f"such model. It has: {', '.join(sorted(known.values()))}"
        )
    models = importlib.import_module("asteroid.models")
    if name in REFUSED:
        raise CheckpointError(f"{where} holds an Asteroid {name}: {REFUSED[name]}.")
    if room is not None:
        room.check(args, where)
    # Widths that differ by block stand as lists, which no constructor takes: any one width gives
    # the same module tree.
    uniform = {key: max(value) if _is_widths(value) else value for key, value in args.items()}
    fewer = {key: value for key, value in uniform.items() if key not in REDUNDANT_ARGS}
    failure = ""
    for attempt in (args, uniform, fewer):
        # What the constructor draws is thrown away: not from the user's generator.
        with torch.random.fork_rng(devices=[]), ExitStack() as stack:
            try:
                if room is not None:
                    stack.enter_context(room.held())
                built: nn.Module = getattr(models, name)(**copy.deepcopy(attempt))
            except Exception as error:  # whatever a constructor of other people raises
                failure = failure or f"{type(error).__name__}: {error}"
            else:
                return built
    raise CheckpointError(
        f"{where} holds an Asteroid {name} that cannot be built from its arguments "
        f"{short(json.dumps(args, default=str), 600)} ({short(failure)}). Build it as "
        "it was before pruning and pass it as model=."
    )


def _is_widths(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, int) for v in value)
