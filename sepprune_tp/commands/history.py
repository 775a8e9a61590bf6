"""``sepprune history``: what became of the dense model that a pruned one was."""

from __future__ import annotations

import json as _json
from pathlib import Path
from typing import Annotated

import typer

from sepprune_tp.commands.common import say
from sepprune_tp.history import history as read

__all__ = ["history"]


def history(
    file: Annotated[Path, typer.Argument(help="A pruned model.", show_default=False)],
    json: Annotated[
        bool, typer.Option("--json", help="As JSON, with all channel indices.")
    ] = False,
) -> None:
    """Tell how a model was pruned and recovered, and which channels of the dense model it has."""
    found = read(file)
    say(_json.dumps(found.plain()) if json else str(found))
