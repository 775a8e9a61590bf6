"""Data lists: Asteroid's and Look2Hear's JSON and LibriMix's CSV, moved audio."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("soundfile")

from data_trees import (
    RATE,
    Written,
    assert_reads,
    error_of,
    mixtures,
    opened,
    write_audio,
    write_lists,
    write_metadata,
)

SPLITS = ("train", "val", "test")
WHAM = ("tr", "cv", "tt")
LIBRI = ("train-360", "dev", "test")


class Layout:
    """Three splits of different mixtures under one folder."""

    def __init__(self, folder: Path, names: tuple[str, ...], mix: str = "mix_clean") -> None:
        self.folder, self.names, self.mix = folder, names, mix
        self.written = {
            name: mixtures(2 + number, seed=number) for number, name in enumerate(names)
        }
        self.audio = {
            name: write_audio(folder / "audio" / name, written, mix)
            for name, written in self.written.items()
        }


def wham_audio(folder: Path) -> tuple[Path, list[Written]]:
    made = Layout(folder, WHAM)
    return folder / "audio", list(made.written.values())


def lrs2_audio(folder: Path) -> tuple[Path, list[Written]]:
    made = Layout(folder, WHAM, "mix")
    return folder / "audio", list(made.written.values())


def asteroid_json(folder: Path) -> tuple[Path, list[Written]]:
    made = Layout(folder, WHAM)
    for name in WHAM:
        write_lists(folder / "lists" / name, made.audio[name])
    return folder / "lists", list(made.written.values())


def look2hear_json(folder: Path) -> tuple[Path, list[Written]]:
    made = Layout(folder, ("train", "val", "test"), "mix")
    for name in made.names:
        write_lists(folder / "lists" / name, made.audio[name])
    return folder / "lists", list(made.written.values())


def asteroid_csv(folder: Path) -> tuple[Path, list[Written]]:
    made = Layout(folder, LIBRI)
    for name in LIBRI:
        path = folder / "data/wav8k/min" / name / f"mixture_{name}_mix_clean.csv"
        write_metadata(path, made.audio[name])
    return folder / "data/wav8k/min", list(made.written.values())


def librimix_metadata(folder: Path) -> tuple[Path, list[Written]]:
    made = Layout(folder, LIBRI)
    for name in LIBRI:
        path = folder / "metadata" / f"mixture_{name}_mix_clean.csv"
        write_metadata(path, made.audio[name])
        (folder / "metadata" / f"metrics_{name}_mix_clean.csv").write_text("mixture_ID,SNR\n0,3\n")
    return folder / "metadata", list(made.written.values())


def librimix_above_metadata(folder: Path) -> tuple[Path, list[Written]]:
    metadata, written = librimix_metadata(folder)
    return metadata.parent, written


LAYOUTS = [
    wham_audio,
    lrs2_audio,
    asteroid_json,
    look2hear_json,
    asteroid_csv,
    librimix_metadata,
    librimix_above_metadata,
]
Make = Callable[[Path], tuple[Path, list[Written]]]


@pytest.mark.parametrize("make", LAYOUTS)
def test_every_layout_gives_what_was_written(make: Make, tmp_path: Path) -> None:
    folder, splits = make(tmp_path)
    for split, written in zip(SPLITS, splits, strict=True):
        data = opened(folder, split)
        assert data.sample_rate == RATE and data.n_src == 2
        assert_reads(data, written)
    assert_reads(opened(folder, "test", limit=1), splits[-1][:1])


@pytest.mark.parametrize("make", LAYOUTS)
def test_every_layout_gives_the_same_segments_every_time(make: Make, tmp_path: Path) -> None:
    folder, splits = make(tmp_path)
    first, again, other = (opened(folder, "train", seconds=0.25, seed=s) for s in (1, 1, 2))
    assert len(first) > 1000 and len(opened(folder, "val", seconds=0.25)) == 64
    _ = first[1]
    mixture, sources = first[5]
    assert mixture.shape == (2000,) and sources.shape == (2, 2000)
    assert torch.equal(sources, again[5][1]) and not torch.equal(sources, other[5][1])
    wholes = [whole for whole, _ in splits[0]]
    assert any((whole.unfold(0, 2000, 1) == mixture).all(-1).any() for whole in wholes)
    padded = opened(folder, "train", seconds=1.0)[0][1]
    assert padded.shape == (2, RATE) and padded[:, 5000:].abs().max() == 0 < padded.abs().max()


def test_which_mixtures_are_read(tmp_path: Path) -> None:
    clean, both, single = mixtures(2), mixtures(2, seed=1), mixtures(2, n_src=1, seed=2)
    for kind, written in (("mix_clean", clean), ("mix_both", both), ("mix_single", single)):
        files = write_audio(tmp_path / kind, written, kind)
        write_metadata(tmp_path / "csv" / f"mixture_test_{kind}.csv", files, kind)
    assert_reads(opened(tmp_path / "csv"), clean)
    assert_reads(opened(tmp_path / "csv", mix="mix_both"), both)
    assert_reads(opened(tmp_path / "csv", mix="mix_single"), single)
    assert "mix_noisy.json" in error_of(tmp_path / "csv", mix="mix_noisy")

    lists = {
        kind: write_audio(tmp_path / "wham", both, kind) for kind in ("mix_both", "mix_single")
    }
    write_lists(tmp_path / "json", lists["mix_both"] | lists["mix_single"])
    assert_reads(opened(tmp_path / "json"), both)
    assert opened(tmp_path / "json", mix="mix_single").n_src == 1


def test_three_speakers_and_n_src(tmp_path: Path) -> None:
    written = mixtures(2, n_src=3)
    files = write_audio(tmp_path / "audio", written, "mix_clean")
    write_metadata(tmp_path / "csv" / "mixture_test_mix_clean.csv", files)
    write_lists(tmp_path / "json", files)
    for folder in (tmp_path / "audio", tmp_path / "csv", tmp_path / "json"):
        assert_reads(opened(folder, n_src=3), written)
        assert "have 3 sources, n_src=2 are wanted" in error_of(folder, n_src=2)


def test_lists_without_splits_are_split(tmp_path: Path) -> None:
    write_lists(tmp_path, write_audio(tmp_path / "audio", mixtures(20, seconds=0.01)))
    names = {s: {f.mixture.name for f in opened(tmp_path, s).files} for s in SPLITS}
    assert len(names["val"]) == 2 and not names["train"] & names["val"]
    assert names["train"] | names["val"] == names["test"]


class TestMovedAudio:
    @pytest.fixture
    def moved(self, tmp_path: Path) -> tuple[Path, Path, Written]:
        """Lists of both kinds, and where the audio went after they were made."""
        written = mixtures(3)
        files = write_audio(tmp_path / "old" / "wav8k" / "tt", written, "mix_clean")
        write_lists(tmp_path / "lists" / "tt", files)
        write_metadata(tmp_path / "lists" / "csv" / "mixture_test_mix_clean.csv", files)
        (tmp_path / "new").mkdir()
        shutil.move(tmp_path / "old" / "wav8k", tmp_path / "new" / "wav8k")
        return tmp_path / "lists", tmp_path / "new", written

    @pytest.mark.parametrize("end", ["", "wav8k", "wav8k/tt"])
    def test_the_longest_end_is_found(self, moved: tuple[Path, Path, Written], end: str) -> None:
        lists, root, written = moved
        assert_reads(opened(lists, audio_root=root / end), written)
        assert_reads(opened(lists / "csv", audio_root=str(root / end)), written)

    def test_the_longest_end_wins(self, moved: tuple[Path, Path, Written]) -> None:
        lists, root, written = moved
        write_audio(root, mixtures(3, seed=9), "mix_clean")  # root/s1/00.wav, a shorter end
        assert_reads(opened(lists, audio_root=root), written)

    def test_missing_files_are_counted(self, moved: tuple[Path, Path, Written]) -> None:
        lists, root, _ = moved
        said = error_of(lists)
        assert "9 listed file(s) do not exist, the first being entry 0 of" in said
        assert "old/wav8k/tt/mix_clean/00.wav" in said and "--audio-root" in said
        (root / "wav8k" / "tt" / "s2" / "01.wav").unlink()
        said = error_of(lists / "csv", audio_root=root)
        assert "1 listed file(s) do not exist, the first being entry 1 of" in said
        assert "source_2_path" in said and f"under {root} either" in said

    def test_bad_roots(self, moved: tuple[Path, Path, Written]) -> None:
        lists, root, _ = moved
        assert "cannot be listed" in error_of(lists, audio_root=root / "none")
        assert "cannot be listed" in error_of(lists, audio_root=lists / "tt" / "s1.json")
        assert "nothing that audio_root is for" in error_of(root / "wav8k", audio_root=root)


class TestRelativePaths:
    def write(self, folder: Path, start: str) -> Written:
        written = mixtures(2)
        files = write_audio(folder / "audio", written)
        relative = {
            part: [[f"{start}{part}/{path.name}", 4000 + 10 * i] for i, path in enumerate(paths)]
            for part, paths in files.items()
        }
        (folder / "tt").mkdir()
        for part, entries in relative.items():
            (folder / "tt" / f"{part}.json").write_text(json.dumps(entries))
        return written

    def test_from_the_list_or_the_root(self, tmp_path: Path) -> None:
        written = self.write(tmp_path, "")
        assert_reads(opened(tmp_path, audio_root=tmp_path / "audio"), written)
        shutil.copytree(tmp_path / "audio", tmp_path / "tt", dirs_exist_ok=True)
        for part in ("mix", "s1", "s2"):
            (tmp_path / "audio" / part / "00.wav").unlink()
        assert_reads(opened(tmp_path), written)

    def test_inner_dots_are_harmless(self, tmp_path: Path) -> None:
        written = self.write(tmp_path, "./x/../")
        assert_reads(opened(tmp_path, audio_root=tmp_path / "audio"), written)

    @pytest.mark.parametrize("start", ["../audio/", "x/../../audio/"])
    def test_leaving_the_folder_is_refused(self, tmp_path: Path, start: str) -> None:
        self.write(tmp_path, start)
        for root in (None, tmp_path):
            said = error_of(tmp_path, audio_root=root)
            assert re.search(r"Entry 0 of .*mix\.json is '.*audio/mix/00\.wav'", said)
            assert "by way of '..' is refused" in said
