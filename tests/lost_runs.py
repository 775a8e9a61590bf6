"""Commands in processes of their own that are killed or interrupted at a chosen point.

The processes are forked from a server that has imported everything, so each starts at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["sepprune_tp.cli", "sepprune_tp.commands", "sepprune_tp.recovery.loop", "asteroid.models"]
)

Point = tuple[str, int]
"""A function by its dotted name (``module:attribute.attribute``), and which call of it."""


class Run:
    """A command under way.

    Args:
        arguments: Of ``sepprune``.
        log: File for what it prints.
        at: When to send itself signals.
        signals: Which.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        log: Path,
        at: Point | None = None,
        signals: Sequence[int] = (signal.SIGKILL,),
    ) -> None:
        self.log = log
        given = ([str(word) for word in arguments], str(log), at, list(signals))
        self.process = _SERVER.Process(target=_work, args=given)
        self.process.start()

    def wait(self, seconds: float = 120) -> int:
        """The exit status; minus the signal's number if one killed it."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"it did not end:\n{self.said()}")
        assert self.process.exitcode is not None
        return self.process.exitcode

    def wait_for(self, path: Path, seconds: float = 120) -> None:
        """Until a file is there."""
        end = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < end and self.process.is_alive(), self.said()
            time.sleep(0.005)

    def said(self) -> str:
        """All that it printed."""
        return self.log.read_text() if self.log.exists() else ""


def _work(arguments: list[str], log: str, at: Point | None, signals: list[int]) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    torch.set_num_threads(1)
    from sepprune_tp.cli import main

    if at is not None:
        _arm(at, signals)
    status = main(arguments)
    sys.stdout.flush()
    os._exit(status)


def _arm(at: Point, signals: list[int]) -> None:
    """Let one call of a function begin with signals to its own process."""
    place, number = at
    module, _, path = place.partition(":")
    owner: Any = import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original, calls = getattr(owner, name), 0

    def armed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            for which in signals:
                os.kill(os.getpid(), which)
        return original(*args, **kwargs)

    setattr(owner, name, armed)
