"""The commands, one module each; importing this package needs the extra ``cli``."""

from __future__ import annotations

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
from sepprune_tp.commands.separate import separate
from sepprune_tp.commands.undo import undo

__all__ = ["app"]

app = typer.Typer(
    help="Shrink a trained speech separation network. MODEL is a file of `sepprune` or Asteroid, "
    "a name on a hub (owner/name), an address, module:function, or the word `demo` for the model "
    "that ships with the package.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
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
    app.command()(command)
