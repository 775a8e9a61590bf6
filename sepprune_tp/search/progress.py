"""A progress line: ``rich`` where it is installed, nothing where it is not."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_line"]


@contextmanager
def progress_line(
    title: str, total: int, show: bool = True
) -> Iterator[Callable[[int, str], None]]:
    """Show how far a loop is.

    Args:
        title: What is going on.
        total: Number of steps.
        show: Whether to show anything.

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
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total, text="")
        yield lambda done, text: progress.update(task, completed=done, text=text)
