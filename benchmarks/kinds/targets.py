"""What the benchmarks were to show beside what they show; from the records of the others."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness.config import Experiment, find
from benchmarks.harness.dense import description_of
from benchmarks.pages import curves
from benchmarks.pages.markdown import table, times
from benchmarks.pages.quality import Lead, lead
from benchmarks.speed.table import against_dense

from .base import Kind, Only
from .grid import current

__all__ = ["KIND", "verdict"]

Record = dict[str, Any]
Row = list[str]
RESULTS = Path(__file__).resolve().parents[1] / "results"


def verdict(measured: float | None, asked: float, digits: int = 2) -> str:
    """Whether a figure is at least what was asked for, as they are printed."""
    if measured is None:
        return "not measured"
    short = round(asked - round(measured, digits), digits)
    return "met" if short <= 0 else f"missed by {short:.{digits}f}"


def _dense(asked: float) -> Iterator[Row]:
    experiment = find("dense")
    found = {}
    for name in experiment.models:
        try:
            found[name] = description_of(name, str(experiment.data["name"]))["si_sdri"]
        except FileNotFoundError:
            continue
    name = max(found, key=lambda one: found[one])
    yield [
        "the best dense model, SI-SDRi (dB)",
        name,
        f"{asked:g}",
        f"{found[name]:.2f}",
        "",
        verdict(found[name], asked),
    ]


def _ahead(options: dict[str, Any]) -> Iterator[Row]:
    for budget, targets in options["budgets"].items():
        for way, asked in targets.items():
            what = f"ahead at {float(budget):.0%} of the MACs, {way} (dB)"
            for name, found in _leads(options["criteria"][way], float(budget), way):
                ahead = None if found is None else found.ahead
                yield [what, name, f"{asked:g}", *_shown(found), verdict(ahead, asked)]


def _whole(options: dict[str, Any]) -> Iterator[Row]:
    ours, theirs = options["recovery"], options["against"]
    for budget in options["budgets"]:
        what = f"ours {ours} over theirs {theirs}, {float(budget):.0%} of the MACs (dB)"
        for name, found in _leads(options["criterion"], float(budget), ours, theirs):
            yield [what, name, "", *_shown(found), "not measured" if found is None else ""]


def _leads(
    criterion: str, budget: float, recovery: str, against: str | None = None
) -> Iterator[tuple[str, Lead | None]]:
    """How far ours is ahead of the best of torch-pruning's, for each model."""
    experiment = find("quality")
    records = [r for r in current(experiment) if r["stage"] != "dense"]
    for name in experiment.models:
        runs = [r for r in records if r["model"] == name]
        where = {"budget": budget, "recovery": recovery}
        yield name, lead(experiment, runs, criterion, against=against, **where)


def _shown(found: Lead | None) -> Row:
    return ["", ""] if found is None else [f"{found}, {found.best}", str(len(found.gaps))]


def _epoch(asked: float) -> Iterator[Row]:
    experiment = find("curves")
    records = current(experiment)
    for name in experiment.models:
        mine = [r for r in records if r["model"] == name]
        dense = next((r["si_sdri"] for r in mine if r["stage"] == "dense"), math.nan)
        best = _best_epoch(mine)
        share = _level(best) / dense if best else None
        yield [
            f"one epoch of recovery at {experiment.budgets[0]:.0%} of the MACs, "
            "share of the dense SI-SDRi",
            name,
            f"{asked:.0%}",
            "" if share is None else f"{share:.1%}",
            str(len(best) or ""),
            verdict(None if share is None else 100 * share, 100 * asked, 1),
        ]


def _best_epoch(records: list[Record]) -> list[Record]:
    """The runs of the way that is best after one epoch, one a seed; empty if there are none."""
    ways: dict[tuple[str, str], list[Record]] = {}
    for r in records:
        if r["recovery"].startswith("one epoch"):
            ways.setdefault((r["criterion"], r["recovery"]), []).append(r)
    return max(ways.values(), key=_level, default=[])


def _level(runs: list[Record]) -> float:
    return statistics.fmean(run["si_sdri"] for run in runs)


def _sooner(asked: float) -> Iterator[Row]:
    experiment = find("curves")
    records = current(experiment)
    what = "one epoch as good as the dense model's own training, sooner (counting the search)"
    for name in experiment.models:
        factors, best = None, _best_epoch([r for r in records if r["model"] == name])
        if best:
            own = curves.heard(description_of(name, str(experiment.data["name"])))
            taken = curves.dense_takes(own, best) or math.inf
            epoch = curves.epoch_mixtures(experiment)
            factors = taken / epoch, taken / (epoch + curves.searched(best[0]))
        yield _times(what, name, asked, factors, len(best), "the dense model never is")
    what = "trained on, as good as the same shape from random weights, sooner (counting the search)"
    for name in experiment.models:
        mine = [r for r in records if (r["model"], r["criterion"]) == (name, "sepprune")]
        ways = {way: curve for (_, _, way), curve in curves.mean_curves(mine).items()}
        factors, runs = None, [r for r in mine if r["recovery"] == "recovered"]
        if {"recovered", "scratch"} <= ways.keys():
            factors = curves.sooner_twice(runs, ways["recovered"], ways["scratch"])
        yield _times(what, name, asked, factors, len(runs) if factors else 0, "at once")


def _times(
    what: str,
    name: str,
    asked: float,
    factors: tuple[float, float] | None,
    seeds: int,
    endless: str,
) -> Row:
    """A row of a factor, not counting the search and counting it."""
    if factors is None:
        return [what, name, f"{asked:g} ×", "", "", verdict(None, asked)]
    plain, counting = (times(factor, endless) for factor in factors)
    measured = f"{plain} ({counting})"
    return [what, name, f"{asked:g} ×", measured, str(seeds), verdict(factors[0], asked, 0)]


def _speed(asked: float) -> Iterator[Row]:
    records: list[Record] = json.loads((RESULTS / "speed.json").read_text())
    whole = [r for r in records if r["mode"] == "offline" and r["budget"] == 0.5]
    for model, source in dict.fromkeys((r["model"], r["source"]) for r in whole):
        own = [r for r in whole if (r["model"], r["source"]) == (model, source)]
        for threads in sorted({r["threads"] for r in own}):
            shares = []
            for r in own:
                if r["threads"] == threads and not r["variant"].startswith("dense"):
                    speedup, macs = against_dense(r, own)
                    shares.append(speedup * macs)
            met = sum(share >= asked for share in shares)
            yield [
                f"speed-up over reduction of MACs, half the MACs, {threads} thread(s)",
                f"{model} ({source})",
                f"{asked:g}",
                f"{min(shares):.2f} to {max(shares):.2f}, median {statistics.median(shares):.2f}",
                "",
                "met" if met == len(shares) else f"met in {met} of {len(shares)} settings",
            ]


def _search(asked: float) -> Iterator[Row]:
    records: list[Record] = json.loads((RESULTS / "search_cost.json").read_text())
    found = next(r for r in records if r["experiment"] == "search_cost")
    yield [
        "a search step over a step with frozen weights, at most",
        found["model"],
        f"{asked:g}",
        f"{found['ratio']:.2f} ({min(found['ratios']):.2f} to {max(found['ratios']):.2f})",
        "",
        "met" if found["ratio"] <= asked else f"missed by {found['ratio'] - asked:.2f}",
    ]


PARTS: dict[str, Callable[[Any], Iterator[Row]]] = {
    "dense": _dense,
    "ahead": _ahead,
    "whole": _whole,
    "epoch": _epoch,
    "sooner": _sooner,
    "speed": _speed,
    "search": _search,
}


def _section(experiment: Experiment) -> list[str]:
    rows = [row for name, asked in experiment.options.items() for row in PARTS[name](asked)]
    return table(["", "model", "asked", "measured", "seeds", "so"], rows, text=(0, 1, 3, 5))


def _run(experiment: Experiment, only: Only, say: Callable[[str], None]) -> None:
    say(f"{experiment.name} needs no run: it reads the records of the others")


KIND = Kind(_run, lambda experiment: "read from other records", _section)
