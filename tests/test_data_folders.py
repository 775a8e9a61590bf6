"""Folders of mixtures: layouts, splits, segments, and what is said about broken ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sepprune_tp.data import open_mixtures
from sepprune_tp.errors import DataError, InputError

soundfile = pytest.importorskip("soundfile")
RATE = 8000
FSDD = Path(__file__).parents[2] / "shared" / "fsdd"


def write(folder: Path, count: int, seconds: float = 1.0, mix: str = "mix", seed: int = 0) -> Path:
    generator = torch.Generator().manual_seed(seed)
    for index in range(count):
        sources = 0.05 * torch.randn(2, round(seconds * RATE), generator=generator)
        for name, signal in ((mix, sources.sum(0)), ("s1", sources[0]), ("s2", sources[1])):
            (folder / name).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / name / f"{index:02}.wav", signal.numpy(), RATE, "FLOAT")
    return folder


def test_whole_files(tmp_path: Path) -> None:
    data = open_mixtures(write(tmp_path, 3), "test", sample_rate=RATE)
    assert len(data) == 3
    mixture, sources = data[1]
    assert mixture.shape == (RATE,) and sources.shape == (2, RATE)
    assert torch.allclose(mixture, sources.sum(0), atol=1e-6)
    with pytest.raises(IndexError):
        data[3]


def test_segments_depend_on_seed_and_index_alone(tmp_path: Path) -> None:
    write(tmp_path, 4)
    first, again, other = (
        open_mixtures(tmp_path, "test", sample_rate=RATE, seconds=0.25, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first[7][0].shape == (2000,)
    assert torch.equal(first[7][1], again[7][1])
    assert torch.equal(first[7][0], first[7][1].sum(0))
    assert not torch.equal(first[7][0], other[7][0])
    assert not torch.equal(first[7][0], first[8][0])


def test_short_files_are_padded(tmp_path: Path) -> None:
    data = open_mixtures(write(tmp_path, 1, seconds=0.1), "test", sample_rate=RATE, seconds=0.5)
    mixture, sources = data[0]
    assert mixture.shape == (4000,) and sources.shape == (2, 4000)
    assert mixture[:800].abs().sum() > 0 and mixture[800:].abs().sum() == 0


def test_silent_segments_are_drawn_again_or_reported(tmp_path: Path) -> None:
    write(tmp_path, 1)
    signal, _ = soundfile.read(tmp_path / "s2" / "00.wav")
    signal[: RATE // 2] = 0
    soundfile.write(tmp_path / "s2" / "00.wav", signal, RATE, "FLOAT")
    data = open_mixtures(tmp_path, "test", sample_rate=RATE, seconds=0.25)
    assert all(data[i][1].square().mean(-1).min() > 1e-8 for i in range(20))
    soundfile.write(tmp_path / "s2" / "00.wav", 0 * signal, RATE, "FLOAT")
    with pytest.raises(DataError, match="all had a silent source"):
        data[0]


def test_splits_above_and_without(tmp_path: Path) -> None:
    for number, name in enumerate(("tr", "cv", "tt")):
        write(tmp_path / "wham" / name, 2 + number, mix="mix_both")
    sizes = [
        len(open_mixtures(tmp_path / "wham", split, sample_rate=RATE))
        for split in ("train", "val", "test")
    ]
    assert sizes == [2, 3, 4]
    flat = write(tmp_path / "flat", 20)
    names = {
        split: {f.mixture.name for f in open_mixtures(flat, split, sample_rate=RATE).files}
        for split in ("train", "val", "test")
    }
    assert not names["train"] & names["val"]
    assert names["train"] | names["val"] == names["test"] and len(names["val"]) == 2


def test_validation_segments_are_few_and_fixed(tmp_path: Path) -> None:
    write(tmp_path / "flat", 20)
    write(tmp_path / "split" / "cv", 3)
    for folder in (tmp_path / "flat", tmp_path / "split"):
        data = open_mixtures(folder, "val", sample_rate=RATE, seconds=0.25)
        assert len(data) == 64
        assert torch.equal(data[5][0], data[5][0])


def test_mix_folder_by_name(tmp_path: Path) -> None:
    write(tmp_path, 2, mix="mix_clean")
    write(tmp_path, 2, mix="mix_both", seed=1)
    clean = open_mixtures(tmp_path, "test", sample_rate=RATE)
    both = open_mixtures(tmp_path, "test", sample_rate=RATE, mix="mix_both")
    assert not torch.equal(clean[0][0], both[0][0])
    with pytest.raises(DataError, match=r"no folder of mixtures \(mix_noisy\)"):
        open_mixtures(tmp_path, "test", sample_rate=RATE, mix="mix_noisy")


def test_broken_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        open_mixtures(tmp_path / "none", "test", sample_rate=RATE)
    with pytest.raises(InputError, match="the splits are train, val, test"):
        open_mixtures(tmp_path, "dev", sample_rate=RATE)
    (tmp_path / "mix").mkdir()
    with pytest.raises(DataError, match=r"no s1/, s2/"):
        open_mixtures(tmp_path, "test", sample_rate=RATE)
    (tmp_path / "s1").mkdir()
    with pytest.raises(DataError, match=r"holds no \.wav or \.flac"):
        open_mixtures(tmp_path, "test", sample_rate=RATE)
    (tmp_path / "mix" / "a.wav").write_bytes(b"no audio")
    (tmp_path / "s1" / "a.wav").write_bytes(b"no audio")
    with pytest.raises(DataError, match=r"Cannot read .*a\.wav"):
        open_mixtures(tmp_path, "test", sample_rate=RATE)[0]


@pytest.mark.skipif(not FSDD.is_dir(), reason="the Free Spoken Digit Dataset is not there")
def test_fsdd_is_mixed_on_the_fly() -> None:
    train, val, test = (
        open_mixtures(FSDD, split, sample_rate=RATE, seconds=1.0)
        for split in ("train", "val", "test")
    )
    assert len(train) > len(test) == 200 > len(val) == 64
    assert test[0][1].shape == (2, RATE)
    assert not torch.equal(train[0][0], test[0][0])
