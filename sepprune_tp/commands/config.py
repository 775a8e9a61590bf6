"""Options in a YAML file: keys are the names of the flags, flags on the command line win.

The file of a training recipe of Asteroid is understood, too; see ``recipes``.
"""

from __future__ import annotations

import types
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from sepprune_tp.errors import InputError, require

__all__ = ["Config", "Flag", "nearest", "read_config", "read_yaml"]

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text or a number",
    Path: "a path",
}
_LISTED = {"budgets"}  # text that a file may write as a list


@dataclass(frozen=True)
class Flag:
    """What an option or argument takes.

    Attributes:
        name: Of the parameter, with underscores.
        kind: ``int``, ``float``, ``bool``, ``str`` or ``Path``.
        many: Whether it takes several.
    """

    name: str
    kind: type
    many: bool = False

    @classmethod
    def of(cls, name: str, annotation: Any) -> Flag:
        """The flag of an annotated parameter such as ``Annotated[Path | None, ...]``."""
        kind = annotation
        if hasattr(kind, "__metadata__"):
            kind = get_args(kind)[0]
        if get_origin(kind) in (Union, types.UnionType):
            (kind,) = (part for part in get_args(kind) if part is not type(None))
        many = get_origin(kind) is list
        return cls(name, get_args(kind)[0] if many else kind, many)

    def read(self, value: Any, where: str) -> Any:
        """A value as the command line would give it.

        Args:
            value: As YAML has it.
            where: Key and file, for messages.

        Raises:
            InputError: If it is of another type.
        """
        if self.many:
            values = value if isinstance(value, list) else [value]
            return [self._one(entry, where) for entry in values]
        if self.name in _LISTED and isinstance(value, list) and value:
            return ",".join(self._one(entry, where) for entry in value)
        return self._one(value, where)

    def _one(self, value: Any, where: str) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if self.kind is bool and isinstance(value, bool):
            return value
        if self.kind is int and number and value == int(value):
            return int(value)
        if self.kind is float and number:
            return float(value)
        if self.kind is float and isinstance(value, str):  # YAML reads 1e-3 as text
            try:
                return float(value)
            except ValueError:
                pass
        if self.kind is str and (number or isinstance(value, str)):
            return str(value)
        if self.kind is Path and isinstance(value, str) and value:
            return value
        raise InputError(
            f"{where} is {_shown(value)}; it has to be {_WORDS[self.kind]}"
            f"{' or a list of these' if self.many else ''}."
        )


@dataclass
class Config:
    """What a file sets.

    Attributes:
        values: By parameter name.
        notes: Lines about what was taken and what was left.
    """

    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_config(
    path: Path,
    command: str,
    flags: Mapping[str, Flag],
    commands: Mapping[str, Collection[str]] | None = None,
    typed: Collection[str] = (),
) -> Config:
    """Read the options of a command from a file.

    Top-level keys are flags, with underscores or dashes. What stands under the name of a command
    is for that command alone and wins over the top level.

    Args:
        path: YAML.
        command: Name of the command.
        flags: What it takes, by parameter name.
        commands: What each command takes, by its name.
        typed: What the command line sets, which wins over the file.

    Raises:
        InputError: If the file cannot be read, or a key is unknown or of the wrong type.
        MissingExtraError: If PyYAML is not installed.
    """
    from sepprune_tp.commands.recipes import is_recipe, read_recipe

    content = read_yaml(path)
    found, others = Config(), commands or {}
    sections = {name: content.pop(name) for name in others if isinstance(content.get(name), dict)}
    if is_recipe(content):
        recipe = read_recipe(path, content, command, flags, typed)
        found.values |= recipe.values
        found.notes += recipe.notes
        content = {key: value for key, value in content.items() if not isinstance(value, dict)}
    _take(found.values, content, flags, command, path, others)
    own = sections.get(command, {})
    _take(found.values, own, flags, command, path, others, f"{command}.")
    return found


def _take(
    values: dict[str, Any],
    content: Mapping[Any, Any],
    flags: Mapping[str, Flag],
    command: str,
    path: Path,
    others: Mapping[str, Collection[str]],
    section: str = "",
) -> None:
    """Add a mapping of keys to the values."""
    seen: dict[str, str] = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in flags:
            raise InputError(_unknown(f"{section}{key}", name, flags, command, path, others))
        if name in seen:
            raise InputError(f"{path} sets both {seen[name]} and {key}, which are one option.")
        seen[name] = str(key)
        if value is not None:
            values[name] = flags[name].read(value, f"{section}{key} in {path}")


def _unknown(
    key: str,
    name: str,
    flags: Mapping[str, Flag],
    command: str,
    path: Path,
    others: Mapping[str, Collection[str]],
) -> str:
    if name in ("config", "json", "help"):
        return f"{path}: {key} belongs on the command line, not into a file."
    said = f"{path}: `sepprune {command}` has no option {key}."
    owners = [other for other, names in others.items() if name in names]
    if owners:
        return f"{said} It is one of {', '.join(owners)}: put it under `{owners[0]}:`."
    return f"{said} {nearest(name, flags)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence with the names most like one that is unknown."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"Nearest: {', '.join(close)}."
    return f"There are: {', '.join(names)}."


def read_yaml(path: Path) -> dict[Any, Any]:
    """A YAML file that holds keys and values.

    Raises:
        InputError: If there is none, it is no YAML, holds something else or a key twice.
        MissingExtraError: If PyYAML is not installed.
    """
    yaml = require("yaml", "cli", "Reading a configuration")

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined]
        """Refuses a key that stands twice, of which YAML would keep the last."""

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise InputError(f"{path} has {', '.join(sorted(twice))} more than once.")
        loader.flatten_mapping(node)
        found: dict[Any, Any] = loader.construct_mapping(node, deep=True)
        return found

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise InputError(f"The configuration {path} cannot be read: {error.strerror}.") from error
    except InputError:
        raise
    except Exception as error:  # yaml's constructors raise many kinds on odd scalars, and deep data
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is no YAML: {said}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds {_shown(content)}; a configuration holds keys and values, such as "
            "`steps: 500`."
        )
    return content


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a section"
    return "a list" if isinstance(value, list) else repr(value)
