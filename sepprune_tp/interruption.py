"""Ctrl-C and SIGTERM: a loop ends its step and writes its state before it goes.

In a loop the first signal is noted and asked for between steps; a second one ends the process's
work at once. What is raised is a ``KeyboardInterrupt`` in both cases, for SIGTERM too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = [
    "Interrupted",
    "Stop",
    "interrupt_behind",
    "passed_on",
    "raising_on_termination",
    "stoppable",
]

Handler = Any
_PATIENCE = 60.0  # seconds that a process has to end its step


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; the text says what was done and what is kept.

    Attributes:
        signal: Number of the signal.
    """

    def __init__(self, text: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(text)
        self.signal = int(number)


class Stop:
    """Whether the user asked for an end.

    Attributes:
        signal: Number of the signal that came, 0 if none did.
    """

    def __init__(self) -> None:
        self.signal: int = 0

    def __bool__(self) -> bool:
        """Whether a signal came."""
        return self.signal != 0

    def reason(self, text: str) -> Interrupted:
        """What to raise, with what to tell the user."""
        return Interrupted(text, self.signal or signal.SIGINT)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Note Ctrl-C and SIGTERM rather than be ended by them, while the block runs.

    Signals that someone handles already in a way of his own are left to him; so are all of them
    outside of the main thread. Who gets SIGTERM and asked for nothing is ended by it as ever, once
    the block has ended.

    Yields:
        Ask it between steps. The same signal again raises :class:`Interrupted` wherever the program
        is.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.signal == number:
            raise Interrupted("", number)
        stop.signal = stop.signal or number

    saved: dict[int, Handler] = {}
    fatal = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    known: dict[int, tuple[Handler, ...]] = {
        signal.SIGINT: (signal.default_int_handler,),
        signal.SIGTERM: (signal.SIG_DFL, _terminate),
    }
    for which, handlers in known.items():
        if signal.getsignal(which) in handlers:
            saved[which] = signal.signal(which, handle)
    try:
        yield stop
    finally:
        for which, handler in saved.items():
            signal.signal(which, handler)
        if fatal and stop.signal == signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def raising_on_termination() -> Iterator[None]:
    """Let SIGTERM raise :class:`Interrupted`, so that files are cleaned up; for a main program."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def passed_on() -> Iterator[None]:
    """Tell processes that were started in the block of a signal that this one got, and wait.

    From a terminal they get it, too; so they are told by the other of the two signals, for the same
    one twice would end them in the middle of a step.
    """
    before = set(multiprocessing.active_children())
    try:
        yield
    except KeyboardInterrupt as interrupt:
        got = getattr(interrupt, "signal", signal.SIGINT)
        other = signal.SIGINT if got == signal.SIGTERM else signal.SIGTERM
        children = set(multiprocessing.active_children()) - before
        for child in children:
            if child.pid is not None and child.is_alive():
                os.kill(child.pid, other)
        for child in children:
            child.join(_PATIENCE)
            if child.is_alive():
                child.kill()
        raise


def interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The interrupt that made a library leave the program, if it was one."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, KeyboardInterrupt):
        link = link.__cause__ or link.__context__
    return link


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Interrupted("", number)
