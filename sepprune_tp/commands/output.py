"""What a command prints, and where: results on stdout, all else on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sepprune_tp.errors import InputError

__all__ = [
    "as_json",
    "console",
    "document",
    "note",
    "plain",
    "printing",
    "progress",
    "say",
    "show",
    "visible",
    "watched",
]

console = Console()
_WIDE = 1000  # characters; names are not to be cut where nothing limits a line


@dataclass
class _Printing:
    """How the present command prints."""

    json: bool = False
    quiet: bool = False


_now = _Printing()


@contextmanager
def printing(json: bool, quiet: bool) -> Iterator[None]:
    """Print as a command was told to, until it ends.

    With ``json``, what others print to stdout (exporters, child processes) goes to stderr.
    """
    before = (_now.json, _now.quiet)
    _now.json, _now.quiet = json, quiet
    try:
        if json:
            with _stdout_elsewhere():
                yield
        else:
            yield
    finally:
        _now.json, _now.quiet = before


def as_json() -> bool:
    """Whether the result is a JSON document instead of text."""
    return _now.json


def visible() -> bool:
    """Whether progress is shown: on a terminal, unless ``--quiet``."""
    return not _now.quiet and sys.stderr.isatty()


def say(text: str) -> None:
    """Print a line of the result as it is: no markup, no wrapping, so that paths can be copied."""
    if not _now.json:
        print(text)


def show(renderable: Any) -> None:
    """Print a table of the result; elsewhere than on a terminal as wide as it is."""
    if not _now.json:
        narrow = console.is_terminal or "COLUMNS" in os.environ
        (console if narrow else Console(width=_WIDE)).print(renderable)


def note(text: str) -> None:
    """Print on stderr what helps, but is not the result; nothing with ``--quiet``."""
    if not _now.quiet:
        print(text, file=sys.stderr)


def document(result: Any, file: Path | None = None) -> None:
    """Write a command's result as one JSON document, to stdout or to a file.

    Raises:
        InputError: If the file holds something else than JSON.
    """
    text = json.dumps(plain(result), indent=2, allow_nan=False)
    if file is None:
        print(text)
        return
    from sepprune_tp.reporting.files import write_text

    check_replaceable(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text + "\n")


def check_replaceable(file: Path) -> None:
    """Refuse to write JSON over a file that holds something else, such as a model."""
    if file.is_dir():
        raise InputError(f"--json-out {file} is a folder; give a file name.")
    if file.is_file():
        with file.open("rb") as opened:
            start = opened.read(64).lstrip()
        if start and not start.startswith((b"{", b"[")):
            raise InputError(
                f"--json-out {file} exists and holds no JSON. Give another name, or delete it."
            )


def plain(value: Any) -> Any:
    """Plain data that JSON holds: names for paths, None for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """A bar with the time left, where progress is shown.

    Yields:
        A function (steps done, text).
    """
    from sepprune_tp.search.progress import progress_line

    with progress_line(title, total, visible()) as advance:
        yield advance


@contextmanager
def watched(items: Any, title: str) -> Iterator[Any]:
    """The same data set, with a bar that moves as its items are read in order; None stays so."""
    if items is None:
        yield None
        return
    with progress(title, len(items)) as advance:
        yield _Watched(items, advance)
        advance(len(items), "")


class _Watched:
    """A data set that says which of its items is being read."""

    def __init__(self, items: Any, advance: Callable[[int, str], None]) -> None:
        self._items, self._advance = items, advance

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        self._advance(index, "")
        return self._items[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._items, name)


@contextmanager
def _stdout_elsewhere() -> Iterator[None]:
    """Send stdout to stderr, that of C libraries and child processes as well."""
    with redirect_stdout(sys.stderr):
        if sys.__stdout__ is None or sys.__stderr__ is None:
            yield
            return
        try:
            one, two = sys.__stdout__.fileno(), sys.__stderr__.fileno()
            sys.__stdout__.flush()
            kept = os.dup(one)
        except (OSError, ValueError):  # a stream without a file
            yield
            return
        try:
            os.dup2(two, one)
            yield
        finally:
            os.dup2(kept, one)
            os.close(kept)
