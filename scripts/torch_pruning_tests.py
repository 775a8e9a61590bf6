"""Run torch-pruning's own tests twice, on its graph and on ours, and write down what passes.

    python scripts/torch_pruning_tests.py --tests DIR/tests

``DIR`` is a checkout of https://github.com/VainF/Torch-Pruning at the release that is installed
(v1.6.1). Its files stay where they are; a plug-in changes which graph they get. Every file runs in
a process of its own, in an empty folder. Results go to
``benchmarks/results/torch_pruning_tests.json`` and a table beside it, which is written from them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.harness.records import Records, environment, origin, write_atomically  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "torch_pruning_tests.json"
GRAPHS = ("torch-pruning", "sepprune-tp")
REASONS: dict[str, str] = {
    "test_benchmark.py": "needs a CUDA device",
    "test_concat.py::test_pruner": "calls a BatchNorm in training mode with one sample: "
    "torch-pruning leaves the model in eval mode behind its user's back, we restore its mode (with "
    "model.eval() the test passes)",
    "test_group_prune.py::test_depgraph": "random weights: it compares weights of two downloads",
    "test_multiple_inputs_and_outputs.py::test_multi_io": "removes features that the model "
    "returns: we refuse to change the shape of a model's outputs (with output_transform=lambda "
    "outputs: outputs[2] the test passes)",
}
"""Why a test does not pass: by file or ``file::test``; each was looked into by hand."""


def run_file(path: Path, graph: str, timeout: float) -> list[dict[str, Any]]:
    """Run one test file on one graph.

    Args:
        path: The file.
        graph: One of ``GRAPHS``.
        timeout: Seconds that it may take.

    Returns:
        For each test: ``test``, ``outcome``, ``seconds`` and the last line of the ``error``.
    """
    program = "def test_" not in path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        plugin = ROOT / "scripts" / "_torch_pruning_plugin.py"
        command = [sys.executable, str(plugin), str(path)]
        if not program:
            options = [
                "-q",
                "-p",
                "_torch_pruning_plugin",
                "-p",
                "no:cacheprovider",
                "-c",
                os.devnull,
            ]
            command = [sys.executable, "-m", "pytest", str(path), *options]
            command += [f"--rootdir={folder}", f"--junitxml={report}"]
        start = time.perf_counter()
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=_environment(graph),
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return [_row(path.name, "timeout", timeout, f"more than {timeout:.0f} s")]
        seconds = time.perf_counter() - start
        if report.exists():
            return _read_report(path.name, report)
    outcome = "passed" if done.returncode == 0 else "failed"
    lines = (done.stderr or done.stdout).strip().splitlines()
    return [_row(path.name, outcome, seconds, "" if outcome == "passed" else lines[-1])]


def _environment(graph: str) -> dict[str, str]:
    places = [str(ROOT / "scripts"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "GRAPH": graph,
        "PYTHONPATH": os.pathsep.join(p for p in places if p),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
    }


def _row(test: str, outcome: str, seconds: float, error: str) -> dict[str, Any]:
    return {"test": test, "outcome": outcome, "seconds": round(seconds, 1), "error": error[:300]}


def _read_report(name: str, report: Path) -> list[dict[str, Any]]:
    rows = []
    for case in ET.parse(report).getroot().iter("testcase"):
        outcome, error = "passed", ""
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                outcome = "skipped" if child.tag == "skipped" else "failed"
                error = (child.get("message") or "").strip().splitlines()[0]
        test = f"{name}::{case.get('name')}"
        rows.append(_row(test, outcome, float(case.get("time") or 0), error))
    return rows


def compare(path: Path, timeout: float) -> list[dict[str, Any]]:
    """Run one file on both graphs; one record a test."""
    theirs, ours = ({r["test"]: r for r in run_file(path, g, timeout)} for g in GRAPHS)
    records = []
    for test in dict.fromkeys([*theirs, *ours]):
        missing = _row(test, "missing", 0, "it was not reached")
        one, two = theirs.get(test, missing), ours.get(test, missing)
        records.append(
            {
                "experiment": "torch_pruning_tests",
                "criterion": test,  # the key of a record
                "test": test,
                "torch_pruning": one["outcome"],
                "sepprune_tp": two["outcome"],
                "seconds": {"torch_pruning": one["seconds"], "sepprune_tp": two["seconds"]},
                "errors": {"torch_pruning": one["error"], "sepprune_tp": two["error"]},
                "reason": REASONS.get(test, REASONS.get(path.name, "")),
                **environment(),
            }
        )
    return records


def table(records: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    both = [(r["torch_pruning"], r["sepprune_tp"]) for r in records]
    lines = [
        "# torch-pruning's own tests on `ChannelGraph`",
        "",
        "Written by `scripts/torch_pruning_tests.py` from `torch_pruning_tests.json`. "
        + origin(records),
        "",
        f"{len(records)} tests; {sum(t == 'passed' for t, _ in both)} pass on torch-pruning's "
        f"graph, {sum(o == 'passed' for _, o in both)} on ours, "
        f"{sum(t == 'passed' and o != 'passed' for t, o in both)} on torch-pruning's only.",
        "",
        "| test | torch-pruning | ours | seconds | reason |",
        "|---|---|---|---:|---|",
    ]
    for r in sorted(records, key=lambda r: str(r["test"])):
        seconds = "{torch_pruning:.1f} / {sepprune_tp:.1f}".format(**r["seconds"])
        reason = r["reason"] or r["errors"]["torch_pruning"]
        reason = reason.replace("|", "\\|").replace("\n", " ")
        lines.append(
            f"| {r['test']} | {r['torch_pruning']} | {r['sepprune_tp']} | {seconds} | {reason} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tests", type=Path, required=True, help="torch-pruning's tests/")
    parser.add_argument("--only", default="test_", help="files whose name contains this")
    parser.add_argument("--skip", nargs="*", default=[], help="file names to leave out")
    parser.add_argument("--timeout", type=float, default=900, help="seconds a file and graph")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    store = Records(args.out)
    for path in sorted(args.tests.resolve().glob("test_*.py")):
        if args.only not in path.name or path.name in args.skip:
            continue
        records = compare(path, args.timeout)
        store.replace(*records)
        write_atomically(args.out.with_suffix(".md"), table(store.items))
        for r in records:
            print(r["torch_pruning"], r["sepprune_tp"], r["test"], r["errors"], flush=True)


if __name__ == "__main__":
    main()
