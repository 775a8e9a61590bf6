from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sepprune_tp.errors import DataError, InputError
from sepprune_tp.separation import separate_file
from sepprune_tp.separation.blocks import Blocks, in_order, stitched
from sepprune_tp.separation.reading import Recording

RATE = 8000


class Bands(nn.Module):
    """Low and high frequencies by a short filter; may swap its outputs from call to call."""

    sample_rate = RATE

    def __init__(self, swap: bool = False) -> None:
        super().__init__()
        self.swap, self.calls, self.longest = swap, 0, 0

    def forward(self, mixture: Tensor) -> Tensor:
        kernel = torch.hann_window(33).view(1, 1, -1) / 16
        low = F.conv1d(mixture.unsqueeze(1), kernel, padding=16)[:, 0]
        self.calls, self.longest = self.calls + 1, max(self.longest, mixture.shape[-1])
        pair = [20 * low, -3 * (mixture - low)]
        return torch.stack(pair[::-1] if self.swap and self.calls % 2 == 0 else pair, 1)


def write_noise(path: Path, seconds: float, rate: int = RATE, seed: int = 0) -> Path:
    """Low noise with high bursts, written a second at a time."""
    generator = np.random.default_rng(seed)
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for _ in range(int(seconds)):
            file.write(0.1 * generator.standard_normal(rate).astype(np.float32))
        rest = round((seconds - int(seconds)) * rate)
        file.write(0.1 * generator.standard_normal(rest).astype(np.float32))
    return path


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("seconds", [2.0, 5.3, 7.9125])
def test_blocks_give_what_one_pass_gives(seconds: float, swap: bool, tmp_path: Path) -> None:
    path = write_noise(tmp_path / "noise.wav", seconds)
    whole = separate_file(Bands(), path, tmp_path / "whole")
    model = Bands(swap)
    parts = separate_file(model, path, tmp_path / "parts", block=1.5, overlap=0.3)
    assert model.calls >= seconds / 1.5 and model.longest == 1.5 * RATE
    for one, other in zip(whole, parts, strict=True):
        expected, found = soundfile.read(one)[0], soundfile.read(other)[0]
        assert len(expected) == round(seconds * RATE)
        assert np.abs(expected - found).max() <= 1.5 / 32768  # a step of 16 bit
    names = sorted(p.name for p in (tmp_path / "parts").iterdir())
    assert names == ["noise_s1.wav", "noise_s2.wav"]


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    peaks = []
    for seconds in (70, 700):
        path = write_noise(tmp_path / f"{seconds}.wav", seconds)
        model = Bands()
        tracemalloc.start()
        separate_file(model, path, tmp_path / "out", block=5)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert model.longest == 5 * RATE
    assert peaks[1] <= 1.2 * peaks[0] < 700 * RATE * 4 / 2


def test_long_recordings_are_cut_by_default() -> None:
    assert Blocks.of(60 * RATE, RATE, None, None) == Blocks(60 * RATE, 0)
    assert Blocks.of(61 * RATE, RATE, None, None) == Blocks(30 * RATE, round(7.5 * RATE))
    assert Blocks.of(100, RATE, 2.0, None) == Blocks(100, 0)


def test_blocks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "noise.wav", 2)
    with pytest.raises(InputError, match=r"overlap=0.6 seconds with blocks of 1; .* half"):
        separate_file(Bands(), path, tmp_path / "out", block=1, overlap=0.6)
    with pytest.raises(InputError, match="overlap=0 seconds"):
        separate_file(Bands(), path, tmp_path / "out", block=1, overlap=0)
    with pytest.raises(InputError, match=r"block=0.05 seconds; give at least 0.1"):
        separate_file(Bands(), path, tmp_path / "out", block=0.05)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("length", [1, 9, 10, 11, 23, 100, 101])
def test_pieces_follow_each_other(length: int) -> None:
    signal = np.arange(1, length + 1, dtype=np.float32)

    def read(start: int, count: int) -> np.ndarray:
        assert start >= 0 and start + count <= length
        return signal[start : start + count]

    blocks = Blocks(min(10, length), 4 if length > 10 else 0)
    pieces = list(stitched(read, lambda x: np.stack([x, -x]), length, blocks))
    assert np.array_equal(np.concatenate([p.mixture for p in pieces]), signal)
    sources = np.concatenate([p.sources for p in pieces], 1)
    assert np.allclose(sources, [signal, -signal])


def test_speakers_keep_their_order() -> None:
    generator = np.random.default_rng(0)
    before = generator.standard_normal((3, 50)).astype(np.float32)
    after = np.concatenate([before, generator.standard_normal((3, 20))], 1).astype(np.float32)
    noisy = after + 0.3 * generator.standard_normal(after.shape).astype(np.float32)
    assert np.array_equal(in_order(before, noisy[[2, 0, 1]]), noisy)
    assert np.array_equal(in_order(np.zeros_like(before), noisy), noisy)


def test_resampling_in_stretches_is_resampling_all(tmp_path: Path) -> None:
    from scipy.signal import resample_poly

    for rate in (44100, 16000, 6000, 11025):
        path = write_noise(tmp_path / f"{rate}.wav", 1.7, rate)
        whole = soundfile.read(path, dtype="float32")[0]
        recording = Recording(path, RATE, None)
        divisor = np.gcd(rate, RATE)
        expected = resample_poly(whole, RATE // divisor, rate // divisor)
        assert recording.length == len(expected)
        for start, count in ((0, 1000), (37, 4001), (9000, len(expected) - 9000)):
            found = recording.read(start, count)
            assert np.allclose(found, expected[start : start + count], atol=1e-5)
        recording.close()


def claim(path: Path, size: int) -> Path:
    """Let a WAV header claim that many bytes of audio."""
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", size)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("size", [2**31, 2**32 - 1, 16001])
def test_a_header_that_claims_too_much_is_refused(size: int, tmp_path: Path) -> None:
    path = claim(write_noise(tmp_path / "bomb.wav", 1), size)
    with pytest.raises(DataError, match=r"claims .* bytes of audio and holds 16000"):
        separate_file(Bands(), path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_absurd_rate_is_refused(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "rate.wav", 1)
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", 2_000_000_011)
    path.write_bytes(data)
    with pytest.raises(DataError, match="Hz, which no recording has"):
        separate_file(Bands(), path, tmp_path / "out")


def test_a_file_that_ends_early_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cut.flac"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(4 * RATE), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="cannot be read as audio"):
        separate_file(Bands(), path, tmp_path / "out", block=0.5)
    assert list((tmp_path / "out").iterdir()) == []


class Fails(Bands):
    def forward(self, mixture: Tensor) -> Tensor:
        found = super().forward(mixture)
        return found * float("nan") if self.calls == 3 else found


def test_nan_half_way_leaves_nothing(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "noise.wav", 5)
    with pytest.raises(DataError, match="Fails gives NaN or infinity"):
        separate_file(Fails(), path, tmp_path / "out", block=1)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_silent_recording_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(3 * RATE), RATE)
    with pytest.raises(DataError, match="empty, silent"):
        separate_file(Bands(), tmp_path / "silent.wav", tmp_path / "out", block=1)
    assert list((tmp_path / "out").iterdir()) == []
