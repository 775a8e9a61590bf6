"""The benchmarks' two-speaker data and dense trainings: splits, mixtures, resuming, speed."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("asteroid", reason="the benchmarks need the extra 'asteroid'")
pytest.importorskip("lightning", reason="the benchmarks need the extra 'train'")
pytest.importorskip("scipy", reason="resampling needs the extra 'train'")
pytest.importorskip("benchmarks.harness", reason="benchmarks/ is not installed")
pytest.importorskip("soundfile", reason="reading speech needs the extra 'train'")

import soundfile
from benches import CONV

from benchmarks.harness import zoo
from benchmarks.harness.config import Experiment, find
from benchmarks.harness.data import Corpus, open_corpus
from benchmarks.harness.dense import FOLDER, description_of, keep, load, train, weights_of
from benchmarks.harness.depthwise import fast_depthwise
from benchmarks.harness.speech import SPEECH, people
from sepprune_tp.errors import CheckpointError, DataError
from sepprune_tp.recovery import fingerprint

needs_speech = pytest.mark.skipif(not SPEECH.is_dir(), reason=f"no speech in {SPEECH}")
RATE = 8000


# -- data ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve people to train and to validate on, three to test on: two noises each, 16 kHz."""
    root = tmp_path_factory.mktemp("speech")
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 3)):
        for number in range(count):
            person = root / split / f"{split}{number:02}-f"
            person.mkdir(parents=True)
            for name in "ab":
                noise = 0.01 * generator.standard_normal(16000)
                soundfile.write(person / f"{name}.flac", noise, 16000)
    return root


@pytest.fixture
def corpus(folder: Path) -> Corpus:
    return open_corpus({"name": "two-speakers", "path": str(folder)})


def _voices(mixtures: Any) -> set[str]:
    count = min(len(mixtures), 500)
    return {voice for index in range(count) for voice in mixtures.speakers(index)}


def test_no_speaker_is_in_two_splits(corpus: Corpus) -> None:
    splits = [corpus.train(0), corpus.validation(), corpus.test(None)]
    heard = [{voice.partition(" at ")[0] for voice in _voices(split)} for split in splits]
    assert [len(some) for some in heard] == [10, 2, 3]
    assert len(set.union(*heard)) == 15
    assert len(_voices(splits[0])) == 30 and len(_voices(splits[1])) == 2  # at three speeds, at one


def test_a_mixture_never_holds_one_person_at_two_speeds(corpus: Corpus) -> None:
    mixtures: Any = corpus.train(0)
    pairs = [mixtures.speakers(index) for index in range(2000)]
    assert all(one.partition(" at ")[0] != two.partition(" at ")[0] for one, two in pairs)
    speeds = {voice.partition(" at ")[2] for pair in pairs for voice in pair}
    assert speeds == {"1", "0.9", "1.1"}


def test_the_seconds_to_train_on_are_counted_at_the_usual_speed(corpus: Corpus) -> None:
    assert corpus.epoch == 10 * 2 * 1.0


def test_missing_speech_is_an_error_that_says_where_and_what(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist.*folder per person"):
        open_corpus({"name": "two-speakers", "path": str(tmp_path)})


@needs_speech
def test_real_mixtures_are_the_same_every_time_and_within_the_levels() -> None:
    one, other = (open_corpus({"name": "two-speakers"}).test(200, 3.0) for _ in range(2))
    assert len(one) == 200
    for index in range(0, 200, 20):
        mixture, sources = one[index]
        assert torch.equal(mixture, other[index][0]) and mixture.shape == (3 * RATE,)
        assert torch.allclose(mixture, sources.sum(0), atol=1e-6)
        levels = 10 * sources.square().mean(-1).log10()
        assert (levels[0] - levels[1]).abs() <= 5.01 and levels.min() > -32


@needs_speech
def test_real_people_are_in_one_split_each_and_of_both_sexes() -> None:
    splits = [people(SPEECH, split) for split in ("train", "val", "test")]
    names = [{path.name for path in split} for split in splits]
    assert [len(some) for some in names] == [58, 9, 41] and len(set.union(*names)) == 108
    assert all({name[-1] for name in some} == {"f", "m"} for some in names)


# -- trainings -----------------------------------------------------------------------------------


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.setitem(zoo.MODELS, "tiny", ("asteroid:ConvTasNet", CONV))
    options = {"steps": 4, "batch_size": 2, "val_every": 2, "progress": False, "seconds": 0.5}
    test = {"mixtures": 2, "seconds": 0.5}
    return Experiment("tried", "dense", "Tried", models=("tiny",), test=test, options=options)


def test_a_training_resumes_from_kept_weights_when_its_state_is_lost(
    corpus: Corpus, experiment: Experiment, tmp_path: Path
) -> None:
    first, second, kept = (tmp_path / name for name in ("first", "second", "kept"))
    with pytest.raises(FileNotFoundError, match="no training of tiny"):
        keep("tiny", corpus, experiment, first, kept)
    train("tiny", corpus, experiment, first, tmp_path / "finished")
    told = keep("tiny", corpus, experiment, first, kept)  # of a state with steps behind it
    assert told["finished"] is False and told["reached"]["steps"] == 4
    assert told["steps"] == told["history"][-1]["step"]
    assert told["validation_si_sdr"] == max(round(r["si_sdr"], 3) for r in told["history"])

    longer = replace(experiment, options={**experiment.options, "steps": told["steps"] + 2})
    done = train("tiny", corpus, longer, second, kept)
    assert done["history"][: len(told["history"])] == told["history"]
    assert done["steps"] == told["steps"] + 2 and "finished" not in done
    assert description_of("tiny", "two-speakers", kept) == done


def test_kept_weights_of_other_data_are_refused(
    corpus: Corpus, experiment: Experiment, tmp_path: Path
) -> None:
    train("tiny", corpus, experiment, tmp_path / "first", tmp_path)
    keep("tiny", corpus, experiment, tmp_path / "first", tmp_path)
    path = weights_of("tiny", "two-speakers", tmp_path).with_suffix(".json")
    path.write_text(path.read_text().replace(corpus.sha256, "0" * 64))
    with pytest.raises(CheckpointError, match="other data"):
        train("tiny", corpus, experiment, tmp_path / "second", tmp_path)


def test_finished_weights_are_not_taken_for_the_beginning_of_a_training(
    corpus: Corpus, experiment: Experiment, tmp_path: Path
) -> None:
    train("tiny", corpus, experiment, tmp_path / "first", tmp_path)
    before = fingerprint(load("tiny", "two-speakers", tmp_path).model)
    again = train("tiny", corpus, experiment, tmp_path / "second", tmp_path)
    assert again["history"][0]["step"] == 0
    assert fingerprint(load("tiny", "two-speakers", tmp_path).model) == before


@pytest.mark.parametrize("name", find("two-speakers-dense").models)
def test_models_in_training_mode_are_the_same_with_fast_depthwise_layers(name: str) -> None:
    model = zoo.build(name).double().train()
    same = copy.deepcopy(model)
    mixture = torch.randn(1, 1600, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = model(mixture)
    with fast_depthwise():
        found = same(mixture)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)
    expected.square().sum().backward()
    found.square().sum().backward()
    for one, two in zip(model.parameters(), same.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        if one.grad is not None and two.grad is not None:
            assert torch.allclose(one.grad, two.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", find("two-speakers-dense").models)
def test_committed_weights_say_how_far_they_are(name: str) -> None:
    if not weights_of(name, "two-speakers", FOLDER).exists():
        pytest.skip(f"no weights of {name} in {FOLDER}")
    told = load(name, "two-speakers").description
    assert told["steps"] > 0 and told["machine"] and len(told["data_sha256"]) == 64
