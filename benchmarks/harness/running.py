"""Go through the cells of experiments; several processes may share the work."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from .bench import Bench
from .cells import Cell
from .config import Experiment
from .data import Corpus, open_corpus
from .dense import FOLDER, load
from .records import UNREACHABLE, Record, Records

__all__ = ["RESULTS", "WORK", "benches", "run_cells"]

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
WORK = ROOT / "runs" / "benchmarks"


def benches(
    experiment: Experiment,
    models: Collection[str] = (),
    results: Path = RESULTS,
    work: Path = WORK,
    checkpoints: Path = FOLDER,
    devices: int = 1,
) -> Iterator[Bench]:
    """One for every dense model of an experiment that is asked for."""
    corpus: Corpus = open_corpus(experiment.data)
    records = Records(records_of(experiment, results))
    for name in experiment.models:
        if not models or name in models:
            dense = load(name, corpus.name, checkpoints)
            yield Bench(experiment, dense, corpus, records, work, devices)


def records_of(experiment: Experiment, results: Path = RESULTS) -> Path:
    """The file of an experiment's records."""
    return results / f"{experiment.name.replace('/', '_')}.json"


def run_cells(
    bench: Bench,
    say: Callable[[str], None],
    wanted: Callable[[Cell], bool] = lambda cell: True,
) -> int:
    """Run what is missing and no other process is at; how many cells are still missing.

    Args:
        bench: Of one dense model.
        say: Told a line for every cell.
        wanted: Whether a cell is to be run.
    """
    missing = 0
    for cell in filter(wanted, bench.cells()):
        bench.records.read()
        if bench.found(cell):
            continue
        with _claimed(bench, cell) as mine:
            if not mine:
                missing += 1
                continue
            say(_line(bench.run(cell)))
    return missing


@contextmanager
def _claimed(bench: Bench, cell: Cell) -> Iterator[bool]:
    """Whether this process may run a cell; a claim ends with the process that made it."""
    key = (bench.experiment.name, bench.dense.name, cell.choice.label, cell.budget, cell.seed)
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    folder = bench.work / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _line(record: Record) -> str:
    what = (
        f"{record['model']} {record['criterion']} {record['budget']:.0%} seed {record['seed']} "
        f"{record['recovery']}"
    )
    if record["stage"] == UNREACHABLE:
        return f"{what}: {record['reason']}"
    return (
        f"{what}: SI-SDRi {record['si_sdri']:.2f} dB, {record['macs_share']:.1%} of "
        f"the MACs, {record['seconds']:.0f} s"
    )
