"""A progress line: ``rich`` where it is installed, nothing where it is not."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["StepBar", "progress_line"]


@contextmanager
def progress_line(
    title: str, total: int, show: bool = True, start: int = 0
) -> Iterator[Callable[[int, str], None]]:
    """Show how far a loop is.

    Args:
        title: What is going on.
        total: Number of steps.
        show: Whether to show anything; nothing is shown where stderr is no terminal.
        start: Steps that were done before.

    Yields:
        A function (steps done, text).
    """
    if not show or importlib.util.find_spec("rich") is None:
        yield lambda done, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Remaining(),
        TextColumn("{task.fields[text]}"),
    )
    console = Console(stderr=True)
    with Progress(
        *columns,
        console=console,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),  # elsewhere it is a result, and not to be moved
    ) as progress:
        task = progress.add_task(title, total=total, completed=start, text="")
        yield lambda done, text: progress.update(task, completed=done, text=text)


class StepBar:
    """A progress line with the three methods of tqdm that the recovery calls."""

    def __init__(self, show: Callable[[int, str], None], start: int = 0) -> None:
        self._show, self._done, self._texts = show, start, ["", ""]

    def update(self, steps: int) -> None:
        """Add steps that were done."""
        self._done += steps
        self._show(self._done, "  ".join(text for text in self._texts if text))

    def set_description_str(self, text: str, refresh: bool = True) -> None:
        """What was measured last; shown with the next step."""
        self._texts[0] = text.removeprefix("recovery, ")

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """What the last step gave; shown with the next step."""
        self._texts[1] = text
