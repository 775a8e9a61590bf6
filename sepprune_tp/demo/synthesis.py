"""Synthesise a speech corpus: the same voices, sentences and seed give the same samples.

espeak-ng runs in a fresh process of its own (see ``_espeak.py``), and what it says is kept in a
cache folder of the caller's choice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sepprune_tp.demo.sentences import make_sentences
from sepprune_tp.demo.voices import Voice, check_voices
from sepprune_tp.errors import DataError, InputError, require
from sepprune_tp.files import make_folder, written
from sepprune_tp.files.extent import short

__all__ = ["SAMPLE_RATE", "load_or_synthesise", "synthesise_corpus"]

SAMPLE_RATE = 8000
"""Samples per second of everything that the demo makes, in Hz."""

Corpus = dict[str, list[np.ndarray]]

_WORKER = Path(__file__).with_name("_espeak.py")
_TIMEOUT = 600.0  # seconds; a thousand sentences take about five
_VERSION = 1  # raise when the samples of a given seed change: caches are then made anew


def synthesise_corpus(voices: Sequence[Voice], n_sentences: int, seed: int) -> Corpus:
    """Let every voice speak sentences of its own.

    Args:
        voices: Speakers, each with a variant of its own.
        n_sentences: Sentences per speaker.
        seed: Of the sentences, of each line's pitch and of espeak-ng's noise.

    Returns:
        Per variant name, ``n_sentences`` arrays (T,), float32 in [-1, 1], at 8 kHz.

    Raises:
        InputError: If there are no voices or sentences, or if a voice does not exist.
        DataError: If espeak-ng fails.
        MissingExtraError: If ``espeakng-loader`` or SciPy is not installed.
    """
    if not voices or n_sentences < 1:
        raise InputError(
            f"synthesise_corpus got {len(voices)} voices and n_sentences={n_sentences}; it needs "
            "at least one of each."
        )
    check_voices(voices)
    rng = np.random.default_rng(seed)
    lines = [line for voice in voices for line in _lines(voice, n_sentences, rng)]
    spoken, rate = _speak(lines, seed)
    utterances = [_resample(samples, rate) for samples in spoken]
    return {
        voice.variant: utterances[index * n_sentences : (index + 1) * n_sentences]
        for index, voice in enumerate(voices)
    }


def load_or_synthesise(
    cache_dir: str | os.PathLike[str], voices: Sequence[Voice], n_sentences: int, seed: int
) -> Corpus:
    """Return ``synthesise_corpus(voices, n_sentences, seed)``, from a file if it is there.

    Args:
        cache_dir: Folder for the ``.npz`` (int16); made when missing.
        voices: As for ``synthesise_corpus``.
        n_sentences: As for ``synthesise_corpus``.
        seed: As for ``synthesise_corpus``.

    Returns:
        As ``synthesise_corpus``, rounded to 16 bits whether it came from the file or not.

    Raises:
        DataError: If the file in the cache cannot be read.
    """
    key = json.dumps([_VERSION, [asdict(voice) for voice in voices], n_sentences, seed])
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    path = Path(cache_dir) / f"speech-{digest}.npz"
    if not path.exists():
        _store(path, synthesise_corpus(voices, n_sentences, seed))
    try:
        _check_archive(path)
        with np.load(path, allow_pickle=False) as data:
            samples, lengths = data["samples"], data["lengths"]
        _check_corpus(samples, lengths, len(voices) * n_sentences)
    except Exception as error:  # of zipfile, of NumPy's reader, and of the parser that it uses
        raise DataError(
            f"{path} cannot be read ({short(error)}). Delete it to make it anew."
        ) from error
    ends = np.cumsum(lengths)
    utterances = np.split(samples.astype(np.float32) / 32767.0, ends[:-1])
    return {
        voice.variant: utterances[index * n_sentences : (index + 1) * n_sentences]
        for index, voice in enumerate(voices)
    }


def _check_archive(path: Path) -> None:
    """Refuse an archive whose parts, which are stored as they are, are larger than it is."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
        if packed or sum(part.file_size for part in parts) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")
        for part in parts:
            with archive.open(part) as file:
                version = np.lib.format.read_magic(file)
                read = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
                shape, _, dtype = read(file)
                if math.prod(shape) * dtype.itemsize > part.file_size:
                    raise ValueError("its parts are larger than the file")


def _check_corpus(samples: np.ndarray, lengths: np.ndarray, count: int) -> None:
    """Refuse what is not the samples of so many utterances."""
    plain = samples.dtype == np.int16 and lengths.dtype == np.int64
    if not plain or samples.ndim != 1 or lengths.shape != (count,):
        raise ValueError("it holds other arrays")
    if (lengths < 0).any() or int(lengths.sum(dtype=object)) != len(samples):
        raise ValueError("its lengths are not those of its samples")


def _lines(voice: Voice, count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Sentences for one speaker, whose pitch wanders a little from one to the next."""
    return [
        {
            "voice": voice.name,
            "text": text,
            "pitch": int(np.clip(voice.pitch + rng.integers(-6, 7), 0, 100)),
            "rate": int(voice.rate + rng.integers(-10, 11)),
        }
        for text in make_sentences(count, rng)
    ]


def _speak(lines: Sequence[dict[str, Any]], seed: int) -> tuple[list[np.ndarray], int]:
    """Run espeak-ng in a fresh process; return its samples (int16) by line and their rate."""
    with tempfile.TemporaryDirectory(prefix="sepprune-speech-") as folder:
        output = Path(folder) / "spoken.npz"
        job = json.dumps({"seed": seed, "output": str(output), "lines": list(lines)})
        done = subprocess.run(
            [sys.executable, "-P", str(_WORKER)],
            input=job,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
        if done.returncode != 0 or not output.exists():
            raise DataError(
                f"espeak-ng failed with exit status {done.returncode}: "
                f"{(done.stderr.strip().splitlines() or ['no message'])[-1][:300]}. If the voice "
                "is right, reinstall it: pip install --force-reinstall espeakng-loader"
            )
        with np.load(output, allow_pickle=False) as data:
            samples, lengths = data["samples"], data["lengths"]
            rate = int(data["sample_rate"])
    return np.split(samples, np.cumsum(lengths)[:-1]), rate


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Bring int16 samples at ``rate`` Hz to float32 at 8 kHz."""
    signal = require("scipy.signal", "train", "Resampling synthesised speech")
    divisor = int(np.gcd(rate, SAMPLE_RATE))
    wave = signal.resample_poly(
        samples.astype(np.float64) / 32768.0, SAMPLE_RATE // divisor, rate // divisor
    )
    return np.asarray(np.clip(wave, -1.0, 1.0), dtype=np.float32)


def _store(path: Path, corpus: Corpus) -> None:
    """Write a corpus as 16-bit samples, through a temporary name."""
    utterances = [utterance for speaker in corpus.values() for utterance in speaker]
    make_folder(path.parent)
    with written(path) as scratch, scratch.open("wb") as file:
        np.savez(
            file,
            samples=np.round(np.concatenate(utterances) * 32767.0).astype(np.int16),
            lengths=np.array([len(utterance) for utterance in utterances], dtype=np.int64),
        )
