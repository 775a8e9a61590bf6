"""What the figures of a record amount to."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo.ours import EXACT, SEEDS

__all__ = [
    "MORE",
    "exact",
    "host_left",
    "host_works",
    "keeps_more",
    "reason",
    "share",
    "through_a_file",
    "verdict",
    "works",
    "worst",
]

Record = dict[str, Any]
FILE = "file"
"""Stage of what ``save_pruned`` and ``load_pruned`` fail of."""
MORE = 1.1
"""Ours may keep this many times the parameters that torch-pruning keeps."""


def exact(record: Record) -> bool | None:
    """Whether gated and pruned agree with the masks of every seed; None if it was not measured."""
    error = worst(record)
    return None if error is None else error <= EXACT[record["ours"]["precision"]]


def worst(record: Record) -> float | None:
    """Largest difference of gated and pruned, over masks and batches; None: not measured."""
    errors = [*record["ours"].get("errors", ()), record["ours"].get("error_another_batch", 0.0)]
    return max(errors) if len(errors) > 1 else None


def works(record: Record) -> bool:
    """Whether a row can be gated and pruned, is exact, and runs forwards and backwards after it."""
    ours = record["ours"]
    whole = not ("ended" in ours or "broken" in ours or _failures(record))
    return whole and len(ours.get("errors", ())) == len(SEEDS) and bool(exact(record))


def through_a_file(record: Record) -> str:
    """How the pruned network came back from a file; empty if it did not get that far."""
    failed = [f for f in record["ours"].get("failures", ()) if f["stage"] == FILE]
    return str(failed[0]["message"][:100]) if failed else record["ours"].get("round_trip", "")


def _failures(record: Record) -> list[Record]:
    """Failures of all stages but the file, which is told beside them."""
    return [found for found in record["ours"].get("failures", ()) if found["stage"] != FILE]


def share(record: Record) -> float:
    """Share of the parameters in groups; 0 if there is no graph."""
    return float(record["ours"].get("share", 0.0))


def reason(record: Record) -> str:
    """The reason that protects most, apart from being an output; empty if nothing is protected."""
    reasons = [found["reason"] for found in record["ours"].get("reasons", ())]
    return next((text for text in reasons if text != "it is an output of the model"), "")


def verdict(record: Record) -> str:
    """How a row came out, in one line."""
    ours = record["ours"]
    if "broken" in ours:
        return f"cannot be built: {ours['broken']}"
    if exact(record) is False:
        return f"WRONG: gated and pruned differ by {worst(record):.0e}"
    if "ended" in ours:
        return f"{ours.get('stage', 'graph')}: {ours['ended']}"
    if _failures(record):
        first = _failures(record)[0]
        return f"{first['stage']}: {first['type']}: {first['message'][:160]}"
    return f"works, {share(record):.0%} of the parameters in groups"


def host_works(record: Record, side: str) -> bool:
    """Whether torch-pruning by itself left a smaller network that runs and gives the same shape."""
    found = record.get(side, {})
    failed = found.get("failures") or "ended" in found or "broken" in found
    return not failed and found.get("left", record["ours"]["params"]) < record["ours"]["params"]


def host_left(record: Record) -> int | None:
    """Fewest parameters that torch-pruning leaves in a network that runs; None if none does."""
    sides = [side for side in ("host", "host_with_heads") if host_works(record, side)]
    return min((int(record[side]["left"]) for side in sides), default=None)


def keeps_more(record: Record) -> float | None:
    """How many times torch-pruning's parameters ours keeps, where that is more than it may."""
    left, theirs = record["ours"].get("left"), host_left(record)
    if left is None or theirs is None or left <= MORE * theirs:
        return None
    return float(left / theirs)
