"""The pages that people read, taken apart: blocks of code, command lines, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = "# not run here"
"""First words of a block that cannot run in the tests, for readers as well."""

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: What stands after the fence.
        code: Its content.
        line: Number of its first line in the page.
        before: The line above the fence.
    """

    language: str
    code: str
    line: int
    before: str


def blocks_of(text: str, *languages: str) -> list[Block]:
    """The blocks of a page, of some languages or of all."""
    found = []
    for match in _FENCE.finditer(text):
        above = text[: match.start()]
        if not languages or match[1] in languages:
            before = above.rstrip("\n").rpartition("\n")[2]
            found.append(Block(match[1], match[2], above.count("\n") + 2, before))
    return found


def commands_of(text: str, program: str = "sepprune") -> Iterator[tuple[int, list[str]]]:
    """The calls of a program in a page's shell blocks: line number, and arguments."""
    for block in blocks_of(text, "sh", "console", "bash"):
        lines = block.code.replace("\\\n", " " * 2).splitlines()
        for number, line in enumerate(lines):
            words = shlex.split(line.partition(" | ")[0], comments=True)
            while words and re.fullmatch(r"\w+=.*|\$|nohup|time", words[0]):
                words = words[1:]
            if words[:1] == [program]:
                yield block.line + number, words[1:]


def inline_of(text: str) -> list[str]:
    """What a page's prose sets as code."""
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))


def links_of(text: str) -> list[str]:
    """Where a page's links go, those in blocks left out."""
    return _LINK.findall(re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text)))


def anchors_of(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = next(n for n in range(99) if (f"{anchor}-{n}" if n else anchor) not in found)
        found.add(f"{anchor}-{number}" if number else anchor)
    return found
