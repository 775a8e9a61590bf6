"""``sepprune finetune``: train a pruned model until it separates again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sepprune_tp.commands.common import (
    AcceleratorOption,
    AudioRootOption,
    DataOption,
    DeviceOption,
    DevicesOption,
    DryRunOption,
    MixOption,
    ModelArgument,
    OutOption,
    RateOption,
    SeedOption,
    example_mixture,
    hardware,
    open_model,
    rate_of,
    say,
    writable,
)
from sepprune_tp.commands.keeping import RestartOption, keeps_state
from sepprune_tp.commands.output import visible

__all__ = ["finetune"]


@keeps_state("checkpoint_dir", "recovery")
def finetune(
    model: ModelArgument,
    data: DataOption,
    out: OutOption,
    dry_run: DryRunOption = False,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 1000,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(help="Mixtures a step.")] = 8,
    seconds: Annotated[float, typer.Option(help="Length of the mixtures.")] = 2.0,
    val_every: Annotated[int, typer.Option(help="Steps between validations.")] = 100,
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(
            help="Keep the state in this folder, also at the end (else beside --out, until the "
            "end). A killed or interrupted run goes on from it."
        ),
    ] = None,
    restart: RestartOption = False,
    distill: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The dense model, to learn from its estimates as well."),
    ] = None,
    distill_weight: Annotated[
        float, typer.Option(help="Weight of its estimates; that of the sources is 1.")
    ] = 1.0,
    mix: MixOption = None,
    audio_root: AudioRootOption = None,
    seed: SeedOption = 0,
    sample_rate: RateOption = None,
    device: DeviceOption = None,
    devices: DevicesOption = 1,
    accelerator: AcceleratorOption = None,
) -> dict[str, Any]:
    """Train a model on a folder of mixtures and write the best of its states."""
    from sepprune_tp.checkpoint import save_pruned
    from sepprune_tp.commands.datasets import open_data
    from sepprune_tp.distillation import Distillation
    from sepprune_tp.losses import pit_neg_si_sdr
    from sepprune_tp.profile import profile
    from sepprune_tp.recovery import finetune as recover
    from sepprune_tp.recovery.settings import RecoverySettings
    from sepprune_tp.reporting.summary import environment

    writable(out, make=not dry_run)
    every = min(val_every, steps)
    RecoverySettings(steps=steps, lr=lr, val_every=every, seed=seed)  # before anything is opened
    device, accelerator = hardware(device, accelerator)
    network = open_model(model, device)
    rate = rate_of(network, sample_rate)
    options: dict[str, Any] = {
        "sample_rate": rate,
        "mix": mix,
        "audio_root": audio_root,
        "seconds": seconds,
        "seed": seed,
    }
    loss: Any = pit_neg_si_sdr
    if distill is not None:
        loss = Distillation(open_model(distill, device), waveform=distill_weight)
    train, val = (open_data(data, split, **options) for split in ("train", "val"))
    example = example_mixture(network, 1.0, rate)
    if dry_run:
        from sepprune_tp.commands.plan_text import say_plan
        from sepprune_tp.commands.planning import Work, plan_recovery

        state = None if checkpoint_dir is None else checkpoint_dir / "last.pt"
        work = Work(train, val, batch_size, steps, seed, devices, accelerator, (out,), state)
        plan = plan_recovery(network, example, loss, every, work)
        say_plan(plan, rate)
        return plan
    result = recover(
        network,
        train,
        val,
        loss=loss,
        batch_size=batch_size,
        checkpoint_dir=checkpoint_dir,
        progress=visible(),
        accelerator=accelerator,
        devices=devices,
        steps=steps,
        lr=lr,
        val_every=every,
        seed=seed,
    )
    figures = {"si_sdr": result.si_sdr, "steps": result.steps, "seconds": result.seconds}
    save_pruned(network, out, metadata={"recovery": figures, **environment()})
    before = result.history[0]["si_sdr"]
    say(
        f"Validation SI-SDR {before:.2f} -> {result.si_sdr:.2f} dB after "
        f"{result.steps} steps and {result.seconds:.0f} s ({result.stopped}). Wrote {out}"
    )
    cost = profile(network, example)
    return {
        "model": model,
        "out": out,
        "si_sdr_before": before,
        **figures,
        "stopped": result.stopped,
        "params": cost.params,
        "macs": cost.macs,
        "history": result.history,
    }
