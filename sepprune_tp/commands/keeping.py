"""Commands that take hours keep their state beside what they write, without being asked."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from sepprune_tp.commands.output import note
from sepprune_tp.errors import WriteError
from sepprune_tp.files import check_writable
from sepprune_tp.files.locking import alone_with
from sepprune_tp.interruption import Interrupted

__all__ = ["RestartOption", "keeps_state"]

Command = TypeVar("Command", bound=Callable[..., Any])
RestartOption = Annotated[bool, typer.Option("--restart", metavar="", help="Start anew.")]
_OF_RECOVERY = ("last.pt", "best.pt")


def keeps_state(option: str, ending: str) -> Callable[[Command], Command]:
    """Let a command resume, whatever ended it, and keep a second one from the same output.

    While it runs, and after it was ended before its time, its state is in ``.NAME.ENDING`` beside
    ``--out NAME``; the same command goes on from there. Once everything is written, it is removed.
    A state that the user gave a place of its own stays.

    Args:
        option: Parameter of the command that takes the place of the state; None: the one above.
        ending: Of the name.

    Returns:
        The decorator; the command must have the parameters ``out`` and ``restart``.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(**given: Any) -> Any:
            if given.get("dry_run"):
                return command(**given)
            out: Path = given["out"]
            state: Path = given[option] or out.with_name(f".{out.name}.{ending}")
            check_writable(out)
            with alone_with(out):
                if given.get("restart"):
                    _remove(state)
                elif _there(state):
                    note(f"Going on from {state} (--restart starts anew).")
                try:
                    result = command(**{**given, option: state})
                except KeyboardInterrupt as stop:
                    if _there(state) and not str(stop):
                        number = getattr(stop, "signal", 2)
                        raise Interrupted(f"what was done is in {state}", number) from stop
                    raise
                if given[option] is None:
                    _remove(state)
                return result

        return run  # type: ignore[return-value]

    return decorate


def _there(state: Path) -> bool:
    return state.is_file() or (state / _OF_RECOVERY[0]).is_file()


def _remove(state: Path) -> None:
    """Remove a state: a file, or the files of a recovery and their folder if it is empty then."""
    try:
        if state.is_dir():
            for name in _OF_RECOVERY:
                (state / name).unlink(missing_ok=True)
            if state.name.startswith(".") and not any(state.iterdir()):
                shutil.rmtree(state)
        else:
            state.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"Cannot remove {state}: {error}. Remove it by hand.") from error
