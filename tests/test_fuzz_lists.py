"""Whatever a data list holds, it is read or refused with an error of ours."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("soundfile")
pytest.importorskip("hypothesis")

from data_trees import RATE, mixtures, write_audio, write_lists, write_metadata
from fuzzing import COUNTS, Reader, check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import csv_changed, json_changed

from sepprune_tp.data import open_mixtures
from sepprune_tp.errors import DataError, SepPruneError

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


# -- valid lists made wrong -----------------------------------------------------------------------


def sizes(folder: Path) -> int:
    data = open_mixtures(folder, "test", sample_rate=RATE)
    return sum(4 * part.numel() for index in range(len(data)) for part in data[index])


def reader_of(root: Path, kind: str) -> Reader:
    """Of one list among others that are as they should be."""
    if kind == "metadata":

        def read_metadata(path: Path) -> int:
            with replaced(root / "csv", {CSV: path.read_bytes()}):
                return sizes(root / "csv")

        return Reader(kind, [(root / "csv" / CSV).read_bytes()], read_metadata, csv_changed)

    def read_list(path: Path) -> int:
        data = path.read_bytes()
        with replaced(root / "json" / "tt", {f"{PARTS[len(data) % 3]}.json": data}):
            return sizes(root / "json")

    files = [(root / "json" / "tt" / f"{part}.json").read_bytes() for part in PARTS]
    return Reader(kind, files, read_list, json_changed, (b"[[", b'[["a", 1'))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["JSON list", "metadata"])
@pytest.mark.timeout(1800)
def test_readers_keep_the_law(root: Path, kind: str, count: int, tmp_path: Path) -> None:
    check(reader_of(root, kind), tmp_path, count)


# -- by hand --------------------------------------------------------------------------------------


def listed(root: Path, *paths: str, audio_root: Path | None = None) -> str:
    """What is said of a list of mixtures at these paths; nothing if it is read."""
    entries = json.dumps([[path, 80] for path in paths]).encode()
    names = ("mix_clean.json", "s1.json", "s2.json")
    with replaced(root / "json" / "tt", dict.fromkeys(names, entries)):
        try:
            open_mixtures(root / "json", "test", sample_rate=RATE, audio_root=audio_root)
        except DataError as error:
            return str(error)
    return ""


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "../../../../../../../../etc/passwd",
        "x/../../../etc/passwd",
        "..",
        "a\0b",
    ],
)
def test_paths_that_climb(root: Path, path: str) -> None:
    for audio_root in (None, root / "audio"):
        said = listed(root, path, audio_root=audio_root)
        assert "by way of '..' is refused" in said or "do not exist" in said


def test_files_that_are_no_audio_and_devices(root: Path) -> None:
    assert "Cannot read /etc/passwd" in listed(root, "/etc/passwd")
    for path in ("/dev/zero", "/dev/stdin", "/proc/self/fd", "/"):
        assert "do not exist" in listed(root, path)


def test_what_is_outside_of_audio_root(root: Path, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside" / "x", tmp_path / "outside.wav"
    inside.mkdir(parents=True)
    shutil.copy(root / "audio" / "s1" / "00.wav", outside)
    assert listed(root, str(outside)) == ""  # without a root, lists name files anywhere
    for path in (str(outside), "/x/outside.wav"):
        assert "do not exist" in listed(root, path, audio_root=inside.parent)
    (inside / "link.wav").symlink_to(outside)
    assert listed(root, str(inside / "link.wav")) == ""
    for path in (str(inside / "link.wav"), "/old/x/link.wav"):
        said = listed(root, path, audio_root=inside.parent)
        assert "a link that leads out of it does not count" in said
    shutil.copy(outside, inside / "file.wav")
    (inside / "good.wav").symlink_to("file.wav")
    for path in ("/old/x/file.wav", "/old/x/good.wav", str(inside / "file.wav")):
        assert listed(root, path, audio_root=inside.parent) == ""


@pytest.mark.parametrize("count", [20_000, pytest.param(333_334, marks=pytest.mark.slow)])
def test_a_million_entries(root: Path, count: int) -> None:
    began = time.monotonic()
    said = listed(root, *["/no/x.wav"] * count)
    assert said.startswith(f"{3 * count} listed file(s) do not exist") and len(said) < 2000
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("text", [b"\xff\xfe", b'[["\xff.wav", 80]]', b"\0", "[]".encode("utf-16")])
def test_lists_that_are_not_utf_8(root: Path, text: bytes) -> None:
    with replaced(root / "json" / "tt", {"s1.json": text}):
        assert not read_all(root / "json", None)
    with replaced(root / "csv", {CSV: text}):
        assert not read_all(root / "csv", None)
