"""Lets the site show ``:class:`name` `` in docstrings as a link; an extension of griffe's."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([\w.]+)`")


def _link(match: re.Match[str]) -> str:
    name = match[1]
    shown = name.rpartition(".")[2] if name.startswith("sepprune_tp.") else name
    return f'<autoref optional identifier="{name}"><code>{shown}</code></autoref>'


class Roles(griffe.Extension):
    """Rewrites the docstrings."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(_link, obj.docstring.value)
