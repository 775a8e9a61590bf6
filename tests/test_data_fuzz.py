"""Whatever a data list holds, it is read or refused with an error of ours."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("soundfile")
pytest.importorskip("hypothesis")

from data_trees import RATE, mixtures, write_audio, write_lists, write_metadata
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sepprune_tp.data import open_mixtures
from sepprune_tp.errors import SepPruneError

CSV = "mixture_test_mix_clean.csv"
PARTS = ("mix_clean", "s1", "s2")
often = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """Two mixtures, and lists of both kinds that are as they should be."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_audio(folder / "audio", mixtures(2, seconds=0.01), "mix_clean")
        write_lists(folder / "json" / "tt", files)
        write_metadata(folder / "csv" / "mixture_test_mix_clean.csv", files)
        yield folder


@contextmanager
def replaced(folder: Path, contents: dict[str, bytes]) -> Iterator[None]:
    """Files with other contents for the time of a ``with``."""
    old = {folder / name: (folder / name).read_bytes() for name in contents}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    try:
        yield
    finally:
        for path, content in old.items():
            path.write_bytes(content)


def read_all(folder: Path, audio_root: Path | None) -> bool:
    """Whether everything could be read; only our own errors may say that it cannot."""
    try:
        data = open_mixtures(folder, "test", sample_rate=RATE, audio_root=audio_root)
        for index in range(len(data)):
            mixture, sources = data[index]
            assert sources.shape == (data.n_src, *mixture.shape)
    except SepPruneError as error:
        assert len(str(error)) < 2000
        return False
    return True


PATHS = st.one_of(
    st.sampled_from(["s1/00.wav", "mix_clean/01.wav", "/x/s2/00.wav", "../a", "..", "/", "", "\0"]),
    st.text(max_size=8),
    st.text("./\\~a\0", max_size=12),
)
NUMBERS = st.one_of(st.just(80), st.integers(), st.floats(), st.booleans(), st.none())
VALUES = st.recursive(
    st.one_of(PATHS, NUMBERS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(PATHS, inner, max_size=3)),
    max_leaves=8,
)
ENTRIES = st.one_of(st.tuples(PATHS, NUMBERS), st.tuples(PATHS, st.just(80)), VALUES)
LISTS = st.one_of(st.lists(ENTRIES, max_size=3), st.lists(st.tuples(PATHS, st.just(80))), VALUES)


@often
@given(
    lists=st.dictionaries(st.sampled_from(PARTS), LISTS, min_size=1, max_size=3),
    moved=st.booleans(),
)
def test_json_of_any_shape(root: Path, lists: dict[str, Any], moved: bool) -> None:
    texts = {part: json.dumps(value).encode() for part, value in lists.items()}
    with replaced(root / "json" / "tt", {f"{part}.json": text for part, text in texts.items()}):
        read_all(root / "json", root / "audio" if moved else None)


@often
@given(
    part=st.sampled_from(PARTS),
    text=st.one_of(
        st.binary(max_size=60),
        st.text('[]{}",:0123456789eE+-.NaInfity \\u', max_size=60).map(str.encode),
        st.integers(1, 50_000).map(lambda depth: b"[" * depth),
    ),
)
def test_json_of_any_text(root: Path, part: str, text: bytes) -> None:
    with replaced(root / "json" / "tt", {f"{part}.json": text}):
        assert not read_all(root / "json", None)


HEADER = ("mixture_ID", "mixture_path", "source_1_path", "source_2_path", "length")
CELLS = st.one_of(PATHS, st.floats().map(str), st.just("80"))
ROWS = st.one_of(st.lists(CELLS, min_size=5, max_size=5), st.lists(CELLS))


@often
@given(
    header=st.one_of(st.just(HEADER), st.permutations(HEADER), st.lists(CELLS, max_size=6)),
    rows=st.lists(ROWS, max_size=3),
    moved=st.booleans(),
)
def test_csv_of_any_shape(
    root: Path, header: list[str], rows: list[list[str]], moved: bool
) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    with replaced(root / "csv", {CSV: text.getvalue().encode(errors="surrogatepass")}):
        read_all(root / "csv", root / "audio" if moved else None)


@often
@given(text=st.binary(max_size=80) | st.text(',"\n\r0 a/.', max_size=80).map(str.encode))
def test_csv_of_any_text(root: Path, text: bytes) -> None:
    start = ",".join(HEADER).encode() + b"\n"
    for whole in (text, start + text):
        with replaced(root / "csv", {CSV: whole}):
            assert not read_all(root / "csv", None)


def test_the_lists_themselves_are_read(root: Path) -> None:
    """The negative control."""
    for folder in (root / "json", root / "csv"):
        assert read_all(folder, None) and read_all(folder, root / "audio")
