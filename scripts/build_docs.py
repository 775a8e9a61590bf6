"""Build the site in build/docs from the pages and the docstrings: python scripts/build_docs.py.

mkdocs reads one folder, in which files lie as in the repository: so links between pages work there
as they do here. Files and folders that pages link to become pages of their own. Equations become
MathML, which browsers show without a script.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from _docs_reference import write_reference
from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parent.parent
STAGE = ROOT / "build" / "docs-source"
STARTS = ("README.md", "CHANGELOG.md", "docs/index.md")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", "": "text"}

LINK = re.compile(r"(\]\()([^()\s#]+)(#[^()\s]*)?(\))")
FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
DISPLAY = re.compile(r"```math\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"(?<![\\\w$])\$([^$\n]+(?:\n[^$\n]+)?)\$(?![\w$])")
COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)


def stage(starts: tuple[str, ...] = STARTS) -> None:
    """Write the pages, and all that they link to."""
    waiting, done = [ROOT / name for name in starts], set[Path]()
    while waiting:
        source = waiting.pop()
        if source not in done:
            done.add(source)
            text = _page(source)
            if text is None:
                _write(source, None)
                continue
            waiting += [target for target in _targets(text, source.parent) if target.exists()]
            _write(_staged_name(source), _relinked(text, source.parent))


def _page(source: Path) -> str | None:
    """A file or folder as a page; None for one that is shown as it is."""
    name = source.relative_to(ROOT)
    if source.is_dir():
        files = sorted(p for p in source.iterdir() if p.suffix in (".md", ".json", ".yaml"))
        return f"# `{name}`\n\n" + "".join(f"- [{p.name}]({source.name}/{p.name})\n" for p in files)
    if source.suffix == ".md":
        return _with_mathml(COMMENT.sub("", source.read_text()))
    if source.suffix == ".ipynb":
        return _notebook(source)
    if source.suffix in LANGUAGES and source.stat().st_size < 100_000:
        return f"# `{name}`\n\n````{LANGUAGES[source.suffix]}\n{source.read_text()}\n````\n"
    return None


def _staged_name(source: Path) -> Path:
    """Where the page of a file or folder lies, as if it were in the repository."""
    return source if source.suffix == ".md" else source.with_name(f"{source.name}.md")


def _write(source: Path, text: str | None) -> None:
    target = STAGE / source.relative_to(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    if text is None:
        shutil.copyfile(source, target)
    else:
        target.write_text(text)


def _targets(text: str, folder: Path) -> Iterator[Path]:
    """Files and folders of the repository that a page links to."""
    for piece in FENCE.split(text)[::2]:
        for match in LINK.finditer(piece):
            if not re.match(r"\w+:", match[2]):
                yield _resolved(match[2], folder)


def _resolved(link: str, folder: Path) -> Path:
    return Path(os.path.normpath(folder / link))


def _relinked(text: str, folder: Path) -> str:
    """Let links go to the pages of what they name."""

    def relink(match: re.Match[str]) -> str:
        source = _resolved(match[2], folder)
        if re.match(r"\w+:", match[2]) or not source.exists() or _page(source) is None:
            return match[0]
        there = os.path.relpath(_staged_name(source), folder)
        return f"{match[1]}{there}{match[3] or ''}{match[4]}"

    pieces = FENCE.split(text)
    return "".join(p if n % 2 else LINK.sub(relink, p) for n, p in enumerate(pieces))


def _with_mathml(text: str) -> str:
    """Equations as MathML."""

    def display(match: re.Match[str]) -> str:
        return f"<div>{_mathml(match[1].strip(), 'block')}</div>"

    def inline(match: re.Match[str]) -> str:
        return _mathml(match[1], "inline")

    pieces = FENCE.split(DISPLAY.sub(display, text))
    return "".join(p if n % 2 else INLINE.sub(inline, p) for n, p in enumerate(pieces))


def _mathml(formula: str, display: str) -> str:
    """One equation.

    Raises:
        ValueError: If it has a command that the converter does not know.
    """
    found = convert(formula, display=display)
    if "\\" in found:
        raise ValueError(f"There is no MathML for a command in {formula!r}.")
    return found


def _notebook(source: Path) -> str:
    """The cells of a notebook, one after the other, and the notebook itself to fetch."""
    shutil.copyfile(source, _made(STAGE / source.relative_to(ROOT)))
    cells = json.loads(source.read_text())["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    kinds = [cell["cell_type"] for cell in cells]
    pieces = [
        text if kind == "markdown" else f"```python\n{text}\n```"
        for text, kind in zip(texts, kinds, strict=True)
    ]
    fetch = f'<a href="{source.name}" download>The notebook as a file.</a>'
    return "\n\n".join([pieces[0], fetch, *pieces[1:]]) + "\n"


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def main() -> int:
    """Build the site; a dead link or a reference that leads nowhere is an error."""
    shutil.rmtree(STAGE, ignore_errors=True)
    stage()
    write_reference(ROOT / "sepprune_tp", STAGE / "reference")
    command = [sys.executable, "-m", "mkdocs", "build", "--clean", "--strict", "--quiet"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    code = subprocess.run(command, cwd=ROOT, env=environment).returncode
    if code == 0:
        print("Wrote build/docs/index.html (its search needs a server: python -m http.server).")
    return code


if __name__ == "__main__":
    sys.exit(main())
