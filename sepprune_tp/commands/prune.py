"""``sepprune prune``: learn which channels to keep and remove the others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sepprune_tp.checkpoint import save_pruned
from sepprune_tp.commands.common import (
    DataOption,
    DeviceOption,
    MixOption,
    ModelArgument,
    OutOption,
    RateOption,
    SeedOption,
    example_mixture,
    open_model,
    rate_of,
    say,
    writable,
)
from sepprune_tp.folders import open_mixtures
from sepprune_tp.job import SearchSettings, shrink
from sepprune_tp.mixtures import batches
from sepprune_tp.profile import profile
from sepprune_tp.report import environment

__all__ = ["prune"]


def prune(
    model: ModelArgument,
    data: DataOption,
    out: OutOption,
    budget_macs: Annotated[
        float | None,
        typer.Option(help="MACs to keep: a share, or a number above 1; 0.5 if no budget is given."),
    ] = None,
    budget_params: Annotated[
        float | None, typer.Option(help="Parameters to keep, likewise.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the search.")] = 500,
    kind: Annotated[
        str, typer.Option(help="budget, or gumbel: the published rule, which has no budget.")
    ] = "budget",
    scope: Annotated[
        str, typer.Option(help="separator, or all: also what couples encoder and decoder to it.")
    ] = "separator",
    batch_size: Annotated[int, typer.Option(help="Mixtures a step.")] = 4,
    seconds: Annotated[float, typer.Option(help="Length of the mixtures.")] = 2.0,
    lr: Annotated[float, typer.Option(help="Learning rate of the gates.")] = 0.1,
    round_to: Annotated[
        str, typer.Option(help="Widths are multiples of this; auto: of what this machine likes.")
    ] = "1",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Keep the search's state here, and go on from it.")
    ] = None,
    mix: MixOption = None,
    seed: SeedOption = 0,
    sample_rate: RateOption = None,
    device: DeviceOption = None,
) -> None:
    """Learn which channels a model can do without, and write it without them."""
    if kind == "budget" and budget_macs is None and budget_params is None:
        budget_macs = 0.5
    settings = SearchSettings(
        budget_macs, budget_params, kind, scope, steps, lr, seed, _step(round_to)
    )
    writable(out)
    network = open_model(model, device)
    rate = rate_of(network, sample_rate)
    mixtures = open_mixtures(data, "train", sample_rate=rate, mix=mix, seconds=seconds, seed=seed)
    example = example_mixture(network, 1.0, rate)
    before = profile(network, example)
    stream = batches(mixtures, batch_size, shuffle_seed=seed)
    kept = shrink(network, example, stream, settings, checkpoint=checkpoint)
    after = profile(network, example)
    metadata = {
        "settings": asdict(settings),
        "groups": kept,
        "dense": {"params": before.params, "macs": before.macs},
        "pruned": {"params": after.params, "macs": after.macs},
        **environment(),
    }
    save_pruned(network, out, metadata=metadata)
    say(
        f"Kept {sum(some for some, _ in kept.values())} of {sum(most for _, most in kept.values())}"
        f" channels in {len(kept)} groups."
    )
    say(f"Parameters {before.params:,} -> {after.params:,} ({after.params / before.params:.1%})")
    say(f"MACs {before.macs:,} -> {after.macs:,} ({after.macs / before.macs:.1%})")
    say(f"Wrote {out}. Next: sepprune finetune {out} --data {data} -o recovered.safetensors")


def _step(round_to: str) -> int | str:
    return int(round_to) if round_to.isdecimal() else round_to
