"""Networks as people write them, by kinds, and whether each comes out as wanted.

python tests/people_networks.py                 # all, one line each
python tests/people_networks.py rms rotary      # those whose name or kind holds one of the words
"""

from __future__ import annotations

import copy
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import people_attention
import people_code
import people_norms
import people_operations
import people_recurrent
import people_statistics
import people_weights
import people_widths
import torch
import torch_pruning as tp
from people_cases import CASES, Case
from people_not_yet import COST_NOT_YET, NOT_YET
from torch import Tensor, nn

from sepprune_tp import (
    ChannelGraph,
    GateSet,
    SepPruneImportance,
    SepPrunePruner,
    load_pruned,
    save_pruned,
)
from sepprune_tp.errors import SepPruneError
from sepprune_tp.graph.outputs import tensors_of

_COLLECTIONS = (
    people_attention,
    people_code,
    people_norms,
    people_operations,
    people_recurrent,
    people_statistics,
    people_weights,
    people_widths,
)

__all__ = ["CASES", "COST_NOT_YET", "NOT_YET", "Outcome", "examine", "wanted"]

_EXACT = 1e-9
_PLACE = re.compile(r"\w+\.py:\d+|layer '[\w.]+' cannot be cut")
_NATURAL = (
    "it is an output of the model",
    "it meets the model's input",
    "it is a single channel",
    "no layer with weights reads its channels",
    "works along another axis than that of the channels",
    "stands for several of another layer, such as a head",
)
"""Reasons that need no place, and that no better rule takes away."""


@dataclass(frozen=True)
class Outcome:
    """How a case came out.

    Attributes:
        failure: ``crash``, ``wrong value``, ``fails when cut``, ``protected``, ``reason`` or
            ``file``; empty if all is as wanted.
        said: What was seen.
        cost: Parameters that the gates predict, where these are not those that are left.
    """

    failure: str
    said: str
    cost: str = ""

    def __str__(self) -> str:
        said = " ".join(self.said.split())
        said = f"{self.failure}: {said}" if self.failure else said
        return f"{said} [COST {self.cost}]" if self.cost else said


class _Failed(Exception):
    def __init__(self, failure: str, said: str) -> None:
        super().__init__(said)
        self.outcome = Outcome(failure, said)


def wanted() -> list[str]:
    """Names of the cases that are to come out as wanted."""
    return [name for name in CASES if name not in NOT_YET]


def network(name: str) -> nn.Module:
    """The network of a case in double precision, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CASES[name].build().double().eval()


def examine(name: str, with_file: bool = False) -> Outcome:
    """Gate, cut, prune by ratio and compare.

    Args:
        name: Of the case.
        with_file: Whether a pruned network also goes through a file.
    """
    try:
        said, cost = _examine(CASES[name], network(name), name, with_file)
        return Outcome("", said, cost)
    except _Failed as failed:
        return failed.outcome


def _examine(one: Case, net: nn.Module, name: str, with_file: bool) -> tuple[str, str]:
    dense = _run(one, net, one.example())
    made = _gates(one, net)
    if isinstance(made, str):
        _by_ratio(one, net, dense)
        return made, ""
    worst = 0.0
    pruned = net
    for seed in (0, 1):
        made.load_masks(_masks(made, seed))
        pruned = _cut(one, net, made)
        worst = max(worst, *_differences(one, net, made, pruned))
    _by_ratio(one, net, dense)
    if with_file:
        _through_a_file(one, name, pruned)
    share = made.graph.report().share
    if share < one.share:
        raise _Failed("protected", f"{share:.0%} can go, {one.share:.0%} wanted{_why(made)}")
    if one.want == "cut" and not one.partly:
        left = [f"{k}: {why}" for k, why in made.graph.protected.items() if not _natural(why)]
        if left:
            raise _Failed("protected", f"in part, {'; '.join(left)[:300]}")
    reasons = _without_place(made.graph.protected)
    if reasons:
        raise _Failed("reason", "; ".join(reasons))
    predicted = made.cost().params
    cost = "" if predicted == _count(pruned) else f"{predicted} predicted, {_count(pruned)} left"
    return f"{len(made.groups)} groups, {share:.0%} can go, off by {worst:.0e}", cost


def _gates(one: Case, net: nn.Module) -> GateSet | str:
    """The gates, or what is said where there are none and that is as wanted."""
    try:
        made = GateSet(net, _given(one.example()), scope="all", **one.options)
    except SepPruneError as error:
        said = f"{type(error).__name__}: {error}"
        if one.want == "refused" and one.refusal in said:
            return said
        if "did not run on the example" in said or one.want == "refused":
            raise _Failed("crash", said[:400]) from error
        if one.want == "cut":
            raise _Failed("protected", said[:400]) from error
        graph = ChannelGraph("all").build_dependency(net, _given(one.example()), **one.options)
        reasons = _without_place(graph.protected)
        if reasons:
            raise _Failed("reason", "; ".join(reasons)) from error
        return said
    except Exception as error:
        raise _Failed("crash", _where(error)) from error
    if one.want == "refused":
        raise _Failed("wrong value", f"not refused; groups {[g.name for g in made.groups]}")
    return made


def _given(example: tuple[Tensor, ...]) -> Any:
    return example[0] if len(example) == 1 else example


def _run(one: Case, net: nn.Module, example: tuple[Tensor, ...]) -> list[Tensor]:
    call = one.options.get("forward_fn", lambda net, given: net(*example))
    with torch.no_grad():
        output = call(net, _given(example))
    try:
        return tensors_of(one.options.get("output_transform", lambda o: o)(output))
    except SepPruneError:
        return []


def _masks(gates: GateSet, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for number, group in enumerate(gates.groups):
        width = min(group.size - 1, group.size // 2 + (number + seed) % 2)
        order = torch.randperm(group.size, generator=generator)
        found[group.name] = torch.zeros(group.size, dtype=torch.bool)
        found[group.name][order[: max(1, width)]] = True
    return found


def _cut(one: Case, net: nn.Module, gates: GateSet) -> nn.Module:
    pruned = copy.deepcopy(net)
    try:
        SepPrunePruner(
            pruned, _given(one.example()), importance=SepPruneImportance(gates), **one.options
        ).step()
    except Exception as error:
        raise _Failed("crash", f"while cutting: {_where(error)}") from error
    return pruned


def _differences(one: Case, net: nn.Module, gates: GateSet, pruned: nn.Module) -> Iterator[float]:
    """Gated against cut on the example and on another batch size."""
    examples = [one.example(seed=1)]
    if not one.fixed_batch and all(len(shape) > 1 for shape in one.inputs):
        examples.append(one.example(batch=3, seed=2))
    for example in examples:
        try:
            with gates:
                wanted = _run(one, net, example)
        except Exception as error:
            raise _Failed("crash", f"with gates: {_where(error)}") from error
        try:
            found = _run(one, pruned, example)
        except Exception as error:
            raise _Failed(
                "fails when cut", f"{type(error).__name__}: {str(error)[:200]}"
            ) from error
        if [t.shape for t in found] != [t.shape for t in wanted]:
            shapes = [tuple(t.shape) for t in found]
            raise _Failed("wrong value", f"outputs have other shapes: {shapes}")
        for one_, other in zip(found, wanted, strict=True):
            off = _far(one_, other)
            if not off <= _EXACT:
                raise _Failed("wrong value", f"gated and cut differ by {off:.1e}")
            yield off


def _far(found: Tensor, wanted: Tensor) -> float:
    if not found.numel():
        return 0.0
    if not (found.is_floating_point() or found.is_complex()):
        return float(not torch.equal(found, wanted))
    return float((found - wanted).abs().max() / (wanted.abs().max() + 1e-300))


def _by_ratio(one: Case, net: nn.Module, dense: list[Tensor]) -> None:
    """Half of the channels by magnitude: what can be cut without gates goes too."""
    for together in (False, True):
        halved = copy.deepcopy(net)
        example = _given(one.example())
        magnitude = tp.importance.GroupMagnitudeImportance()
        options: dict[str, Any] = {"scope": "all", "global_pruning": together, **one.options}
        try:
            SepPrunePruner(halved, example, magnitude, 0.5, **options).step()
        except SepPruneError:
            return
        except Exception as error:
            raise _Failed("crash", f"pruning by ratio: {_where(error)}") from error
        try:
            found = _run(one, halved, one.example())
        except Exception as error:
            said = f"by ratio: {type(error).__name__}: {str(error)[:200]}"
            raise _Failed("fails when cut", said) from error
        if [t.shape for t in found] != [t.shape for t in dense]:
            shapes = [tuple(t.shape) for t in found]
            raise _Failed("wrong value", f"by ratio, outputs have other shapes: {shapes}")
        if not all(bool(t.isfinite().all()) for t in found):
            raise _Failed("wrong value", "by ratio, outputs are not finite")


def _through_a_file(one: Case, name: str, pruned: nn.Module) -> None:
    example = one.example(seed=3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pruned.safetensors"
        try:
            save_pruned(pruned, path)
            loaded = load_pruned(path, model=network(name)).eval()
        except Exception as error:
            raise _Failed("file", _where(error)) from error
    for found, wanted in zip(_run(one, loaded, example), _run(one, pruned, example), strict=True):
        if not torch.equal(found, wanted):
            raise _Failed("file", f"loaded and saved differ by {_far(found, wanted):.1e}")


def _count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def _why(gates: GateSet) -> str:
    found = {why: layer for layer, why in gates.graph.protected.items() if why not in _NATURAL}
    return "".join(f"; {layer}: {why}" for why, layer in found.items())[:300]


def _without_place(protected: dict[str, str]) -> list[str]:
    """Reasons that do not say where."""
    return [
        f"{layer}: {why[:200]}"
        for layer, why in protected.items()
        if not _PLACE.search(why) and not _natural(why)
    ]


def _natural(why: str) -> bool:
    return any(known in why for known in _NATURAL)


def _where(error: Exception) -> str:
    """The error, and the innermost line of the package that it came from."""
    ours = [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "sepprune_tp" in frame.filename
    ]
    return f"{type(error).__name__}: {str(error)[:200]} [{ours[-1] if ours else 'not ours'}]"


def main(words: list[str]) -> int:
    """Print how cases come out; the number that is not as wanted."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    bad = 0
    chosen = [n for n, c in CASES.items() if not words or any(w in n or w in c.kind for w in words)]
    for name in chosen:
        outcome = examine(name, with_file=True)
        bad += bool(outcome.failure)
        print(f"{'BAD' if outcome.failure else 'ok '} {CASES[name].kind:12s} {name:44s} {outcome}")
    print(f"{len(chosen) - bad} of {len(chosen)} as wanted")
    return bad


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
