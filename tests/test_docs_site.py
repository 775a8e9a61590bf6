"""The site holds what the package exports, and builds without a dead link."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT

sys.path.append(str(ROOT / "scripts"))
from _docs_reference import exported, write_reference

PACKAGE = ROOT / "sepprune_tp"


def test_the_reference_has_a_place_for_everything_exported(tmp_path: Path) -> None:
    pytest.importorskip("typer")
    write_reference(PACKAGE, tmp_path / "reference")
    listed: dict[str, list[str]] = {}
    for page in (tmp_path / "reference").glob("sepprune_tp*.md"):
        for section in page.read_text().split("::: ")[1:]:
            name = section.partition("\n")[0]
            assert name not in listed
            listed[name] = re.findall(r"^        - (\w+)$", section, re.MULTILINE)
    count = 0
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        private = any(part.startswith("_") for part in parts)
        if private or parts[1:2] in (("cli",), ("commands",), ("version",)) or len(parts) > 3:
            continue
        for name in exported(file):
            holders = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
            assert any(name in listed.get(h, ()) for h in holders[1:] or holders), (parts, name)
            count += 1
    assert count > 200
    commands = (tmp_path / "reference" / "commands.md").read_text()
    assert "## prune" in commands and "`--budget-macs`" in commands


@pytest.mark.slow
def test_the_site_builds() -> None:
    for name in ("mkdocs", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(name, reason="needs the extra 'docs'")
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "build_docs.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    site = ROOT / "build" / "docs"
    assert "<math" in (site / "docs" / "method.html").read_text()
    for page in site.rglob("*.html"):
        assert not re.search(r'<(?:script|link|img)[^>]*(?:src|href)="https?:', page.read_text())
