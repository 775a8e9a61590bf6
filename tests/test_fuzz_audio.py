"""Audio files, short ones and those of hours, whose headers lie."""

from __future__ import annotations

import contextlib
import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("scipy")
from fuzzing import COUNTS, Reader, check  # noqa: E402
from mutations import audio_changed  # noqa: E402

from sepprune_tp.data.audio import MonoFile  # noqa: E402
from sepprune_tp.data.recordings import load_recordings  # noqa: E402
from sepprune_tp.errors import DataError  # noqa: E402
from sepprune_tp.separation.reading import Recording  # noqa: E402

RATE = 8000
STARTS = (b"RIFF\x24\0\0\0WAVEfmt ", b"fLaC\0\0\0\x22", b"OggS\0\x02", b"RF64", b".snd", b"FORM")


def audio(
    kind: str, subtype: str, samples: int = 900, channels: int = 1, rate: int = RATE
) -> bytes:
    signal = 0.1 * np.random.default_rng(0).standard_normal((samples, channels))
    file = io.BytesIO()
    soundfile.write(file, signal, rate, format=kind, subtype=subtype)
    return file.getvalue()


FORMATS = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")]
FORMATS += [("WAV", "IMA_ADPCM"), ("AIFF", "PCM_24"), ("W64", "PCM_16"), ("RF64", "PCM_16")]
ONE = [audio(*names) for names in FORMATS]
SEVERAL = [audio("WAV", "PCM_16", channels=3), audio("FLAC", "PCM_16", rate=11025), *ONE[:4]]


def read_mono(path: Path) -> int:
    with MonoFile(path, RATE) as file:
        whole = file.read(0, file.frames)
        assert np.isfinite(whole).all()
        return whole.nbytes


def read_long(path: Path) -> int:
    """All of it, in stretches that are thrown away."""
    recording = Recording(path, RATE, 0)
    try:
        for start in range(0, recording.length, 1 << 18):
            piece = recording.read(start, min(1 << 18, recording.length - start))
            assert np.isfinite(piece).all() and len(piece)
        return recording.length
    finally:
        recording.close()


READERS = {
    "audio of one channel": Reader("audio of one channel", ONE, read_mono, audio_changed, STARTS),
    "audio of hours": Reader("audio of hours", SEVERAL, read_long, audio_changed, STARTS),
}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", READERS)
@pytest.mark.timeout(1800)
def test_readers_keep_the_law(name: str, count: int, tmp_path: Path) -> None:
    check(READERS[name], tmp_path, count)


def wav(channels: int = 1, rate: int = RATE, size: int = 1000, held: int = 1000) -> bytes:
    """A WAV file whose header says what it likes."""
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 % 2**32, 2 * channels % 65536, 16)
    chunk = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", (36 + size) % 2**32) + chunk + b"\1\2" * (held // 2)


@pytest.mark.parametrize(
    "data",
    [
        wav(size=2**32 - 2),
        wav(size=2**31 * 2 - 2, held=0),
        wav(channels=65535),
        wav(channels=0),
        wav(rate=0),
        wav(rate=10**9),
        wav(rate=2**32 - 1),
        b"",
        b"RIFF",
        b"RIFF\xff\xff\xff\xffWAVE" + b"junk\0\0\0\0" * 10_000,
    ],
)
def test_headers_that_lie(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(data)
    for read in (read_mono, read_long):
        began = time.monotonic()
        with contextlib.suppress(DataError):
            assert read(path) <= 4 * len(data)
        assert time.monotonic() - began < 2


def claiming(data: bytes, frames: int) -> bytes:
    """A FLAC file that says it has another number of samples."""
    found = bytearray(data)
    assert found[:4] == b"fLaC"
    low = struct.unpack(">Q", found[18:26])[0] >> 36 << 36
    found[18:26] = struct.pack(">Q", low | frames)
    return bytes(found)


@pytest.mark.parametrize("frames", [2**36 - 1, 2**31, 10**6])
def test_a_flac_file_of_a_kilobyte_and_of_days(tmp_path: Path, frames: int) -> None:
    path = tmp_path / "x.flac"
    path.write_bytes(claiming(audio("FLAC", "PCM_16"), frames))
    assert soundfile.info(path).frames == frames
    for read in (read_mono, read_long):
        with pytest.raises(DataError):
            read(path)
    path.write_bytes(claiming(audio("FLAC", "PCM_16"), 900))
    assert read_mono(path) == 3600  # negative control


def test_silence_of_hours_in_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "x.flac"
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for _ in range(3):
            file.write(np.zeros(RATE * 1500))
    assert path.stat().st_size < 200_000
    with pytest.raises(DataError, match=r"1\.25 hours in .* bytes, too few for speech"):
        Recording(path, RATE, None)


def test_a_rate_that_no_filter_of_reason_brings_down(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(wav(rate=999_983))
    with pytest.raises(DataError, match="in small steps"):
        Recording(tmp_path / "x.wav", RATE, None)


def test_an_index_in_digits_of_other_scripts(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    for name in ("0_ann_²", "0_ann_9", "0_bob_", "1__3", "x"):
        (tmp_path / "recordings" / f"{name}.wav").write_bytes(audio("WAV", "PCM_16"))
    assert list(load_recordings(tmp_path, "all")) == ["ann"]
