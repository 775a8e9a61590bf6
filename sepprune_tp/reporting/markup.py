"""Markup from plain data: everything that is not made here is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import Any

__all__ = ["Markup", "bar", "element", "join", "number", "section", "text"]

VOID = frozenset({"img", "meta"})


class Markup(str):
    """Text that is markup already; whatever else is put into an element gets escaped."""

    __slots__ = ()


def text(content: Any) -> Markup:
    """Content as markup: itself if it is, else escaped."""
    return content if isinstance(content, Markup) else Markup(escape(str(content)))


def join(parts: Iterable[Any], between: str = "") -> Markup:
    """Parts one after the other, each escaped unless it is markup."""
    return Markup(between.join(text(part) for part in parts))


def element(tag: str, *content: Any, **attributes: Any) -> Markup:
    """An element.

    Args:
        tag: Its name.
        *content: What is inside.
        **attributes: By name, with ``_`` for ``-`` and one at the end where Python has the word;
            None leaves one out, True writes it without a value.
    """
    written = ""
    for name, value in attributes.items():
        if value is not None:
            key = name.rstrip("_").replace("_", "-")
            written += f" {key}" if value is True else f' {key}="{escape(str(value))}"'
    if tag in VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{join(content)}</{tag}>")


def number(value: float, shown: str) -> Markup:
    """A number to read, with the exact one for machines."""
    return element("data", shown, value=repr(value))


def section(name: str, heading: str, *content: Any) -> Markup:
    """A section with its heading, to be linked to by name."""
    title = element("h2", heading, id=f"{name}-heading")
    inside = join((title, *content), "\n")
    return element("section", inside, id=name, aria_labelledby=f"{name}-heading")


def bar(part: float, whole: float, most: float) -> Markup:
    """A bar for the eye alone: the part filled, the whole as outline, the most as full width."""
    if not (most > 0 and whole > 0 and math.isfinite(most)):
        return Markup()
    style = f"--of:{100 * whole / most:.2f}%;--kept:{100 * part / whole:.2f}%"
    return element("span", class_="bar", style=style, aria_hidden="true")
