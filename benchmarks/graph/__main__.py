"""The channel graph on every architecture at its default size, beside torch-pruning's own.

Each row runs in a process of its own, with a limit of time and memory; finished rows are kept and
skipped, so that the run can be stopped at any moment. All rows took
15 to 20 minutes on two busy cores.

Usage: python -m benchmarks.graph run; python -m benchmarks.graph table
       python -m benchmarks.graph run --model benchmarks.models:build:tdanet --shape 1,16000
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.graph.rows import ROWS, GraphRow, extra_row
from benchmarks.graph.table import page
from benchmarks.harness.records import Records, environment, write_atomically

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "graph.json"
START = 10  # seconds that a process gets to import packages and build the model
KEYS = ("experiment", "model", "variant", "scope")

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@app.command()
def run(
    only: Annotated[str, typer.Option(help="Rows whose name contains this.")] = "",
    model: Annotated[
        str, typer.Option(help="Another model: module:factory or module:factory:argument.")
    ] = "",
    shape: Annotated[str, typer.Option(help="Of the input of --model.")] = "1,16000",
    scope: Annotated[str, typer.Option(help="Of --model: separator or all.")] = "all",
    again: Annotated[bool, typer.Option(help="Measure rows that are finished, too.")] = False,
    seconds: Annotated[float, typer.Option(help="Limit for torch-pruning's own graph.")] = 60,
    gigabytes: Annotated[float, typer.Option(help="Limit of memory for the same.")] = 6,
    results: Annotated[Path, typer.Option(help="File of the records.")] = RESULTS,
) -> None:
    """Measure the rows that are not finished, and write the table."""
    rows = [extra_row(model, _numbers(shape), scope)] if model else ROWS
    records = Records(results, KEYS)
    for row in [r for r in rows if only.lower() in r.name.lower()]:
        found = records.find(experiment="graph", **_names(row))
        if found and found[0]["failure"] is None and not again:
            continue
        record = {"experiment": "graph", **_names(row), "shape": list(row.shape)}
        record |= measure(row, seconds, gigabytes)
        records.replace(record | environment())
        typer.echo(f"{row.name}: {_summary(record)}")
    table(results)


@app.command()
def table(
    results: Annotated[Path, typer.Option(help="File of the records.")] = RESULTS,
) -> None:
    """Write graph.md from graph.json."""
    order = {row.name: number for number, row in enumerate(ROWS)}
    records = Records(results, KEYS).find(experiment="graph")
    records.sort(key=lambda r: order.get(f"{r['model']} {r['variant']} ({r['scope']})", len(order)))
    write_atomically(results.with_suffix(".md"), page(records))


def measure(row: GraphRow, seconds: float, gigabytes: float) -> dict[str, Any]:
    """Both sides of a row.

    Args:
        row: The row.
        seconds: Limit for torch-pruning's own graph; ours gets ten times that.
        gigabytes: Limit of memory for torch-pruning's own graph; ours gets twice that.

    Returns:
        Figures of ours, ``failure`` (None if there is none), and ``torch_pruning``: its own, or
        None if the row does not try it.
    """
    ours = in_process("ours", row, 10 * seconds, 2 * gigabytes)
    figures = {"failure": ours.pop("failure", None), **ours}
    theirs = None
    if row.alone:
        theirs = in_process("torch_pruning_alone", row, seconds + START, gigabytes)
        if "failure" in theirs:
            theirs |= {"works": False, "stage": "not finished", "how": theirs.pop("failure")}
    limits = {"seconds": seconds, "gigabytes": gigabytes}
    return {**figures, "torch_pruning": theirs, "limits": limits}


def in_process(function: str, row: GraphRow, seconds: float, gigabytes: float) -> dict[str, Any]:
    """Run a function of ``_graph_measure`` on a row in another process.

    Args:
        function: Its name.
        row: The row.
        seconds: Time after which the process is ended.
        gigabytes: Memory at which it is ended.

    Returns:
        What the function returned; or ``failure``, ``seconds`` and ``mb`` of the process.
    """
    code = (
        "import json, sys, warnings; warnings.simplefilter('ignore'); import torch; "
        "torch.set_num_threads(1); from benchmarks.graph import measure, rows; "
        "row = json.loads(sys.argv[1]); row['shape'] = tuple(row['shape']); "
        f"found = measure.{function}(rows.GraphRow(**row)); "
        "print('RESULT ' + json.dumps(found))"
    )
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    began, peak, failure = time.perf_counter(), 0.0, ""
    with subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(asdict(row))],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    ) as process:
        while not failure:
            try:
                printed, _ = process.communicate(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                peak = max(peak, _resident(process.pid))
                if peak > gigabytes * 1024:
                    failure = f"ended at {gigabytes:g} GB of memory"
                elif time.perf_counter() - began > seconds:
                    failure = f"ended after {seconds:g} s in all"
        if failure:
            process.kill()
            return _failed(failure, began, peak)
    for line in printed.splitlines():
        if line.startswith("RESULT "):
            result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
            return result
    lines = printed.strip().splitlines() or [f"ended with code {process.returncode}"]
    return _failed(lines[-1][:160], began, peak)


def _failed(failure: str, began: float, peak: float) -> dict[str, Any]:
    seconds = round(time.perf_counter() - began, 1)
    return {"failure": failure, "seconds": seconds, "mb": round(peak, 1)}


def _resident(pid: int) -> float:
    """MB that a process holds; 0 if it has just ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("VmRSS:")]
    return int(found[0]) / 1024 if found else 0.0


def _names(row: GraphRow) -> dict[str, str]:
    return {"model": row.model, "variant": row.variant, "scope": row.scope}


def _summary(record: dict[str, Any]) -> str:
    theirs = record["torch_pruning"]
    alone = "" if theirs is None else f"; torch-pruning alone: {theirs['how']}"
    if record["failure"] is not None:
        return f"fails: {record['failure']}{alone}"
    return (
        f"{record['groups']} groups, {record['prunable']:.1%} can go, "
        f"error {record['error_float32']:.0e} / {record['error_float64']:.0e}, "
        f"{record['graph_seconds']:.2f} s{alone}"
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    app()
