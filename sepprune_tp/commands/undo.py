"""``sepprune undo``: give a pruned model the shape of the dense one again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepprune_tp.commands.common import (
    OutOption,
    example_mixture,
    note,
    open_model,
    say,
    writable,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["undo"]


def undo(
    file: Annotated[
        str,
        typer.Argument(help="A pruned model: FILE, or FILE@module:function.", show_default=False),
    ],
    dense: Annotated[
        str,
        typer.Option(help="The model that it was pruned from: file, name...", show_default=False),
    ],
    out: OutOption,
    closed: Annotated[
        bool,
        typer.Option(
            "--closed",
            help="Leave the removed channels closed (zeros): the model computes what the pruned "
            "one does, but for norms that take statistics over several channels.",
        ),
    ] = False,
) -> dict[str, Any]:
    """Write a model of the dense shape: kept channels from the pruned model, the others restored.

    The removed channels hold the weights of the dense model again: of a model that was only cut,
    this is the dense model; of one that was trained since, something between the two.
    """
    from sepprune_tp.checkpoint import save_pruned
    from sepprune_tp.checkpoint.history import history
    from sepprune_tp.checkpoint.restoring import restore_dense
    from sepprune_tp.reporting.summary import environment

    writable(out)
    pruned, given = open_model(file, "cpu"), open_model(dense, "cpu")
    past = history(pruned)
    whole = restore_dense(pruned, given, closed=closed)
    told = {"from": Path(file).name, "closed": closed, "dense_sha256": past.dense["sha256"]}
    save_pruned(whole, out, metadata={"restored": told, **environment()})
    channels = sum(past.sizes[name] - len(kept) for name, kept in past.kept.items())
    say(f"Put {channels} removed channels back{' as zeros' if closed else ''}. Wrote {out}")
    if closed and past.pooling:
        note(
            f"Note: {len(past.pooling)} norms take statistics over several channels and count the "
            "closed ones as zeros, so the result does not compute what the pruned model does."
        )
    distances = _compare(whole, {"pruned": pruned, "dense": given})
    return {"file": str(out), "restored_channels": channels, "closed": closed} | distances


def _compare(whole: nn.Module, others: dict[str, nn.Module]) -> dict[str, Any]:
    """Say how far the outputs on a second of noise lie apart; nothing for other kinds of models."""
    rate = getattr(whole, "sample_rate", None)
    if rate is None:
        return {}
    mixture = example_mixture(whole, 1.0, int(rate))
    try:
        output = _run(whole, mixture)
        far = {name: _distance(output, _run(model, mixture)) for name, model in others.items()}
    except (RuntimeError, TypeError, ValueError, IndexError):  # it takes something else
        return {}
    told = (f"{'the same as' if d == 0 else f'{d:.1e} from'} the {n} model" for n, d in far.items())
    say(f"On 1 s of noise its output is {', and '.join(told)} (relative to the largest value).")
    return {"distance": far}


def _run(model: nn.Module, mixture: Tensor) -> Tensor:
    import torch

    from sepprune_tp._modes import eval_mode

    with eval_mode(model), torch.no_grad():
        found: Tensor = model(mixture)
    return found


def _distance(one: Tensor, two: Tensor) -> float:
    return float((one - two).abs().max() / two.abs().max().clamp(min=1e-30))
