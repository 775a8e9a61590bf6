"""``sepprune history``: what became of the dense model that a pruned one was."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sepprune_tp.commands.output import say

__all__ = ["history"]


def history(
    file: Annotated[Path, typer.Argument(help="A pruned model.", show_default=False)],
) -> dict[str, Any]:
    """Tell how a model was pruned and recovered, and which channels of the dense model it has."""
    from sepprune_tp.checkpoint.history import history as read

    found = read(file)
    say(str(found))
    return found.plain()
