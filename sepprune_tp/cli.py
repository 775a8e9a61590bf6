"""The command line: ``sepprune profile | prune | finetune | evaluate | separate | ...``."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Sequence

from sepprune_tp.errors import SepPruneError, require
from sepprune_tp.interruption import interrupt_behind, raising_on_termination

__all__ = ["main"]

FAILED = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; what went wrong is one message, not a traceback.

    Args:
        arguments: Without the program's name; those of the process if None.

    Returns:
        0, or 2 if the command failed for a reason that the user can mend, 130 if interrupted,
        143 if terminated.
    """
    try:
        require("typer", "cli", "The command line")
        require("rich", "cli", "The command line")
        from sepprune_tp.commands import app
    except SepPruneError as error:
        return _fail(error)
    with warnings.catch_warnings(), raising_on_termination():
        warnings.showwarning = _show_warning
        try:
            app(args=arguments, prog_name="sepprune", standalone_mode=True)
        except SystemExit as stop:
            if (interrupt := interrupt_behind(stop)) is not None:
                return _interrupted(interrupt, arguments)
            return stop.code if isinstance(stop.code, int) else FAILED
        except SepPruneError as error:
            return _fail(error)
        except KeyboardInterrupt as interrupt:
            return _interrupted(interrupt, arguments)
    return 0


def _interrupted(interrupt: KeyboardInterrupt, arguments: Sequence[str] | None) -> int:
    told, number = str(interrupt), getattr(interrupt, "signal", 2)
    given = sys.argv[1:] if arguments is None else arguments
    again = shlex.join(["sepprune", *(word for word in given if word != "--restart")])
    text = f"Interrupted: {told}. To go on: {again}" if told else "Interrupted."
    print(text, file=sys.stderr)
    return INTERRUPTED - 2 + int(number)


def _fail(error: SepPruneError) -> int:
    print(f"Error: {error}", file=sys.stderr)
    return FAILED


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, *_: object, **__: object
) -> None:
    """Our own warnings as a line; those of other packages are none of the user's business."""
    if "sepprune_tp" in filename:
        print(f"Warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
