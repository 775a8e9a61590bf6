"""Make everything that sepprune_tp ships for its demo: the dense model and the test mixtures.

    python scripts/make_demo_assets.py            # about 80 minutes on one core, resumable

Needs what ``make install`` installs, a checkout (the fast training norm is the benchmarks') and a
C++ compiler. Figures of the result are in ``sepprune_tp/demo/assets/model.json``.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import torch
import typer
from safetensors.torch import save_file
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from asteroid.models import ConvTasNet  # noqa: E402

from benchmarks.harness.dense import fast_global_norm  # noqa: E402
from benchmarks.harness.records import environment  # noqa: E402
from sepprune_tp.data import MixtureDataset  # noqa: E402
from sepprune_tp.demo import ASSETS, demo_test_set  # noqa: E402
from sepprune_tp.demo.synthesis import SAMPLE_RATE, load_or_synthesise  # noqa: E402
from sepprune_tp.demo.voices import TEST_VOICES, TRAIN_VOICES  # noqa: E402
from sepprune_tp.evaluate import evaluate  # noqa: E402
from sepprune_tp.files import make_folder, write_text, written  # noqa: E402
from sepprune_tp.recovery import RecoveryResult, finetune  # noqa: E402

VERSION = 1
MODEL_ARGS: dict[str, Any] = {
    "n_src": 2,
    "n_filters": 96,
    "kernel_size": 16,
    "stride": 8,
    "bn_chan": 48,
    "hid_chan": 96,
    "skip_chan": 48,
    "n_blocks": 5,
    "n_repeats": 2,
    "mask_act": "relu",
    "sample_rate": SAMPLE_RATE,
}
SEEDS = {"train": 100, "validation": 101, "test": 102, "weights": 0}
SENTENCES = {"train": 40, "validation": 4, "test": 10}  # per speaker
TEST_MIXTURES, TEST_SECONDS = 20, 2.5
LARGEST = 3_000_000  # bytes of all assets

README = """# Assets of the demo

Made by `scripts/make_demo_assets.py` (version {version}) on {date}.

- `model.safetensors`, `model.json`: a Conv-TasNet of Asteroid for two speakers at 8 kHz,
  {params:,} parameters, trained from scratch on mixtures of {train_voices} synthetic voices:
  {steps} steps of {batch_size} mixtures of 2 s, PIT negative SI-SDR.
- `test/{{mix,s1,s2}}/*.flac`: {mixtures} mixtures of {test_seconds} s in the layout of WHAM! and
  LibriMix, of {test_voices} other voices that say other sentences; levels differ by up to 5 dB,
  fundamental frequencies of any two voices by 10 % or more (two espeak-ng voices of one
  pitch are closer than two people are). In the 16-bit samples, mix = s1 + s2 exactly.

On these mixtures the model reaches {si_sdri:.2f} dB SI-SDRi and {sdri:.2f} dB SDRi (standard
deviation over the mixtures {si_sdri_std:.2f} and {sdri_std:.2f} dB).

The speech was synthesised with espeak-ng 1.52 (GPL-3.0-or-later, by way of the PyPI package
`espeakng-loader`); none of its code or data is in here. The sentences come from a grammar of ours
(`sepprune_tp/demo/sentences.py`). Audio and weights are ours, under the licence of this package.
It is synthetic speech: the figures say nothing about real speakers.
"""


def main(
    cycles: Annotated[int, typer.Option(help="Cosine cycles, each from half the rate.")] = 2,
    steps: Annotated[int, typer.Option(help="Optimiser steps of a cycle.")] = 5000,
    minutes: Annotated[float | None, typer.Option(help="Most minutes of a cycle.")] = None,
    batch_size: Annotated[int, typer.Option(help="Mixtures of 2 s in a step.")] = 8,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 2e-3,
    out: Annotated[Path, typer.Option(help="Folder for the assets.")] = ASSETS,
    work: Annotated[
        Path, typer.Option(help="Folder to resume from, and for synthesised speech.")
    ] = ROOT / "runs" / "demo-assets",
) -> None:
    """Write the test mixtures; train the model, and evaluate and write it after every cycle."""
    write_test_set(work / "speech", out / "test")
    model, results = build(), []
    for cycle in range(cycles):
        results.append(
            train(
                model,
                work,
                cycle,
                steps=steps,
                max_minutes=minutes,
                batch_size=batch_size,
                lr=lr / 2**cycle,
            )
        )
        card = describe(model, results, out, batch_size=batch_size, lr=lr, minutes=minutes)
        write_model(model, card, out)
        write_readme(card, out)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        print(json.dumps({**card["figures"], "bytes": size}, indent=1), flush=True)
        if size > LARGEST:
            raise SystemExit(f"The assets take {size:,} bytes; {LARGEST:,} are allowed.")


def describe(
    model: nn.Module, results: list[RecoveryResult], out: Path, **settings: Any
) -> dict[str, Any]:
    """What goes to ``model.json``: how to rebuild the model, its figures, how it was made."""
    figures = evaluate(model, demo_test_set(out), sample_rate=SAMPLE_RATE).as_dict()
    return {
        "class": "ConvTasNet",
        "args": MODEL_ARGS,
        "figures": {name: round(value, 3) for name, value in figures.items()},
        "training": {
            **settings,
            "steps": sum(result.steps for result in results),
            "cycles": [result.steps for result in results],
            "seconds": round(sum(result.seconds for result in results)),
            "validation_si_sdr": round(results[-1].si_sdr, 3),
            "voices": len(TRAIN_VOICES),
            "sentences_per_voice": SENTENCES["train"],
            "seeds": SEEDS,
        },
        "script": {"name": Path(__file__).name, "version": VERSION},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **environment(),
    }


def build() -> ConvTasNet:
    """The untrained model; its weights follow from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEEDS["weights"])
        return ConvTasNet(**MODEL_ARGS)


def train(model: nn.Module, work: Path, cycle: int, **settings: Any) -> RecoveryResult:
    """Train on mixtures of the training voices that no other cycle hears.

    ``settings`` are those of ``finetune``.
    """
    with fast_global_norm():
        return finetune(
            model,
            mixtures(work / "speech", "train", size=1_000_000, shift=1000 * cycle),
            mixtures(work / "speech", "validation", size=64),
            schedule="cosine",
            val_every=250,
            early_stop=0,
            precision="bf16-mixed",
            compile=True,
            checkpoint_dir=work / f"training-{cycle}",
            **settings,
        )


def mixtures(
    cache: Path, split: str, size: int, *, seconds: float = 2.0, shift: int = 0
) -> MixtureDataset:
    """Mixtures of a split: ``test`` has other speakers, ``validation`` other sentences."""
    voices = TEST_VOICES if split == "test" else TRAIN_VOICES
    corpus = load_or_synthesise(cache, voices, SENTENCES[split], SEEDS[split])
    return MixtureDataset(
        corpus, sample_rate=SAMPLE_RATE, seconds=seconds, size=size, seed=SEEDS[split] + shift
    )


def write_test_set(cache: Path, folder: Path) -> None:
    """Write the test mixtures as 16-bit FLAC: the integers of mix are those of s1 plus s2."""
    test = mixtures(cache, "test", 100 * TEST_MIXTURES, seconds=TEST_SECONDS)
    pairs: dict[frozenset[str], int] = {}
    for index in range(len(test)):
        pairs.setdefault(frozenset(test.speakers(index)), index)
    for old in folder.glob("*/*.flac"):
        old.unlink()
    for index in list(pairs.values())[:TEST_MIXTURES]:  # every pair of speakers at most once
        _, sources = test[index]
        parts = np.round(sources.numpy().astype(np.float64) * 32768).astype(np.int64)
        mixture = parts.sum(0)
        if max(np.abs(mixture).max(), np.abs(parts).max()) > 32767:
            raise SystemExit(f"Test mixture {index} clips; lower the level of the mixtures.")
        name = f"{index:03d}_{'_'.join(test.speakers(index))}.flac"
        for part, samples in zip(("mix", "s1", "s2"), (mixture, *parts), strict=True):
            write_flac(folder / part / name, samples.astype(np.int16))


def write_flac(path: Path, samples: np.ndarray) -> None:
    """Write int16 samples (T,) whole or not at all."""
    make_folder(path.parent)
    with written(path) as scratch:
        soundfile.write(scratch, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")


def write_model(model: nn.Module, card: dict[str, Any], folder: Path) -> None:
    """Write ``model.safetensors`` and ``model.json``, each whole or not at all."""
    with written(folder / "model.safetensors") as scratch:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, scratch)
    write_text(folder / "model.json", json.dumps(card, indent=1) + "\n")


def write_readme(card: dict[str, Any], folder: Path) -> None:
    """Say where the assets come from."""
    text = README.format(
        **{**card["figures"], **card["training"]},
        version=VERSION,
        date=card["date"],
        train_voices=len(TRAIN_VOICES),
        test_voices=len(TEST_VOICES),
        test_seconds=TEST_SECONDS,
    )
    write_text(folder / "README.md", text)


if __name__ == "__main__":
    typer.run(main)
