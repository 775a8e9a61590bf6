"""Which way of learning gates keeps most, on one dense model, budget and stream of mixtures.

Every method spends the same steps on the same mixtures with frozen weights, and ends with the best
scores that meet the budget. Nothing is recovered afterwards. Scored on validation mixtures, so that
the choice is not made on those that the results are shown on; as pruned, and with the layers that
lost inputs reconstructed by least squares.

Usage: python benchmarks/search_methods.py run; python benchmarks/search_methods.py table
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import _fsdd_dense as dense
import torch
import torch_pruning as tp
import typer
from _records import Records, data_hash, environment, origin, scores, write_atomically
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.criteria.rules import RULES, Moment, Rule
from sepprune_tp import (
    Budget,
    Distillation,
    GateSet,
    SepPruneImportance,
    SepPrunePruner,
    profile,
    reconstruct,
)
from sepprune_tp.data import batches
from sepprune_tp.evaluate import evaluate
from sepprune_tp.gates import Lookahead
from sepprune_tp.graph.kept import KeptChannels
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.search import select

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"
DATA = ROOT.parent.parent / "shared" / "fsdd"
WEIGHTS = ROOT / "checkpoints" / "fsdd_convtasnet.safetensors"

STARTS = ("zero", "magnitude", "taylor")
LOSSES = ("task", "waveform", "task + waveform", "features", "task + features")
WARM_UP = 25  # steps that only measure sensitivities, where the start needs them
RAMP = 0.5  # share of the steps in which the limit falls to the budget
STIFFNESS, RISE = 50.0, 2.0  # of the constraint, as in the package
CLIP = 5.0
REPAIRS = ("none", "least squares")
Batch = tuple[Tensor, Tensor]

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


def loss_named(name: str, gates: GateSet) -> Any:
    """The task loss, or a distillation from the dense model."""
    if name == "task":
        return pit_neg_si_sdr
    features = [g.name for g in gates.groups] if "features" in name else []
    return Distillation(
        task_weight=float("task" in name),
        waveform=float("waveform" in name or "features" in name),
        features=dict.fromkeys(features, 1 / max(1, len(features))),
        kept=gates,
    )


def starting_scores(start: str, gates: GateSet, drawn: Sequence[Batch]) -> Tensor:
    """Scores of mean 0 and deviation 1 (or all 0), shape (N,)."""
    if start == "zero":
        return torch.zeros(len(gates))
    found = magnitudes(gates) if start == "magnitude" else sensitivities(gates, drawn)
    level = torch.log(found + 1e-12)
    return ((level - level.mean()) / (level.std() + 1e-12)).clamp(-3, 3)


def sensitivities(gates: GateSet, drawn: Sequence[Batch]) -> Tensor:
    """Mean |dL / dgate| with all gates open, shape (N,)."""
    total = torch.zeros(len(gates))
    with gates, dense.fast_global_norm():
        for mixture, sources in drawn:
            values = torch.ones(len(gates)).requires_grad_()
            gates.use(values)
            loss = pit_neg_si_sdr(gates.model(mixture), sources)
            total += torch.autograd.grad(loss, values)[0].abs()
    return total / len(drawn)


def observed(gates: GateSet, drawn: Sequence[Batch]) -> Lookahead:
    """What lets open channels stand in for closed ones, from the dense model on some batches."""
    ahead = gates.look_ahead()
    with torch.no_grad():
        for mixture, _ in drawn:
            with ahead.observing():
                gates.model(mixture)
    return ahead


def magnitudes(gates: GateSet) -> Tensor:
    """Norm of the weights that make each gate's channels, by torch-pruning's criterion."""
    pruner = SepPrunePruner(
        gates.model,
        torch.zeros(1, 8000),
        tp.importance.GroupMagnitudeImportance(normalizer=None),
        pruning_ratio=0.5,
        scope=gates.scope,
    )
    found = torch.ones(len(gates))
    named = {group.name: group for group in gates.groups}
    for group in pruner.graph.get_all_groups([], pruner.root_module_types):
        name = pruner.graph.name_of(group[0].dep.target.module)
        score = pruner.estimate_importance(group)
        if score is not None and name in named:
            found[named[name].gates] = score
    return found


def searched(
    gates: GateSet,
    drawn: Sequence[Batch],
    rule: Rule,
    start: str,
    loss: Any,
    budget: float,
    seed: int,
) -> Tensor:
    """Learn scores and cut them to the budget: True where a channel stays, shape (N,)."""
    limits = Budget(macs=budget).limits(gates)
    generator = torch.Generator().manual_seed(seed)
    steps = len(drawn)
    warm = WARM_UP if start == "taylor" else 0
    model = gates.model.eval().requires_grad_(False)
    price = 0.0
    scores_ = (starting_scores(start, gates, drawn[:warm]) + rule.start).requires_grad_()
    if rule.ahead:
        gates.lookahead = observed(gates, drawn[:WARM_UP])
    optimizer = torch.optim.Adam([scores_], lr=0.1)
    with gates, dense.fast_global_norm():
        for step in range(warm, steps):
            done = (step - warm) / (steps - warm)
            allowed = 1 + min(1.0, done / RAMP) * (budget - 1)
            moment = Moment(done, allowed, generator)
            mixture, sources = drawn[step]
            if isinstance(loss, Distillation):
                gates.use(torch.ones(len(gates)))
                loss.begin(mixture, model)
            values = rule.gates(gates, scores_, moment)
            gates.use(values)
            total = loss(model(mixture), sources)
            if rule.opened is not None:
                expected = limits.expected(rule.opened(scores_, values, moment))
                excess = (expected - allowed).sum()
                total = total + price * excess + STIFFNESS * excess.clamp(min=0) ** 2
                price = max(0.0, price + RISE * float(excess.detach()))
            optimizer.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_([scores_], CLIP)
            optimizer.step()
    gates.lookahead = None
    model.requires_grad_(True)
    return select(gates.groups, scores_.detach(), limits)


def cells(every: bool) -> list[tuple[str, str, str]]:
    """Rule, start and loss: all starts with the task loss, all losses from the best start."""
    if every:
        return list(itertools.product(RULES, STARTS, LOSSES))
    with_task = [
        (name, start, "task")
        for name, rule in RULES.items()
        for start in STARTS
        if start == "taylor" or not rule.ahead
    ]
    others = [("hard concrete", "taylor", loss) for loss in LOSSES[1:]]
    others += [("straight-through", "taylor", loss) for loss in LOSSES[1:3]]
    others += [("hard concrete, ahead", "taylor", loss) for loss in LOSSES if "task +" in loss]
    return with_task + others


@app.command()
def run(
    data: Annotated[Path, typer.Option(help="Folder that holds recordings/.")] = DATA,
    weights: Annotated[Path, typer.Option(help="The trained dense model.")] = WEIGHTS,
    results: Annotated[Path, typer.Option(help="Folder of the records and the page.")] = RESULTS,
    budget: Annotated[list[float], typer.Option(help="Share of the MACs.")] = [0.25, 0.5],  # noqa: B006
    seed: Annotated[list[int], typer.Option(help="Of mixtures and samples.")] = [0],  # noqa: B006
    steps: Annotated[int, typer.Option(help="Of every search, warm-up included.")] = 500,
    every: Annotated[bool, typer.Option(help="All rules x starts x losses.")] = False,
    only: Annotated[str, typer.Option(help="One cell, or those whose name holds it.")] = "",
) -> None:
    """Learn, prune and score every cell; finished ones are not repeated."""
    torch.set_num_threads(1)
    trained, description = dense.load(weights)
    validation = dense.validation_set(data)
    example = torch.zeros(1, validation.sample_rate)
    records = Records(results / "search_methods.json")
    dense_macs = profile(trained, example).macs
    fit = list(batches(dense.train_set(data, seed=300), 4, steps=8))
    common = {
        "steps": steps,
        "data_sha256": data_hash(data),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    names = {" / ".join(cell) for cell in cells(every)}
    for seed_, share, (rule, start, loss) in itertools.product(seed, budget, cells(every)):
        name = f"{rule} / {start} / {loss}"
        if only in names and only != name:
            continue
        key = {"criterion": name, "budget": share, "seed": seed_}
        if only not in name or len(records.find(**key, **common)) == len(REPAIRS):
            continue
        drawn = list(batches(dense.train_set(data, seed=200 + seed_), 1, steps=steps))
        model = copy.deepcopy(trained)
        gates = GateSet(model, example)
        began = time.perf_counter()
        keep = searched(gates, drawn, RULES[rule], start, loss_named(loss, gates), share, seed_)
        seconds = time.perf_counter() - began
        kept = KeptChannels(model)
        gates.set_keep(keep)
        SepPrunePruner(model, example, importance=SepPruneImportance(gates)).step()
        for repair in REPAIRS:
            if repair != "none":
                with dense.fast_global_norm():
                    reconstruct(model, trained, fit, kept)
            with dense.fast_global_norm():
                found = evaluate(model, validation, sample_rate=8000, batch_size=10)
            cost = profile(model, example)
            record = {
                "experiment": "search_methods",
                "model": description["model"],
                "data": "fsdd, validation mixtures",
                **key,
                "stage": "pruned",
                "repair": repair,
                **scores(found),
                "params": cost.params,
                "macs": cost.macs,
                "macs_share": round(cost.macs / dense_macs, 4),
                "seconds": round(seconds, 1),
                **common,
                **environment(),
            }
            records.replace(record)
            typer.echo(f"{name}, {share:.0%}, seed {seed_}, {repair}: {record['si_sdri']:.2f} dB")
        table(results)


@app.command()
def table(
    results: Annotated[Path, typer.Option(help="Folder of the records and the page.")] = RESULTS,
) -> None:
    """Write search_methods.md from the records."""
    items = Records(results / "search_methods.json").items
    if not items:
        raise typer.BadParameter(f"there are no records in {results}")
    write_atomically(results / "search_methods.md", page(items))


def page(items: Sequence[dict[str, Any]]) -> str:
    """The records as a Markdown page."""
    columns = sorted({(-r["budget"], REPAIRS.index(r["repair"])) for r in items})
    names = sorted({r["criterion"] for r in items})
    means, cells = {}, {}
    for name, (share, repair) in itertools.product(names, columns):
        found = [
            r["si_sdri"]
            for r in items
            if (r["criterion"], -r["budget"], r["repair"]) == (name, share, REPAIRS[repair])
        ]
        if found:
            means[name, share, repair] = statistics.fmean(found)
            spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
            cells[name, share, repair] = f"{statistics.fmean(found):.2f}{spread}"
    last = columns[-1]
    names.sort(key=lambda name: -means.get((name, *last), -99.0))
    titles = [f"{-share:.0%}" + ", least squares" * repair for share, repair in columns]
    rows = [
        " | ".join([*name.split(" / "), *(cells.get((name, *c), "") for c in columns)])
        for name in names
    ]
    models = ", ".join(sorted({r["model"] for r in items}))
    steps = ", ".join(sorted({str(r["steps"]) for r in items}))
    seeds = len({r["seed"] for r in items})
    return "\n".join(
        [
            "# Ways to learn gates",
            "",
            "Generated by `python benchmarks/search_methods.py` from `search_methods.json`.",
            "",
            f"SI-SDRi in dB of the pruned {models}, not trained further, on 64 validation "
            f"mixtures of 2 s of FSDD; {seeds} seed(s). Every search takes {steps} steps of one "
            "mixture of 2 s with frozen weights and ends with the best scores that meet the "
            "budget of MACs. `hard concrete / taylor / task` is what `learn_gates` does, `hard "
            "concrete, ahead` what it does with `lookahead=True`, `gumbel` the paper's rule.",
            "",
            f"| gates | start | loss | {' | '.join(titles)} |",
            "|---|---|---|" + "---:|" * len(columns),
            *(f"| {row} |" for row in rows),
            "",
            f"Machine: {origin(items)}",
            "",
        ]
    )


if __name__ == "__main__":
    app()
