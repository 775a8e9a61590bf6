"""The command line: ``sepprune profile | prune | finetune | evaluate | separate | ...``."""

from __future__ import annotations

import errno
import json
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sepprune_tp.errors import SepPruneError, require
from sepprune_tp.interruption import interrupt_behind, raising_on_termination

if TYPE_CHECKING:
    from sepprune_tp.commands.running import Interrupted

__all__ = ["main"]

FAILED = 2
_SYSTEM = {
    errno.EACCES: "Give another path, or change the permissions.",
    errno.EPERM: "Give another path, or change the permissions.",
    errno.EROFS: "The file system is read-only: give another path.",
    errno.ENOSPC: "The disk is full: free some space, or write to another one.",
    errno.EDQUOT: "The quota is used up: free some space, or write to another disk.",
    errno.ENAMETOOLONG: "Give a shorter name.",
}
REPORT = (
    "This is a mistake in sepprune, not in what you did. Please report it with the lines above, "
    "the command, and what `sepprune --version` says."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; what went wrong is one message, not a traceback.

    With ``--json`` the message is a JSON object on stdout, ``{"error": ..., "kind": ...}``.

    Args:
        arguments: Without the program's name; those of the process if None.

    Returns:
        0, or 2 if the command failed for a reason that the user can mend, 130 if interrupted, 143
        if terminated (128 and the number of the signal).

    Raises:
        Exception: What only a mistake of ours causes; Python then prints a traceback with a line
            that asks to report it, and ends with 1.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    told = _Told("--json" in given)
    try:
        require("typer", "cli", "The command line")
        require("rich", "cli", "The command line")
        from sepprune_tp.commands import app
        from sepprune_tp.commands.running import Interrupted as Stopped
        from sepprune_tp.commands.running import wants_json
    except SepPruneError as error:
        return told.failure(error)
    told = _Told(wants_json(given))
    with warnings.catch_warnings(), raising_on_termination():
        warnings.showwarning = _show_warning
        try:
            # With JSON, usage errors come here as well; else typer prints them.
            code = app(args=given, prog_name="sepprune", standalone_mode=not told.json)
            return code if isinstance(code, int) else 0
        except SystemExit as stop:
            if (interrupt := interrupt_behind(stop)) is not None:  # a library left the program
                return told.interrupted(Stopped(interrupt), given)
            return stop.code if isinstance(stop.code, int) else FAILED
        except SepPruneError as error:
            return told.failure(error)
        except Stopped as stop:
            return told.interrupted(stop, given)
        except KeyboardInterrupt as stop:
            return told.interrupted(Stopped(stop), given)
        except Exception as error:
            if hasattr(error, "format_message"):  # a usage error of typer
                return told.failure(error, getattr(error, "exit_code", FAILED))
            if advice := _advice(error):
                return told.failure(error, text=f"{error}. {advice}")
            error.add_note(REPORT)
            if told.json:
                told.failure(error)
            raise


class _Told:
    """How the user hears of a failure: as JSON on stdout, or in words on stderr."""

    def __init__(self, json: bool) -> None:
        self.json = json

    def failure(self, error: BaseException, code: int = FAILED, text: str = "") -> int:
        """Say it, and give the exit code."""
        formatted = getattr(error, "format_message", None)  # of typer's own errors
        text = text or str(error if formatted is None else formatted())
        if self.json:
            print(json.dumps({"error": text, "kind": _kind(error)}))
        else:
            print(text if _kind(error) == "Interrupted" else f"Error: {text}", file=sys.stderr)
        return code

    def interrupted(self, stop: Interrupted, given: list[str]) -> int:
        """Likewise, and how to go on."""
        return self.failure(stop, stop.code, _to_go_on(stop, given))


def _to_go_on(stop: Interrupted, given: list[str]) -> str:
    """What was interrupted, and the command that goes on where something was kept."""
    if not stop.kept:
        return "Interrupted."
    again = shlex.join(["sepprune", *(word for word in given if word != "--restart")])
    return f"Interrupted: {stop.kept}. To go on: {again}"


def _advice(error: Exception) -> str:
    """What to do about a failure of the machine rather than of ours; empty where it is ours."""
    if isinstance(error, OSError):
        return _SYSTEM.get(error.errno or 0, "")
    exhausted = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    if isinstance(error, MemoryError) or exhausted:  # of Python, or torch
        return "The memory is exhausted: use a smaller --batch-size, shorter --seconds, or --block."
    return ""


def _kind(error: BaseException) -> str:
    """The error's class; a usage error of typer, which has many, is one kind."""
    return "UsageError" if hasattr(error, "format_message") else type(error).__name__


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, *_: object, **__: object
) -> None:
    """Our own warnings as a line; those of other packages are none of the user's business."""
    if "sepprune_tp" in filename:
        print(f"Warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
