"""Evaluation: identities that a score must obey, latency in turns, separating a file."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sepprune_tp.errors import DataError, InputError
from sepprune_tp.evaluate import evaluate
from sepprune_tp.measure.latency import compare_latency, measure_latency
from sepprune_tp.separation import separate_file

pytest.importorskip("fast_bss_eval", reason="needs the extra 'train'")
soundfile = pytest.importorskip("soundfile", reason="needs the extra 'train'")

RATE = 8000
Item = tuple[Tensor, Tensor]


class Lookup(nn.Module):
    """Answers each known mixture with fixed estimates; has a layer with a training mode."""

    def __init__(self, pairs: list[Item], sample_rate: float | None = RATE) -> None:
        super().__init__()
        self.pairs = pairs
        self.weight = nn.Parameter(torch.zeros(7))
        self.dropout = nn.Dropout(0.9)
        self.sample_rate = sample_rate
        self.batch_sizes: list[int] = []

    def forward(self, mixtures: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.batch_sizes.append(len(mixtures))
        found = [next(e for m, e in self.pairs if torch.equal(m, mixture)) for mixture in mixtures]
        answer: Tensor = self.dropout(torch.stack(found))
        return answer


def speech_like(seed: int, samples: int = 4000) -> Item:
    """Two independent noises with slow envelopes: mixture (T,) and sources (2, T)."""
    generator = torch.Generator().manual_seed(seed)
    envelope = 1 + 0.8 * torch.sin(torch.linspace(0, 30 + seed, samples))
    sources = 0.05 * envelope * torch.randn(2, samples, generator=generator)
    return sources.sum(0), sources


def with_noise(item: Item, snr: float, seed: int = 99) -> Item:
    """Estimates at a signal-to-noise ratio in dB, the two sources swapped and rescaled."""
    mixture, sources = item
    noise = torch.randn(sources.shape, generator=torch.Generator().manual_seed(seed))
    noise *= sources.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    return mixture, 3.0 * (sources + noise * 10 ** (-snr / 20)).flip(0)


def test_scores_of_noisy_estimates_follow_the_snr() -> None:
    data = [speech_like(seed) for seed in range(3)]
    result = evaluate(Lookup([with_noise(item, 10.0) for item in data]), data, sample_rate=RATE)
    assert result.si_sdr == pytest.approx(10.0, abs=0.3)
    assert result.sdr == pytest.approx(10.0, abs=1.5)  # 512 taps explain some of the noise
    assert result.sdr > result.si_sdr
    assert result.mixtures == 3 and result.params == 7
    assert result.std("si_sdr") == pytest.approx(np.std(result.per_mixture["si_sdr"], ddof=1))
    assert result.as_dict()["si_sdri"] == result.si_sdri
    better = evaluate(Lookup([with_noise(item, 13.0) for item in data]), data, sample_rate=RATE)
    assert better.si_sdri - result.si_sdri == pytest.approx(3.0, abs=0.3)
    assert better.sdri - result.sdri == pytest.approx(3.0, abs=0.7)


def test_unprocessed_mixture_improves_nothing() -> None:
    data = [speech_like(seed) for seed in range(2)]
    copies = Lookup([(mixture, mixture.repeat(2, 1)) for mixture, _ in data])
    result = evaluate(copies, data, sample_rate=RATE)
    assert result.si_sdri == pytest.approx(0.0, abs=1e-4)
    assert result.sdri == pytest.approx(0.0, abs=1e-6)
    oracle = Lookup([with_noise(item, 20.0) for item in data])  # negative control
    assert evaluate(oracle, data, sample_rate=RATE).si_sdri > 15


def test_batches_hold_equal_lengths_and_do_not_change_the_scores() -> None:
    data = [speech_like(seed, samples) for seed, samples in enumerate([3000, 3000, 3000, 2500])]
    model = Lookup([with_noise(item, 5.0) for item in data])
    one = evaluate(model, data, sample_rate=RATE)
    model.batch_sizes.clear()
    two = evaluate(model, data, sample_rate=RATE, batch_size=2)
    assert model.batch_sizes == [2, 1, 1]
    assert two.per_mixture["si_sdr"] == pytest.approx(one.per_mixture["si_sdr"], abs=1e-4)
    assert two.per_mixture["sdr"] == pytest.approx(one.per_mixture["sdr"], abs=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_restored_even_after_an_error(training: bool) -> None:
    item = speech_like(0)
    model = Lookup([with_noise(item, 5.0)]).train(training)
    model.dropout.eval()
    evaluate(model, [item], sample_rate=RATE)
    assert model.training is training and not model.dropout.training
    with pytest.raises(StopIteration):
        evaluate(model, [speech_like(1)], sample_rate=RATE)
    assert model.training is training and torch.is_grad_enabled()


def test_bad_data_is_refused() -> None:
    mixture, sources = speech_like(0)
    model = Lookup([(mixture, sources)])
    with pytest.raises(DataError, match="empty data set"):
        evaluate(model, [], sample_rate=RATE)
    with pytest.raises(InputError, match=r"16000 Hz but Lookup was made for 8000 Hz"):
        evaluate(model, [(mixture, sources)], sample_rate=16000)
    with pytest.raises(InputError, match=r"Item 0 .* \(2, 4000\)"):
        evaluate(model, [(mixture[:-1], sources)], sample_rate=RATE)
    with pytest.raises(DataError, match=r"Item 1 .* silent source \(1\)"):
        silent = torch.stack([mixture, torch.full_like(mixture, 0.2)])
        evaluate(model, [(mixture, sources), (mixture, silent)], sample_rate=RATE)
    with pytest.raises(DataError, match="NaN"):
        evaluate(model, [(mixture * torch.nan, sources)], sample_rate=RATE)
    with pytest.raises(InputError, match="No metric 'pesq'"):
        evaluate(model, [with_noise((mixture, sources), 30)], sample_rate=RATE).std("pesq")


def test_wrong_answers_of_the_model_are_refused() -> None:
    mixture, sources = speech_like(0)
    three = Lookup([(mixture, sources[:1].repeat(3, 1))])
    with pytest.raises(InputError, match=r"item 0 with \(1, 3, 4000\)"):
        evaluate(three, [(mixture, sources)], sample_rate=RATE)
    broken = Lookup([(mixture, sources * torch.nan)])
    with pytest.raises(DataError, match="weights are broken"):
        evaluate(broken, [(mixture, sources)], sample_rate=RATE)


class Sleeper(nn.Module):
    """Takes a given time and notes when it was called."""

    def __init__(self, name: str, seconds: float, calls: list[str]) -> None:
        super().__init__()
        self.name, self.seconds, self.calls = name, seconds, calls
        self.threads = 0

    def forward(self, mixture: Tensor) -> Tensor:
        assert not self.training and mixture.shape == (1, 4000)
        self.threads = torch.get_num_threads()
        self.calls.append(self.name)
        time.sleep(self.seconds)
        return mixture


def test_latencies_are_measured_in_turns() -> None:
    calls: list[str] = []
    models = {"slow": Sleeper("slow", 0.02, calls), "fast": Sleeper("fast", 0.005, calls)}
    threads = torch.get_num_threads()
    result = compare_latency(models, 0.5, RATE, threads=1, runs=5, warmup=2)
    assert calls == ["slow", "fast"] * 7
    assert result.ratios["slow"] == 1.0
    assert 0.1 < result.ratios["fast"] < 0.9
    assert result.latencies["slow"].median_ms >= 20
    assert result.latencies["slow"].rtf == pytest.approx(result.latencies["slow"].median_ms / 500.0)
    assert result.latencies["slow"].iqr >= 0
    assert torch.get_num_threads() == threads and models["slow"].threads == 1
    assert models["slow"].training and not torch.is_inference_mode_enabled()


def test_latency_refuses_nonsense() -> None:
    with pytest.raises(InputError, match="runs=0"):
        measure_latency(nn.Identity(), runs=0)
    with pytest.raises(InputError, match="got 0 models"):
        compare_latency({})
    assert measure_latency(nn.Identity(), runs=3, warmup=0).rtf < 1


class Halves(nn.Module):
    """Splits a mixture into low and high frequencies, at absurd levels, one of them negative."""

    sample_rate = RATE

    def forward(self, mixture: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(mixture)
        low = spectrum.clone()
        low[..., spectrum.shape[-1] // 2 :] = 0
        halves = torch.stack([-40.0 * low, 0.01 * (spectrum - low)], dim=1)
        answer: Tensor = torch.fft.irfft(halves, n=mixture.shape[-1])
        return answer


def write_tones(path: Path, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """Half a second of 440 Hz and 3 kHz; returns the samples (T,)."""
    t = np.arange(rate // 2) / rate
    wave = 0.3 * np.sin(2 * np.pi * 440 * t) + 0.2 * np.sin(2 * np.pi * 3000 * t)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate, subtype="PCM_16")
    return wave


def test_separated_files_add_up_to_the_mixture(tmp_path: Path) -> None:
    wave = write_tones(tmp_path / "two.wav")
    paths = separate_file(Halves(), tmp_path / "two.wav", tmp_path / "out")
    assert [path.name for path in paths] == ["two_s1.wav", "two_s2.wav"]
    (low, rate), (high, _) = (soundfile.read(path) for path in paths)
    assert rate == RATE and len(low) == len(wave)
    assert np.abs(low + high - wave).max() < 1e-3
    assert np.std(low) == pytest.approx(0.3 / 2**0.5, rel=0.01)
    assert np.std(high) == pytest.approx(0.2 / 2**0.5, rel=0.01)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [p.name for p in paths]


def test_another_sample_rate_is_resampled_with_a_warning(tmp_path: Path) -> None:
    write_tones(tmp_path / "cd.wav", 44100)
    with pytest.warns(UserWarning, match=r"has 44100 Hz, the model 8000 Hz: resampled"):
        paths = separate_file(Halves(), tmp_path / "cd.wav", tmp_path)
    low, rate = soundfile.read(paths[0])
    assert rate == RATE and len(low) == RATE // 2
    assert np.argmax(np.abs(np.fft.rfft(low))) == 220  # 440 Hz in bins of 2 Hz


def test_files_that_cannot_be_separated_are_refused(tmp_path: Path) -> None:
    write_tones(tmp_path / "stereo.wav", channels=2)
    with pytest.raises(DataError, match=r"2 channels .* channel=0 to channel=1"):
        separate_file(Halves(), tmp_path / "stereo.wav", tmp_path)
    assert len(separate_file(Halves(), tmp_path / "stereo.wav", tmp_path, channel=1)) == 2
    with pytest.raises(InputError, match="channel=2"):
        separate_file(Halves(), tmp_path / "stereo.wav", tmp_path, channel=2)
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(DataError, match="cannot be read as audio"):
        separate_file(Halves(), tmp_path / "text.wav", tmp_path)
    with pytest.raises(DataError, match="cannot be read as audio"):
        separate_file(Halves(), tmp_path / "missing.wav", tmp_path)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(DataError, match="empty, silent"):
        separate_file(Halves(), tmp_path / "empty.wav", tmp_path)
    write_tones(tmp_path / "mono.wav")
    with pytest.raises(InputError, match="does not say its sample rate"):
        separate_file(nn.Identity(), tmp_path / "mono.wav", tmp_path)
    with pytest.raises(InputError, match=r"expected \(1, S, 4000\)"):
        separate_file(nn.Identity(), tmp_path / "mono.wav", tmp_path, sample_rate=RATE)
    with pytest.raises(InputError, match="was made for 8000 Hz"):
        separate_file(Halves(), tmp_path / "mono.wav", tmp_path, sample_rate=16000)
