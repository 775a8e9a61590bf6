"""The commands, one module each; importing this package needs the extra ``cli``.

It must not import torch: help and completion wait for it (see ``sepprune_tp._starting``).
"""

from __future__ import annotations

from typing import Annotated

import typer

from sepprune_tp.commands.benchmark import benchmark
from sepprune_tp.commands.demo import demo
from sepprune_tp.commands.evaluate import evaluate
from sepprune_tp.commands.explain import explain
from sepprune_tp.commands.export import export
from sepprune_tp.commands.finetune import finetune
from sepprune_tp.commands.history import history
from sepprune_tp.commands.profile import profile
from sepprune_tp.commands.prune import prune
from sepprune_tp.commands.publish import publish
from sepprune_tp.commands.running import Command, ready
from sepprune_tp.commands.separate import separate
from sepprune_tp.commands.undo import undo
from sepprune_tp.version import __version__

__all__ = ["app"]

EXAMPLES = {
    "prune": "sepprune prune model.pth --data wham/wav8k/min -o small.safetensors",
    "finetune": "sepprune finetune small.safetensors --data wham/wav8k/min -o better.safetensors",
    "benchmark": "sepprune benchmark model.pth small.safetensors",
    "separate": "sepprune separate small.safetensors talk.wav -o separated",
}

app = typer.Typer(
    help="Shrink a trained speech separation network. MODEL is a file of `sepprune` or Asteroid, "
    "a name on a hub (owner/name), an address, module:function, or the word `demo` for the model "
    "that ships with the package.",
    epilog="Exit codes: 0 done; 2 something that you can mend, and the message says how; 130 "
    "interrupted; 1 a mistake in sepprune itself, with a traceback to report. With --json a "
    "failure is an object with the keys error and kind, on stdout.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sepprune {__version__}")
        raise typer.Exit


@app.callback()
def sepprune(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", is_eager=True, callback=_print_version, help="Print it."
        ),
    ] = False,
) -> None:
    """Options of the program; its help is above."""


for command in (
    profile,
    explain,
    prune,
    finetune,
    evaluate,
    separate,
    export,
    benchmark,
    history,
    undo,
    publish,
    demo,
):
    example = EXAMPLES.get(command.__name__)
    about = (command.__doc__ or "").split("\n")[0]
    app.command(cls=Command, short_help=about, epilog=example and f"Example: {example}")(
        ready(command)
    )
