"""What every command has: ``--config``, ``--json``, ``--quiet``, and one way to end."""

from __future__ import annotations

import functools
import inspect
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from sepprune_tp import _starting
from sepprune_tp.commands.config import Flag, read_config
from sepprune_tp.commands.output import check_replaceable, document, note, printing

__all__ = ["Command", "Interrupted", "ready", "wants_json"]

PANEL = "Running"
JSON, JSON_OUT = "--json", "--json-out"

_CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="YAML: options, or a recipe's conf.yml.",
        rich_help_panel=PANEL,
    ),
]
_JSON = Annotated[
    bool,
    typer.Option(JSON, metavar="", help="Print one JSON document instead.", rich_help_panel=PANEL),
]
_JSON_OUT = Annotated[
    Path | None,
    typer.Option(
        JSON_OUT, metavar="FILE", help="Also write that document here.", rich_help_panel=PANEL
    ),
]
_QUIET = Annotated[
    bool,
    typer.Option("--quiet", "-q", metavar="", help="No progress, no notes.", rich_help_panel=PANEL),
]
_SHARED: dict[str, tuple[Any, Any]] = {
    "config": (_CONFIG, None),
    "json": (_JSON, False),
    "json_out": (_JSON_OUT, None),
    "quiet": (_QUIET, False),
}
ONLY_TYPED = {"config", "json", "help"}  # what a file cannot set


class Interrupted(Exception):
    """The user, or the system, stopped the command.

    Attributes:
        kept: What was done and is kept, in words; empty if nothing is.
        code: Exit code, 128 and the signal's number: 130 for Ctrl-C.
    """

    def __init__(self, stop: KeyboardInterrupt) -> None:
        super().__init__("Interrupted.")
        self.kept = str(stop)
        self.code = 128 + int(getattr(stop, "signal", signal.SIGINT))


def wants_json(arguments: list[str]) -> bool:
    """Whether a command line asks for JSON on stdout, even one that cannot be parsed."""
    given = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return JSON in given and not _legacy_only(given)


def ready(function: Callable[..., Any]) -> Callable[..., None]:
    """Give a command the options that all have, and its result to the terminal.

    Args:
        function: A command for typer; it returns its result as plain data (or None). An option
            that it has already, it keeps.
    """
    signature = inspect.signature(function, eval_str=True)
    missing = {name: _SHARED[name] for name in _SHARED if name not in signature.parameters}

    @functools.wraps(function)
    def command(**given: Any) -> None:
        shared = {name: given.pop(name) for name in missing}
        as_json, file = bool(shared.get("json")), shared.get("json_out")
        with printing(as_json, bool(shared.get("quiet"))), _interruptible():
            _starting.complete()
            if file is not None:
                check_replaceable(file)
            result = function(**given)
            result = {} if result is None else result
            if file is not None:
                document(result, file)
        if as_json:
            document(result)

    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for name, (kind, default) in missing.items()
    ]
    parameters = [*signature.parameters.values(), *shared]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C as an error of its own: typer would leave without a word."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted(stop) from stop


class Command(TyperCommand):
    """A command whose options may stand in a file, and whose help fits a screen."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read ``--config`` first: what it holds are defaults, which typed options replace."""
        if ctx.resilient_parsing:  # completion
            return super().parse_args(ctx, args)
        args = self._with_json_file(ctx, args)
        typed, _, _ = self.make_parser(ctx).parse_args(list(args))
        if typed.get("config") is not None and not typed.get("help"):
            path, given = Path(typed["config"]), {name for name in typed if typed[name] is not None}
            found = read_config(path, ctx.info_name, self._flags(), _names(ctx), given)
            ctx.default_map = found.values
            with printing(bool(typed.get("json")), bool(typed.get("quiet"))):
                for line in found.notes:
                    note(line)
        return super().parse_args(ctx, args)

    def _flags(self) -> dict[str, Flag]:
        """What a file may set, by name."""
        assert self.callback is not None
        signature = inspect.signature(inspect.unwrap(self.callback), eval_str=True)
        kinds = {name: p.annotation for name, p in signature.parameters.items()}
        kinds |= {name: kind for name, (kind, _) in _SHARED.items() if name not in ONLY_TYPED}
        return {name: Flag.of(name, kind) for name, kind in kinds.items()}

    def _with_json_file(self, ctx: Any, args: list[str]) -> list[str]:
        """``--json FILE`` and ``--json=FILE``, as they once were: ``--json-out FILE``."""
        args = [_renamed(argument) for argument in args]
        if JSON not in args:
            return args
        place = args.index(JSON)
        following = args[place + 1 : place + 2]
        if not following or following[0].startswith("-"):
            return args
        named = [*args[:place], JSON_OUT, *args[place + 1 :]]
        if following[0].endswith(".json"):
            return named
        _, surplus, _ = self.make_parser(ctx).parse_args(list(args))
        return named if surplus else args

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Help in which a switch takes one row: ``--[no-]report``."""
        kept = {}
        for parameter in self.params:
            on, off = list(parameter.opts), list(parameter.secondary_opts)
            if off and off[0] == f"--no-{on[0].removeprefix('--')}":
                kept[parameter] = (on, off)
                parameter.opts, parameter.secondary_opts = [f"--[no-]{on[0][2:]}"], []
        try:
            super().format_help(ctx, formatter)
        finally:
            for parameter, (on, off) in kept.items():
                parameter.opts, parameter.secondary_opts = on, off


def _renamed(argument: str) -> str:
    return (
        argument.replace(f"{JSON}=", f"{JSON_OUT}=", 1) if argument.startswith(JSON) else argument
    )


def _legacy_only(given: list[str]) -> bool:
    following = given[given.index(JSON) + 1 :][:1]
    return bool(following) and following[0].endswith(".json")


def _names(ctx: Any) -> dict[str, list[str]]:
    """Every command and what it takes, for keys of a file that are another command's."""
    group = ctx.parent.command if ctx.parent is not None else None
    commands = getattr(group, "commands", {})
    return {name: [p.name for p in command.params] for name, command in commands.items()}
