"""Mixtures of synthesised speech: splits without a common speaker, of any size."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from sepprune_tp.data.synthetic import split_voices, synthetic_mixtures
from sepprune_tp.demo.voices import TEST_VOICES, TRAIN_VOICES
from sepprune_tp.errors import InputError

SPLITS = ("train", "val", "test")


def test_no_two_splits_share_a_speaker() -> None:
    names = {split: {voice.variant for voice in split_voices(split)} for split in SPLITS}
    assert {split: len(some) for split, some in names.items()} == {"train": 30, "val": 8, "test": 8}
    assert all(not names[a] & names[b] for a, b in itertools.combinations(SPLITS, 2))
    assert set().union(*names.values()) == {v.variant for v in (*TRAIN_VOICES, *TEST_VOICES)}
    assert all({voice.sex for voice in split_voices(split)} == {"f", "m"} for split in SPLITS)


def test_unknown_split() -> None:
    with pytest.raises(InputError, match="the splits are train, val, test"):
        synthetic_mixtures("dev", size=3, cache_dir="unused")


@pytest.mark.parametrize("split", SPLITS)
def test_mixtures_of_a_split(tmp_path: Path, split: str) -> None:
    pytest.importorskip("espeakng_loader", reason="needs the extra 'demo'")
    pytest.importorskip("scipy", reason="needs the extra 'train'")
    options = {"cache_dir": tmp_path, "size": 7, "n_sentences": 1, "seconds": 0.5}
    data = synthetic_mixtures(split, **options)  # type: ignore[arg-type]
    assert len(data) == 7 and data.sample_rate == 8000
    mixture, sources = data[3]
    assert mixture.shape == (4000,) and sources.shape == (2, 4000)
    assert torch.allclose(mixture, sources.sum(0), atol=1e-6)
    assert set(data.speakers(3)) <= {voice.variant for voice in split_voices(split)}
    again = synthetic_mixtures(split, **options)  # type: ignore[arg-type]
    other = synthetic_mixtures(split, seed=1, **options)  # type: ignore[arg-type]
    assert torch.equal(again[3][1], sources) and not torch.equal(other[3][1], sources)
    assert len(list(tmp_path.iterdir())) == 1, "the speech is kept, and the same for all seeds"
