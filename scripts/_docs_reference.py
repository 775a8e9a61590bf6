"""Pages of the reference: one for each public part of the package, one for the commands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["write_reference"]

APART = ("cli", "commands", "version")  # the commands have a page of their own


def write_reference(package: Path, folder: Path) -> None:
    """Write the pages.

    Args:
        package: Folder of the package.
        folder: Where the pages go.
    """
    folder.mkdir(parents=True)
    rows = [f"| [`{package.name}`]({package.name}.md) | what most users need |"]
    top = package / "__init__.py"
    _write(folder / f"{package.name}.md", package.name, [_section(package.name, exported(top))])
    for path in _parts(package):
        name = f"{package.name}.{path.stem}"
        _write(folder / f"{name}.md", name, list(_sections(path, name)))
        rows.append(f"| [`{name}`]({name}.md) | {_summary(path)} |")
    table = "\n".join(["| module | holds |", "|---|---|", *rows])
    text = f"# Reference\n\nOf the [commands](commands.md), and of the package.\n\n{table}\n"
    (folder / "index.md").write_text(text)
    (folder / "commands.md").write_text(_commands())


def exported(file: Path) -> list[str]:
    """What a module lists in ``__all__``."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
                found = ast.literal_eval(node.value)
                return [name for name in found if not name.startswith("__")]
    return []


def _parts(folder: Path) -> list[Path]:
    """The public modules and packages in a package."""
    found = (p for p in folder.iterdir() if not p.name.startswith("_") and p.stem not in APART)
    return sorted(p for p in found if p.suffix == ".py" or (p / "__init__.py").exists())


def _sections(path: Path, name: str) -> Iterator[str]:
    """A module; or a package, and of its modules what the package does not export itself."""
    file = path / "__init__.py" if path.is_dir() else path
    shown = exported(file)
    yield _section(name, shown)
    if path.is_dir():
        for part in _parts(path):
            inner = part / "__init__.py" if part.is_dir() else part
            more = [entry for entry in exported(inner) if entry not in shown]
            if more:
                yield f"## {name}.{part.stem}\n\n{_section(f'{name}.{part.stem}', more, 3)}"


def _section(name: str, members: list[str], level: int = 2) -> str:
    listed = "".join(f"\n        - {member}" for member in members) or " false"
    return (
        f"::: {name}\n    options:\n      show_submodules: false\n      heading_level: {level}\n"
        f"      members:{listed}\n"
    )


def _write(file: Path, name: str, sections: list[str]) -> None:
    file.write_text(f"# {name}\n\n" + "\n".join(sections))


def _summary(path: Path) -> str:
    """First sentence of a module's docstring."""
    file = path / "__init__.py" if path.is_dir() else path
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    first = re.sub(r":\w+:(?=`)", "", text.partition("\n\n")[0]).replace("``", "`")
    return first.replace("\n", " ").replace("|", r"\|")


def _commands() -> str:
    """All commands with their arguments and options, from the program itself."""
    import typer

    from sepprune_tp.commands import app

    group: Any = typer.main.get_command(app)
    pieces = ["# Commands", group.help]
    for name, command in group.commands.items():
        words = [_metavar(p) for p in command.params if p.param_type_name == "argument"]
        pieces += [f"## {name}", f"`sepprune {' '.join([name, *words])}`", command.help]
        options = [p for p in command.params if p.param_type_name == "option"]
        rows = [f"| {_names(p)} | {_cell(p.help or '')} | {_default(p)} |" for p in options]
        pieces.append("\n".join(["| option | | default |", "|---|---|---|", *rows]))
    return "\n\n".join(pieces) + "\n"


def _metavar(parameter: Any) -> str:
    word = parameter.metavar or parameter.name.upper()
    return word if parameter.required else f"[{word}]"


def _names(parameter: Any) -> str:
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    return "" if parameter.default in (None, "", False) else f"`{parameter.default}`"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
