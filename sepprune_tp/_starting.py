"""The command line starts without torch: help, completion and usage errors need none of it.

Python imports a package before its modules, so ``sepprune_tp.cli`` would wait seconds for all of
``sepprune_tp``. In a process that *is* the command line, and in no other, the package puts its own
imports off until a command asks for them.
"""

from __future__ import annotations

import importlib
import sys
from itertools import pairwise
from pathlib import PurePath

__all__ = ["complete", "is_put_off"]

_PROGRAMS = {"sepprune", "sepprune.exe", "sepprune-script.py"}
_MODULE = "sepprune_tp.cli"
_done = False


def is_put_off() -> bool:
    """Whether the package waits for :func:`complete` with its imports."""
    return not _done and _is_command_line()


def complete() -> None:
    """Import all of the package; what it does to torch-pruning and Asteroid is done then."""
    global _done
    if is_put_off():
        _done = True
        importlib.reload(sys.modules["sepprune_tp"])


def _is_command_line() -> bool:
    """Whether this process was started as ``sepprune`` or ``python -m sepprune_tp.cli``.

    Processes that a search on several devices starts are given its ``sys.argv``, but were not
    started by it; they import what they need.
    """
    script = sys.argv[0] if sys.argv else ""
    started = PurePath(script).name in _PROGRAMS and script in sys.orig_argv
    return started or ("-m", _MODULE) in pairwise(sys.orig_argv)
