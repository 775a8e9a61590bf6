"""Broken data lists: entries that lie, files that are missing or no audio, each named."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("soundfile")

from data_trees import (
    RATE,
    error_of,
    mixtures,
    opened,
    write_audio,
    write_lists,
    write_metadata,
    write_wav,
)

from sepprune_tp.data import open_mixtures
from sepprune_tp.errors import DataError, InputError


class TestBrokenJson:
    @pytest.fixture
    def lists(self, tmp_path: Path) -> Path:
        write_lists(tmp_path / "tt", write_audio(tmp_path / "audio", mixtures(3)))
        return tmp_path

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", "cannot be read as JSON"),
            ("[[1, 2", "cannot be read as JSON"),
            ("\udcff", "cannot be read as JSON"),
            ("[" * 100_000, r"cannot be read as JSON \(RecursionError"),
            (f'[["a", {"9" * 5000}]]', "cannot be read as JSON"),
            ("{}", "holds a dict, expected a list"),
            ("null", "holds a NoneType, expected a list"),
            ("[]", "is an empty list"),
            ('["a.wav"]', r"Entry 0 .* is 'a.wav', expected \[path, samples\]"),
            ('[["a.wav"]]', "Entry 0"),
            ('[["a.wav", "mouth.npz", 9]]', "Entry 0"),
            ("[[7, 9]]", r"Entry 0 .* is \[7, 9\]"),
            ('[["", 9]]', "Entry 0"),
            ('[["a.wav", NaN]]', "Entry 0 .* nan"),
            ('[["a.wav", 1e999]]', "Entry 0 .* inf"),
            ('[["a.wav", true]]', "Entry 0"),
            ('[["a.wav", 0]]', "above 0"),
            ('[["a.wav", 4000]]', "3 entries, .*s1.json|s1.json has 1 entries, .*mix.json 3"),
        ],
    )
    def test_is_named(self, lists: Path, text: str, expected: str) -> None:
        path = lists / "tt" / "s1.json"
        path.write_bytes(text.encode(errors="surrogateescape"))
        said = error_of(lists)
        assert re.search(expected, said) and str(path) in said, said

    def test_lengths_that_do_not_match(self, lists: Path) -> None:
        path = lists / "tt" / "s2.json"
        path.write_text(json.dumps(json.loads(path.read_text())[::-1]))
        assert "Entry 0 of" in (said := error_of(lists))
        assert "has 4020 samples, its mixture in mix.json 4000" in said

    def test_no_sources(self, lists: Path) -> None:
        (lists / "tt" / "s1.json").unlink()
        assert "has mix.json, but no s1.json" in error_of(lists)

    def test_strange_paths_are_missing_files(self, lists: Path) -> None:
        for text in ("\0", "\ud800", "x" * 5000, "/", ".", "/dev/zero", str(lists)):
            entries = json.loads((lists / "tt" / "mix.json").read_text())
            entries[1][0] = text
            (lists / "tt" / "mix.json").write_text(json.dumps(entries))
            said = error_of(lists)
            assert "1 listed file(s) do not exist, the first being entry 1" in said
            assert len(said) < 1000 and said.isprintable()


class TestBrokenCsv:
    @pytest.fixture
    def metadata(self, tmp_path: Path) -> Path:
        path = tmp_path / "csv" / "mixture_test_mix_clean.csv"
        write_metadata(path, write_audio(tmp_path / "audio", mixtures(3), "mix_clean"))
        return path

    def change(self, path: Path, row: int, column: int, text: str) -> None:
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        rows[row][column] = text
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)

    @pytest.mark.parametrize("column", [1, 2, 4])
    def test_missing_columns(self, metadata: Path, column: int) -> None:
        self.change(metadata, 0, column, "other")
        said = error_of(metadata.parent)
        assert str(metadata) in said and "expected mixture_path, source_1_path" in said

    @pytest.mark.parametrize("text", ["", "long", "nan", "inf", "-3", "0", "1e999", "7.5"])
    def test_bad_lengths(self, metadata: Path, text: str) -> None:
        self.change(metadata, 2, 4, text)
        said = error_of(metadata.parent)
        assert f"Entry 1 of {metadata} has the length {text!r}" in said

    def test_lengths_as_floats(self, metadata: Path) -> None:
        self.change(metadata, 1, 4, "4000.0")
        assert len(opened(metadata.parent)) == 3

    def test_empty_paths(self, metadata: Path) -> None:
        self.change(metadata, 3, 3, "")
        assert f"Entry 2 of {metadata} has no source_2_path" in error_of(metadata.parent)

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"", "lists no mixtures"),
            (b"mixture_path,source_1_path,length\n", "lists no mixtures"),
            (b"mixture_path,source_1_path,length\na,b\n", "Entry 0 .* has 2 cells, its header 3"),
            (b"mixture_path,source_1_path,length\na,b,3,4\n", "4 cells"),
            (b"mixture_path\xff,x\n", "cannot be read as CSV"),
            (b'mixture_path,source_1_path,length\n"a" b,c,3\n', "cannot be read as CSV"),
            (b"mixture_path\n" + b"a" * 200_000, "cannot be read as CSV"),
        ],
    )
    def test_is_named(self, metadata: Path, data: bytes, expected: str) -> None:
        metadata.write_bytes(data)
        said = error_of(metadata.parent)
        assert re.search(expected, said) and str(metadata) in said, said

    def test_leaving_the_folder_is_refused(self, metadata: Path) -> None:
        self.change(metadata, 1, 2, "../audio/s1/00.wav")
        assert "Entry 0 of" in (said := error_of(metadata.parent))
        assert "source_1_path is '../audio/s1/00.wav': a relative path that leaves" in said

    def test_a_byte_order_mark_is_no_part_of_a_name(self, metadata: Path) -> None:
        text = metadata.read_text().replace("mixture_ID,mixture_path", "mixture_path,mixture_ID")
        rows = [line.split(",") for line in text.splitlines()]
        swapped = [rows[0], *([row[1], row[0], *row[2:]] for row in rows[1:])]
        metadata.write_text("\n".join(map(",".join, swapped)), encoding="utf-8-sig")
        assert len(opened(metadata.parent)) == 3


class TestBrokenAudio:
    """What lists name is as untrusted as the lists; all readers share this code."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> dict[str, list[Path]]:
        files = write_audio(tmp_path / "audio", mixtures(3))
        write_lists(tmp_path / "tt", files)
        return files

    @pytest.mark.parametrize("entry", [0, 2])
    def test_rate_channels_and_length(
        self, tmp_path: Path, files: dict[str, list[Path]], entry: int
    ) -> None:
        path = files["s2"][entry]
        noise = 0.1 * torch.ones(4000 + 10 * entry)
        for signal, rate, expected in [
            (noise, 16000, "1 channel(s) at 16000 Hz; this needs 1 at 8000 Hz"),
            (torch.stack([noise, noise], 1), RATE, "2 channel(s) at 8000 Hz"),
            (noise[:-5], RATE, f"{3995 + 10 * entry} samples, its mixture"),
            (torch.nan * noise, RATE, "holds NaN or infinity"),
            (0 * noise, RATE, "is silent all through"),
        ]:
            write_wav(path, signal, rate)
            said = error_of(tmp_path)
            assert str(path) in said and expected in said, said

    def test_a_wrong_rate_is_found_on_opening(
        self, tmp_path: Path, files: dict[str, list[Path]]
    ) -> None:
        with pytest.raises(DataError, match="this needs 1 at 16000 Hz"):
            open_mixtures(tmp_path, "test", sample_rate=16000)

    def test_no_audio_at_all(self, tmp_path: Path, files: dict[str, list[Path]]) -> None:
        files["s1"][1].write_bytes(b"no audio")
        assert f"Cannot read {files['s1'][1]}" in error_of(tmp_path)
        raw = files["s1"][1].rename(files["s1"][1].with_suffix(".raw"))
        write_lists_as(tmp_path / "tt" / "s1.json", 1, raw)
        assert f"Cannot read {raw}" in error_of(tmp_path)

    def test_a_truncated_file(self, tmp_path: Path, files: dict[str, list[Path]]) -> None:
        path = files["s1"][1]
        path.write_bytes(path.read_bytes()[:4000])
        assert str(path) in error_of(tmp_path)

    def test_numbers_out_of_range(self, tmp_path: Path, files: dict[str, list[Path]]) -> None:
        for bad in ({"seconds": 0.0}, {"seconds": float("nan")}, {"seed": -1}, {"limit": 0}):
            with pytest.raises(InputError, match=next(iter(bad))):
                opened(tmp_path, **bad)


def write_lists_as(path: Path, entry: int, audio: Path) -> None:
    """Name another file in a list."""
    entries = json.loads(path.read_text())
    entries[entry][0] = str(audio)
    path.write_text(json.dumps(entries))
