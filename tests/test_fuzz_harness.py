"""Negative controls: the hunt notices readers that break the law, each in its own way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzzing import Reader, hunt
from mutations import MARK, bytes_changed

from sepprune_tp.errors import DataError

VALID = b"a valid file of 24 bytes"


def crashes(path: Path) -> int:
    return {VALID: 1}[path.read_bytes()]


def hangs(path: Path) -> int:
    while path.read_bytes() != VALID:
        time.sleep(0.01)
    return 0


def swallows(path: Path) -> int:
    """Asks for memory without end, and calls that an error of the file."""
    try:
        return len(bytearray(0 if path.read_bytes() == VALID else 1 << 50)) and 0
    except MemoryError as error:
        raise DataError("the file is broken") from error


def fills(path: Path) -> int:
    """Uses more memory than it gives."""
    return 0 if path.read_bytes() == VALID else len(b"x" * (40 << 20)) and 0


def gives(path: Path) -> int:
    return 0 if path.read_bytes() == VALID else 1 << 40


def leaves(path: Path) -> int:
    if path.read_bytes() != VALID:
        (path.parent / "left").mkdir(exist_ok=True)
    return 0


def executes(path: Path) -> int:
    if path.read_bytes() != VALID:
        os.mkdir(MARK)
    return 0


def talks(path: Path) -> int:
    if path.read_bytes() != VALID:
        raise DataError("x" * 5000)
    return 0


def opens(path: Path) -> int:
    os.open(path, os.O_RDONLY)
    return 0


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (crashes, "KeyError"),
        (swallows, "for want of memory"),
        (fills, "needed "),
        (gives, "gave 1099511627776 bytes"),
        (leaves, "left behind"),
        (executes, "was executed"),
        (talks, "said 5000 characters"),
        (opens, "leaves files open"),
    ],
)
def test_what_breaks_the_law_is_found(
    tmp_path: Path, read: Callable[[Path], int], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuzzing.MEMORY", 20 << 20)
    reader = Reader(read.__name__, [VALID], read, bytes_changed)
    counts = hunt(reader, tmp_path, 12)
    assert said in "\n".join(counts.broken)


def test_a_reader_that_hangs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzing.SECONDS", 0.2)
    counts = hunt(Reader("hangs", [VALID], hangs, bytes_changed), tmp_path, 3)
    assert "took more than" in counts.broken[0]


def test_a_reader_of_nothing_fails_its_own_files(tmp_path: Path) -> None:
    def refuses(path: Path) -> int:
        raise DataError("no")

    with pytest.raises(AssertionError, match="valid file 0"):
        hunt(Reader("refuses", [VALID], refuses, bytes_changed), tmp_path, 3)
