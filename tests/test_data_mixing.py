"""Mixtures: deterministic, level-controlled, never silent, and honest about bad recordings."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sepprune_tp.data import MixtureDataset, batches, load_recordings, prepare_utterance
from sepprune_tp.errors import DataError, InputError

FSDD = Path(__file__).parents[2] / "shared" / "fsdd"
needs_fsdd = pytest.mark.skipif(not FSDD.is_dir(), reason=f"no speech recordings in {FSDD}")
RATE = 8000


def tone(frequency: float, seconds: float = 0.4, level: float = 0.3) -> NDArray[np.float64]:
    time = np.arange(round(seconds * RATE)) / RATE
    return np.asarray(level * np.sin(2 * np.pi * frequency * time))


def voices(count: int = 3) -> dict[str, list[NDArray[np.float64]]]:
    return {
        f"voice{i}": [tone(200 * (i + 1) + 20 * j, level=10.0 ** -(j % 3)) for j in range(4)]
        for i in range(count)
    }


def rms(signal: torch.Tensor) -> torch.Tensor:
    return signal.square().mean(-1).sqrt()


class TestPreparation:
    def test_removes_dc_and_sets_level(self) -> None:
        prepared = prepare_utterance(tone(300, level=0.001) + 0.2, RATE)
        assert prepared is not None and prepared.dtype == np.float32
        assert abs(float(prepared.mean())) < 1e-3
        assert np.sqrt(np.mean(prepared**2)) == pytest.approx(0.05, rel=1e-3)

    def test_trims_both_ends_and_keeps_the_middle(self) -> None:
        silence = np.zeros(RATE // 2)
        pause = np.zeros(RATE // 10)
        speech = np.concatenate([tone(300), pause, tone(300)])
        prepared = prepare_utterance(np.concatenate([silence, speech, silence]), RATE)
        assert prepared is not None
        assert abs(len(prepared) - len(speech)) <= 2 * RATE // 50
        assert (np.abs(prepared) < 1e-6).sum() >= len(pause) - 2

    @pytest.mark.parametrize("signal", [np.zeros(1000), np.full(1000, 0.5), np.zeros(0)])
    def test_silence_is_none(self, signal: NDArray[np.float64]) -> None:
        assert prepare_utterance(signal, RATE) is None

    def test_nan_and_stereo_are_errors(self) -> None:
        broken = tone(300)
        broken[7] = np.nan
        with pytest.raises(DataError, match="NaN"):
            prepare_utterance(broken, RATE)
        with pytest.raises(DataError, match=r"\(2, 3200\)"):
            prepare_utterance(np.stack([tone(300), tone(200)]), RATE)


class TestDataset:
    def test_mixture_is_the_sum_of_its_sources(self) -> None:
        data = MixtureDataset(voices(), seconds=0.5, size=5)
        mixture, sources = data[0]
        assert mixture.shape == (4000,) and sources.shape == (2, 4000)
        assert mixture.dtype == sources.dtype == torch.float32
        torch.testing.assert_close(mixture, sources.sum(0))
        assert len(data) == 5

    def test_items_depend_on_seed_and_index_alone(self) -> None:
        first, again = (MixtureDataset(voices(), seconds=0.5, seed=3) for _ in range(2))
        _ = first[1]
        assert torch.equal(first[7][1], again[7][1])
        assert torch.equal(first[-1][0], first[len(first) - 1][0])
        other = MixtureDataset(voices(), seconds=0.5, seed=4)
        assert not torch.equal(first[7][1], other[7][1])
        assert not torch.equal(first[7][1], first[8][1])

    def test_global_random_state_is_untouched(self) -> None:
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
        _ = MixtureDataset(voices(), seconds=0.5)[0]
        assert torch.equal(torch_state, torch.get_rng_state())
        assert np.array_equal(numpy_state, np.random.get_state()[1])

    def test_relative_levels_fill_the_range(self) -> None:
        data = MixtureDataset(voices(), seconds=0.5, size=300)
        levels = torch.stack([20 * rms(data[i][1]).log10() for i in range(300)])
        difference = levels[:, 1] - levels[:, 0]
        assert 4.7 < difference.abs().max() < 5.05
        assert difference.abs().mean().item() == pytest.approx(2.5, abs=0.3)

    def test_speakers_differ_and_are_told(self) -> None:
        data = MixtureDataset(voices(), seconds=0.5, size=300)
        pairs = Counter(frozenset(data.speakers(i)) for i in range(300))
        assert len(pairs) == 3 and all(len(pair) == 2 for pair in pairs)
        assert min(pairs.values()) > 70
        for index in range(10):
            spectrum = torch.fft.rfft(data[index][1]).abs().argmax(-1) / 0.5
            for frequency, name in zip(spectrum.tolist(), data.speakers(index), strict=True):
                lowest = 200 * (int(name[-1]) + 1)
                assert lowest - 20 <= frequency <= lowest + 80

    def test_three_sources(self) -> None:
        assert MixtureDataset(voices(4), seconds=0.5, n_src=3)[0][1].shape == (3, 4000)

    def test_no_source_is_ever_mostly_silent(self) -> None:
        pausing = [np.concatenate([tone(300), np.zeros(RATE), tone(300)]) for _ in range(2)]
        data = MixtureDataset({"a": [*pausing, tone(200, 2.0)], "b": [tone(500)]}, seconds=0.5)
        for index in range(40):
            assert ((data[index][1].abs() > 1e-4).float().mean(-1) > 0.45).all()

    def test_speaker_with_pauses_only_is_an_error(self) -> None:
        pausing = np.concatenate([tone(300, 0.02), np.zeros(2 * RATE), tone(300, 0.02)])
        data = MixtureDataset({"a": [pausing], "b": [tone(500)]}, seconds=0.5)
        with pytest.raises(DataError, match=r"speaker 'a' were all mostly silent"):
            _ = [data[i] for i in range(20)]

    def test_silent_recordings_are_left_out(self) -> None:
        data = MixtureDataset({"a": [np.zeros(800), tone(300)], "b": [tone(500)]}, seconds=0.5)
        assert len(data.utterances["a"]) == 1

    def test_too_few_speakers(self) -> None:
        with pytest.raises(DataError, match=r"2 different speakers .* got 1 \(a\)"):
            MixtureDataset({"a": [tone(300)], "mute": [np.zeros(900)]})

    def test_bad_utterance_is_named(self) -> None:
        with pytest.raises(DataError, match="Utterance 1 of speaker 'a'"):
            MixtureDataset({"a": [tone(300), np.array([np.inf])], "b": [tone(500)]})

    @pytest.mark.parametrize("bad", [{"seconds": 0}, {"size": 0}, {"n_src": 0}, {"seed": -1}])
    def test_bad_numbers(self, bad: dict[str, int]) -> None:
        with pytest.raises(InputError, match=f"{next(iter(bad))}="):
            MixtureDataset(voices(), **bad)  # type: ignore[arg-type]

    def test_index_out_of_range(self) -> None:
        with pytest.raises(IndexError):
            _ = MixtureDataset(voices(), seconds=0.1, size=3)[3]


class TestBatches:
    def data(self, size: int = 10) -> MixtureDataset:
        return MixtureDataset(voices(), seconds=0.1, size=size)

    @pytest.mark.parametrize("seed", [None, 5])
    def test_starts_anywhere(self, seed: int | None) -> None:
        whole = list(batches(self.data(), 4, steps=6, shuffle_seed=seed))
        tail = list(batches(self.data(), 4, start=3, steps=3, shuffle_seed=seed))
        assert [b[0].shape for b in whole] == [(4, 800)] * 6
        assert whole[0][1].shape == (4, 2, 800)
        assert all(torch.equal(a[1], b[1]) for a, b in zip(whole[3:], tail, strict=True))
        assert not torch.equal(whole[2][1], tail[0][1]), "negative control"

    def test_every_pass_holds_every_item_in_another_order(self) -> None:
        data = self.data()
        firsts = {float(data[i][0][1]): i for i in range(10)}
        drawn = islice(batches(data, 5, shuffle_seed=1), 4)
        order = [firsts[float(x)] for mixture, _ in drawn for x in mixture[:, 1]]
        assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
        assert order[:10] != order[10:]

    def test_endless_without_steps(self) -> None:
        assert len(list(islice(batches(self.data(3), 2), 7))) == 7

    def test_empty_and_bad_size(self) -> None:
        empty: list[object] = []
        with pytest.raises(DataError, match="is empty"):
            next(batches(empty, 2))
        with pytest.raises(InputError, match="batch_size"):
            next(batches(self.data(), 0))


class TestFolder:
    def write(self, folder: Path, name: str, rate: int = RATE, channels: int = 1) -> None:
        soundfile = pytest.importorskip("soundfile")
        (folder / "recordings").mkdir(exist_ok=True)
        signal = np.stack([tone(300)] * channels, axis=1)
        soundfile.write(folder / "recordings" / name, signal, rate)

    def test_splits_follow_the_index(self, tmp_path: Path) -> None:
        for index in (0, 4, 5, 7, 8, 49):
            self.write(tmp_path, f"3_anna_b_{index}.{'wav' if index % 2 else 'flac'}")
        sizes = {
            split: len(load_recordings(tmp_path, split)["anna_b"])
            for split in ("test", "train", "val", "fit", "all")
        }
        assert sizes == {"test": 2, "train": 4, "val": 2, "fit": 2, "all": 6}

    def test_missing_and_empty_folders(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="the folder does not exist"):
            load_recordings(tmp_path)
        self.write(tmp_path, "1_anna_0.wav")
        with pytest.raises(DataError, match=r"No recordings of the split 'train'"):
            load_recordings(tmp_path, "train")
        with pytest.raises(InputError, match="test, train, val, fit, all"):
            load_recordings(tmp_path, "dev")

    def test_wrong_rate_and_channels(self, tmp_path: Path) -> None:
        self.write(tmp_path, "1_anna_9.wav", rate=16000)
        with pytest.raises(
            DataError, match=r"1_anna_9.wav has 1 channel.* 16000 Hz; this needs 1 at 8000"
        ):
            load_recordings(tmp_path)
        self.write(tmp_path, "1_anna_9.wav", channels=2)
        with pytest.raises(DataError, match=r"2 channel"):
            load_recordings(tmp_path)

    def test_truncated_file(self, tmp_path: Path) -> None:
        self.write(tmp_path, "1_anna_9.flac")
        path = tmp_path / "recordings" / "1_anna_9.flac"
        path.write_bytes(path.read_bytes()[:20])
        with pytest.raises(DataError, match=r"Cannot read .*1_anna_9.flac"):
            load_recordings(tmp_path)

    @needs_fsdd
    def test_real_speech(self) -> None:
        recordings = load_recordings(FSDD, "test")
        assert sorted(map(len, recordings.values())) == [50] * 6
        data = MixtureDataset(recordings, seconds=2.0, size=100, seed=1)
        for index in range(100):
            mixture, sources = data[index]
            assert torch.isfinite(mixture).all() and mixture.abs().max() < 1
            assert (rms(sources) > 0.02).all()
