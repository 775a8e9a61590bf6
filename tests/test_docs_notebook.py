"""The notebook runs from its first cell to its last, and is stored as it was written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pages import links_of

NOTEBOOK = Path(__file__).parents[1] / "docs" / "listen.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
FEW = "SEARCH_STEPS, RECOVERY_STEPS, SECONDS = 4, 4, 0.5"


class Shown:
    """Stands for IPython's displays, which need a notebook around them."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def module(self) -> ModuleType:
        found: Any = ModuleType("IPython.display")
        found.Audio = lambda data, rate: ("audio", np.asarray(data), rate)
        found.Markdown = lambda text: ("text", text)
        found.display = self.all.append
        return found


def test_nothing_is_stored_but_the_code() -> None:
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in CODE)
    for cell in CELLS:
        if cell["cell_type"] == "markdown":
            for link in links_of("".join(cell["source"])):
                assert (NOTEBOOK.parent / link).exists(), link


def test_it_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for extra in ("asteroid", "soundfile", "lightning"):
        pytest.importorskip(extra)
    pyplot = pytest.importorskip("matplotlib.pyplot")
    shown = Shown()
    ipython: Any = ModuleType("IPython")
    ipython.get_ipython, ipython.version_info = lambda: None, (9, 0)  # matplotlib asks for them
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown.module())
    monkeypatch.chdir(tmp_path)
    pyplot.switch_backend("Agg")
    names: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(CODE):
        exec(compile("".join(cell["source"]), f"listen.ipynb, code cell {number}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            exec(FEW, names)
    pyplot.close("all")
    heard = [entry for entry in shown.all if entry[0] == "audio"]
    assert len(heard) == 1 + 2 + 3 * 2
    assert all(
        np.isfinite(data).all() and data.std() > 0 and rate == 8000 for _, data, rate in heard
    )
    (table,) = [text for kind, text, *_ in shown.all if kind == "text" and "SI-SDRi" in text]
    assert [row.split("|")[1].strip() for row in table.splitlines()[2:]] == [
        "dense",
        "pruned",
        "recovered",
    ]
    costs = [float(row.split("|")[3]) for row in table.splitlines()[2:]]
    assert costs[1] == costs[2] <= 0.4 * costs[0] < costs[0]
