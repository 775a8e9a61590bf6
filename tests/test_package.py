"""The package as users get it: what a wheel holds, and that the core needs no extra."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "MANIFEST.in")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy so that the checkout stays clean."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in NEEDED:
        shutil.copy(ROOT / name, copy / name)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "sepprune_tp", copy / "sepprune_tp", ignore=ignore)
    (copy / "tests").mkdir()
    (copy / "tests" / "test_x.py").write_text("")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    run = subprocess.run(
        [*command, "--no-index", "-w", str(copy / "dist"), str(copy)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "sepprune_tp/py.typed" in names
    assert "sepprune_tp/graph/channel_graph.py" in names
    assert any(re.fullmatch(r"sepprune_tp/demo/assets/.*model\.safetensors", n) for n in names)
    flacs = [n for n in names if re.fullmatch(r"sepprune_tp/demo/assets/test/mix/.*\.flac", n)]
    assert len(flacs) >= 15
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"sepprune_tp", next(top for top in tops if top.endswith(".dist-info"))}
    assert wheel.stat().st_size < 4_000_000


def test_every_source_file_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "sepprune_tp").rglob("*.py")}
    assert sources <= names


def test_metadata_names_extras_and_core(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
        (entry,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
        entries = archive.read(entry).decode()
    extras = set(re.findall(r"^Provides-Extra: (.*)$", metadata, re.MULTILINE))
    assert {"asteroid", "train", "files", "cli", "demo", "export", "test", "all"} <= extras
    core = re.findall(r"^Requires-Dist: ([^;\n]+)$", metadata, re.MULTILINE)
    assert {re.split("[<>=]", need)[0] for need in core} == {"torch", "torch-pruning", "numpy"}
    assert "sepprune = sepprune_tp.cli:main" in entries


ALONE = """
import sys
for name in ("asteroid", "asteroid_filterbanks", "lightning", "pytorch_lightning", "safetensors",
             "rich", "typer", "matplotlib", "soundfile", "scipy", "fast_bss_eval", "thop", "tqdm",
             "espeakng_loader", "onnx"):
    sys.modules[name] = None
import torch
from torch import nn
import sepprune_tp
from sepprune_tp import (Budget, GateSet, SepPruneImportance, SepPrunePruner, learn_gates, profile)

torch.manual_seed(0)
net = nn.Sequential(nn.Conv1d(1, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(),
                    nn.Conv1d(16, 16, 5, padding=2), nn.ReLU(), nn.Conv1d(16, 2, 5, padding=2))
x = torch.randn(2, 1, 64)
dense = profile(net, x)
gates = GateSet(net, x, scope="all")
batches = [(x, torch.randn(2, 2, 64))]
learn_gates(gates, batches, nn.functional.mse_loss, budget=Budget(macs=0.5), steps=20, seed=0)
SepPrunePruner(net, x, importance=SepPruneImportance(gates)).step()
small = profile(net, x)
assert net(x).shape == (2, 2, 64)
assert small.macs <= 0.5 * dense.macs < dense.macs, (small.macs, dense.macs)
print("pruned", small.macs / dense.macs)
"""


def run_alone(wheel: Path, code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run code with the wheel's files first on the path, outside the checkout."""
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )


def test_core_prunes_a_plain_module_without_any_extra(wheel: Path, tmp_path: Path) -> None:
    run = run_alone(wheel, ALONE, tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("pruned 0.")


def test_missing_extra_says_how_to_get_it(wheel: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nsys.modules['typer'] = None\n"
        "from sepprune_tp.cli import main\nsys.exit(main(['profile', 'demo']))"
    )
    run = run_alone(wheel, code, tmp_path)
    assert run.returncode == 2
    assert "pip install 'sepprune-tp[cli]'" in run.stderr and "Traceback" not in run.stderr


def test_version_is_one_and_the_same(wheel: Path) -> None:
    from sepprune_tp.version import __version__

    assert wheel.name.startswith(f"sepprune_tp-{__version__}-")
