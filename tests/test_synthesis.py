"""Synthetic speech and the assets of the demo."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from sepprune_tp.demo import (
    ASSETS,
    demo_model,
    demo_model_card,
    demo_test_set,
    demo_training_set,
    synthesis,
    voices,
)
from sepprune_tp.demo.sentences import make_sentences
from sepprune_tp.demo.synthesis import load_or_synthesise, synthesise_corpus
from sepprune_tp.demo.voices import TEST_VOICES, TRAIN_VOICES, Voice, check_voices
from sepprune_tp.errors import DataError, InputError, MissingExtraError

TWO = (TRAIN_VOICES[0], TRAIN_VOICES[-1])


@pytest.fixture
def espeak() -> ModuleType:
    """The synthesiser, or a skip."""
    module: ModuleType = pytest.importorskip(
        "espeakng_loader", reason="espeakng-loader is not installed"
    )
    return module


def equal(one: dict[str, list[np.ndarray]], other: dict[str, list[np.ndarray]]) -> bool:
    """Whether two corpora are the same, sample for sample."""
    return one.keys() == other.keys() and all(
        np.array_equal(a, b) for name in one for a, b in zip(one[name], other[name], strict=True)
    )


def test_sentences_vary_and_follow_the_seed() -> None:
    first = make_sentences(200, np.random.default_rng(0))
    assert first == make_sentences(200, np.random.default_rng(0))
    assert first != make_sentences(200, np.random.default_rng(1))
    assert len(set(first)) == 200
    assert all(5 <= len(sentence.split()) <= 16 for sentence in first)
    assert all(sentence[-1] in ".?" and sentence[0].isupper() for sentence in first)


def test_training_and_test_speakers_are_disjoint() -> None:
    train = {voice.variant for voice in TRAIN_VOICES}
    test = {voice.variant for voice in TEST_VOICES}
    assert len(train) == len(TRAIN_VOICES) >= 32
    assert len(test) == len(TEST_VOICES) == 8
    assert not train & test
    assert {voice.sex for voice in TEST_VOICES} == {"f", "m"}


def test_corpus_is_a_function_of_the_seed(espeak: ModuleType) -> None:
    corpus = synthesise_corpus(TWO, 2, seed=5)
    assert list(corpus) == [voice.variant for voice in TWO]
    for spoken in corpus.values():
        assert len(spoken) == 2
        for utterance in spoken:
            assert utterance.dtype == np.float32 and utterance.ndim == 1
            assert 1.0 < len(utterance) / 8000 < 12.0
            assert utterance.std() > 0.005 and np.abs(utterance).max() <= 1.0
    assert equal(corpus, synthesise_corpus(TWO, 2, seed=5))
    assert not equal(corpus, synthesise_corpus(TWO, 2, seed=6))  # negative control


def test_every_curated_voice_speaks_in_its_own_voice(espeak: ModuleType) -> None:
    everyone = (*TRAIN_VOICES, *TEST_VOICES)
    check_voices(everyone)
    corpus = synthesise_corpus(everyone, 1, seed=0)
    assert len(corpus) == len(everyone)
    assert len({utterances[0].tobytes() for utterances in corpus.values()}) == len(everyone)


def test_unknown_voices_are_refused(espeak: ModuleType) -> None:
    with pytest.raises(InputError, match=r"no voice variant 'nobody'.*available_variants"):
        synthesise_corpus([Voice("nobody", "f")], 1, seed=0)
    with pytest.raises(InputError, match="Two speakers have the voice variant 'f1'"):
        check_voices([Voice("f1", "f"), Voice("f1", "f", 60)])
    with pytest.raises(DataError, match=r"espeak-ng failed .* no voice 'xx\+f1'"):
        synthesise_corpus([Voice("f1", "f", language="xx")], 1, seed=0)
    with pytest.raises(InputError, match="n_sentences=0"):
        synthesise_corpus(TWO, 0, seed=0)
    with pytest.raises(InputError, match="allowed values"):
        Voice("f1", "x")
    with pytest.raises(InputError, match="between 0 and 100"):
        Voice("f1", "f", 101)


def test_missing_package_says_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "espeakng_loader", None)
    with pytest.raises(MissingExtraError, match=r"sepprune-tp\[demo\]"):
        voices.available_variants()


def test_cache_is_used_and_gives_the_same_samples(
    espeak: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_or_synthesise(tmp_path / "new", TWO, 1, seed=1)
    direct = synthesise_corpus(TWO, 1, seed=1)
    assert max(np.abs(first[name][0] - direct[name][0]).max() for name in first) < 1 / 32767
    (path,) = (tmp_path / "new").iterdir()
    monkeypatch.setattr(synthesis, "synthesise_corpus", None)
    assert equal(first, load_or_synthesise(tmp_path / "new", TWO, 1, seed=1))
    with pytest.raises(TypeError):  # another seed is another file
        load_or_synthesise(tmp_path / "new", TWO, 1, seed=2)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="Delete it"):
        load_or_synthesise(tmp_path / "new", TWO, 1, seed=1)


def test_training_set_mixes_two_training_speakers(
    espeak: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sepprune_tp.demo._SENTENCES", 1)
    mixtures = demo_training_set(tmp_path, size=5, seed=3)
    mixture, sources = mixtures[0]
    assert len(mixtures) == 5 and mixture.shape == (16000,) and sources.shape == (2, 16000)
    assert torch.allclose(mixture, sources.sum(0), atol=1e-6)
    assert set(mixtures.speakers(0)) <= {voice.variant for voice in TRAIN_VOICES}
    again = demo_training_set(tmp_path, size=5, seed=3)[0][0]
    other = demo_training_set(tmp_path, size=5, seed=4)[0][0]
    assert torch.equal(mixture, again) and not torch.equal(mixture, other)


def test_shipped_mixtures_are_exact_sums_of_unseen_speakers() -> None:
    pytest.importorskip("soundfile", reason="needs the extra 'demo'")
    test_set = demo_test_set()
    assert len(test_set) == 20
    for mixture, sources in test_set:
        assert mixture.shape == (20000,) and sources.shape == (2, 20000)
        assert torch.equal(mixture, sources.sum(0))
        assert mixture.abs().max() < 1 and (sources.std(-1) > 0.01).all()
    names = {path.stem for path in (ASSETS / "test" / "mix").glob("*.flac")}
    speakers = {name for stem in names for name in stem.split("_")[1:]}
    assert speakers <= {voice.variant for voice in TEST_VOICES} and len(speakers) >= 6


def test_assets_are_small() -> None:
    files = [path for path in ASSETS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    assert (ASSETS / "README.md").exists()


def test_shipped_model_separates_as_its_card_says() -> None:
    pytest.importorskip("asteroid", reason="needs the extra 'asteroid'")
    pytest.importorskip("fast_bss_eval", reason="needs the extra 'train'")
    from sepprune_tp.evaluate import evaluate

    card = demo_model_card()
    model = demo_model()
    assert not model.training
    with pytest.raises(InputError, match="was made for 8000 Hz"):
        evaluate(model, demo_test_set(), sample_rate=16000)
    result = evaluate(model, demo_test_set(), sample_rate=8000)
    assert result.params == card["figures"]["params"] < 300_000
    assert result.si_sdri == pytest.approx(card["figures"]["si_sdri"], abs=0.02)
    assert result.sdri == pytest.approx(card["figures"]["sdri"], abs=0.02)
    assert result.si_sdri > 7.0


def test_damaged_assets_are_reported(tmp_path: Path) -> None:
    pytest.importorskip("asteroid", reason="needs the extra 'asteroid'")
    with pytest.raises(DataError, match=r"model\.json cannot be read.*make_demo_assets"):
        demo_model(tmp_path)
    with pytest.raises(DataError, match="no test mixtures"):
        demo_test_set(tmp_path)
    shutil.copy(ASSETS / "model.json", tmp_path)
    with pytest.raises(DataError, match="cannot be rebuilt"):
        demo_model(tmp_path)
    whole = (ASSETS / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be rebuilt"):
        demo_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    card = json.loads((tmp_path / "model.json").read_text())
    card["args"]["n_blocks"] += 1
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(DataError, match="cannot be rebuilt"):
        demo_model(tmp_path)


def fundamental(utterances: list[np.ndarray]) -> float:
    """Median fundamental frequency in Hz, from the autocorrelation of the loud frames."""
    speech = np.concatenate(utterances).astype(np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(speech, 400)[::120] * np.hanning(400)
    energy = np.square(frames).sum(1)
    power = np.abs(np.fft.rfft(frames[energy > 0.01 * energy.max()], 1024)) ** 2
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(400), 1024)) ** 2)
    correlation = np.fft.irfft(power)[:, :200] / window[:200]
    lags = correlation[:, 25:125].argmax(1) + 25  # 64 to 320 Hz
    peaks = correlation[np.arange(len(lags)), lags] / correlation[:, 0]
    return float(np.median(8000 / lags[peaks > 0.6]))


def test_test_speakers_differ_in_pitch(espeak: ModuleType) -> None:
    corpus = synthesise_corpus(TEST_VOICES, 12, seed=5)
    pitches = sorted(fundamental(utterances) for utterances in corpus.values())
    assert all(high / low > 1.08 for low, high in itertools.pairwise(pitches))
    assert pitches[0] > 70 and pitches[-1] < 300
    females = [fundamental(corpus[voice.variant]) for voice in TEST_VOICES if voice.sex == "f"]
    assert sorted(females) == pitches[4:]
