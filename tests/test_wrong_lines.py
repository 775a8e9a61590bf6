"""A wrong key line of the graph or the gates is noticed by some test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from wrong_lines import WRONG, Wrong

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("sepprune_tp", "tests", "benchmarks")


def tried(tree: Path, file: str) -> subprocess.CompletedProcess[str]:
    """Run a test file in a tree of its own, until the first failure."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        f"tests/{file}",
    ]
    clean = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=tree, env=os.environ | clean, capture_output=True, text=True, timeout=900
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    leave = shutil.ignore_patterns("__pycache__", "checkpoints", "results", "plots")
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=leave)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", WRONG, ids=str)
def test_what_is_to_be_changed_is_there_once(line: Wrong) -> None:
    text = (ROOT / "sepprune_tp" / line.file).read_text()
    assert text.count(line.right) == 1
    changed = text.replace(line.right, line.wrong)
    compile(changed, line.file, "exec")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("line", WRONG, ids=str)
def test_a_wrong_line_is_noticed(line: Wrong, tree: Path) -> None:
    pytest.importorskip("asteroid", reason="most of what is tried needs the extra 'asteroid'")
    path = tree / "sepprune_tp" / line.file
    path.write_text(path.read_text().replace(line.right, line.wrong))
    for file in line.tests:
        done = tried(tree, file)
        if done.returncode == 1:
            return
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    pytest.fail("no test noticed")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_right_lines_pass_in_such_a_tree(tree: Path) -> None:
    """The control: what is noticed above is the line, not the copy."""
    for file in dict.fromkeys(file for line in WRONG for file in line.tests):
        done = tried(tree, file)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
