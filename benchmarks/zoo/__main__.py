"""Networks that other people wrote, on the channel graph and on torch-pruning alone.

Every measurement runs in a process of its own, with a limit of time and memory and without the
network; finished rows are kept and skipped, so that the run can be stopped at any moment.

Usage: python -m benchmarks.zoo install; python -m benchmarks.zoo run
       python -m benchmarks.zoo table
       python -m benchmarks.zoo run --only "timm swin" --only transformers --again --no-alone
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import importlib
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.harness.records import Records, environment, write_atomically
from benchmarks.zoo.host import host, host_with_heads
from benchmarks.zoo.models import ROWS
from benchmarks.zoo.ours import ours
from benchmarks.zoo.process import measured
from benchmarks.zoo.table import page
from benchmarks.zoo.verdicts import verdict

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "zoo.json"
KEYS = ("experiment", "library", "model")
PACKAGES = (
    *("timm", "transformers", "ultralytics", "torchvision", "torchaudio", "demucs", "denoiser"),
    *("openunmix", "bs-roformer", "speechbrain", "deepfilternet"),
)
PRELOADED = {
    "timm": "timm",
    "transformers": "transformers.modeling_utils",
    "ultralytics": "ultralytics.nn.tasks",
    "torchvision": "torchvision.models",
    "torchaudio": "torchaudio",
    "demucs": "demucs.htdemucs",
    "bs-roformer": "bs_roformer",
    "speechbrain": "speechbrain.lobes.models.dual_path",
    "asteroid": "asteroid.models",
}
"""Modules that take long to import, by library."""
UNDECLARED = ("ultralytics", "denoiser", "deepfilternet", "deepfilterlib")
"""Installed without what they ask for: it pins old versions, or needs a display or sound card."""

SIDES = (ours, host, host_with_heads)

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@app.command()
def install() -> None:
    """Install the packages of the zoo into the environment of this Python."""
    pip = [sys.executable, "-m", "pip", "install"]
    subprocess.run([*pip, "-e", f"{ROOT}[all,zoo]"], check=True)
    subprocess.run([*pip, "--no-deps", *UNDECLARED], check=True)


@app.command()
def run(
    only: Annotated[list[str] | None, typer.Option(help="Rows whose name contains it.")] = None,
    again: Annotated[bool, typer.Option(help="Measure rows that are finished, too.")] = False,
    alone: Annotated[
        bool, typer.Option(help="torch-pruning by itself, too; without, what is known of it stays.")
    ] = True,
    seconds: Annotated[float, typer.Option(help="Limit of ours.")] = 300,
    host_seconds: Annotated[float, typer.Option(help="Limit of torch-pruning, each try.")] = 30,
    gigabytes: Annotated[float, typer.Option(help="Limit of memory.")] = 6,
    results: Annotated[Path, typer.Option(help="File of the records.")] = RESULTS,
) -> None:
    """Measure the rows that are not finished, and write the table."""
    import sepprune_tp  # noqa: F401  (once, for all processes)

    records = Records(results, KEYS)
    for row in ROWS:
        if only and not any(word.lower() in row.name.lower() for word in only):
            continue
        names = {"experiment": "zoo", "library": row.library, "model": row.model}
        known = next(iter(records.find(**names)), {})
        wanted = SIDES if alone else (ours,)
        sides = [side for side in wanted if again or side.__name__ not in known]
        if not sides:
            continue
        _preload(row.library)
        record = known | names
        for side in sides:
            limit = seconds if side is ours else host_seconds
            record[side.__name__] = measured(side, row, limit, gigabytes)
        limits = {"seconds": seconds, "host_seconds": host_seconds, "gigabytes": gigabytes}
        records.replace(record | _environment() | {"limits": limits})
        typer.echo(f"{row.name}: {verdict(record)} ({record['ours']['seconds']:.0f} s)")
        table(results)


@app.command()
def table(
    results: Annotated[Path, typer.Option(help="File of the records.")] = RESULTS,
) -> None:
    """Write the page from the records."""
    order = {row.name: number for number, row in enumerate(ROWS)}
    records = Records(results, KEYS).find(experiment="zoo")
    records = [r for r in records if f"{r['library']} {r['model']}" in order]
    records.sort(key=lambda r: order[f"{r['library']} {r['model']}"])
    write_atomically(results.with_suffix(".md"), page(records))


def _preload(library: str) -> None:
    """Import a library once, for all processes; what it lacks is a failure of its rows."""
    with suppress(Exception):
        importlib.import_module(PRELOADED.get(library, "torch"))


def _environment() -> dict[str, Any]:
    found = environment()
    for package in PACKAGES:
        try:
            found["versions"][package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    app()
