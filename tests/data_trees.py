"""Small trees of mixtures on disk, in the layouts of the field's data sets."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor

from sepprune_tp.data import open_mixtures
from sepprune_tp.errors import DataError

RATE = 8000
Written = list[tuple[Tensor, Tensor]]
"""Mixtures (T,) and their sources (S, T) in order of file name."""


def mixtures(count: int, *, n_src: int = 2, seconds: float = 0.5, seed: int = 0) -> Written:
    """Sums of noise, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [round(seconds * RATE) + 10 * index for index in range(count)]
    sources = [0.05 * torch.randn(n_src, length, generator=generator) for length in lengths]
    return [(source.sum(0), source) for source in sources]


def write_wav(path: Path, signal: Tensor, rate: int = RATE) -> Path:
    """Write a signal (T,) or (T, channels) exactly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, signal.numpy(), rate, "FLOAT")
    return path


def write_audio(folder: Path, written: Written, mix: str = "mix") -> dict[str, list[Path]]:
    """``mix/ s1/ s2/``; returns the files by part."""
    files: dict[str, list[Path]] = {}
    for index, (mixture, sources) in enumerate(written):
        parts = {mix: mixture} | {f"s{i + 1}": source for i, source in enumerate(sources)}
        for part, signal in parts.items():
            path = write_wav(folder / part / f"{index:02}.wav", signal)
            files.setdefault(part, []).append(path)
    return files


def write_lists(folder: Path, files: dict[str, list[Path]]) -> None:
    """``mix.json s1.json s2.json`` as Asteroid and Look2Hear prepare them."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, paths in files.items():
        entries = [[str(path), soundfile.info(path).frames] for path in paths]
        (folder / f"{part}.json").write_text(json.dumps(entries, indent=4))


def write_metadata(path: Path, files: dict[str, list[Path]], mix: str = "mix_clean") -> None:
    """``mixture_train-360_mix_clean.csv`` as LibriMix prepares it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sources = [part for part in files if part[0] == "s"]
    noise = ["noise_path"] if mix != "mix_clean" else []
    header = ["mixture_ID", "mixture_path", *(f"source_{part[1]}_path" for part in sources)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, *noise, "length"])
        for index, mixture in enumerate(files[mix]):
            parts = [str(files[part][index]) for part in sources]
            noises = ["/noise.wav"] if noise else []
            length = soundfile.info(mixture).frames
            writer.writerow([mixture.stem, str(mixture), *parts, *noises, length])


def assert_reads(data: object, written: Written) -> None:
    """Whole files give what was written, in order."""
    assert len(data) == len(written)  # type: ignore[arg-type]
    for index, (mixture, sources) in enumerate(written):
        read = data[index]  # type: ignore[index]
        assert torch.equal(read[0], mixture) and torch.equal(read[1], sources)


def opened(folder: Path, split: str = "test", **options: Any) -> Any:
    """A split of mixtures at the rate of these trees."""
    return open_mixtures(folder, split, sample_rate=RATE, **options)


def error_of(folder: Path, split: str = "test", **options: Any) -> str:
    """What opening and reading all of a split is refused with."""
    with pytest.raises(DataError) as caught:
        data = opened(folder, split, **options)
        _ = [data[index] for index in range(len(data))]
    return str(caught.value)
