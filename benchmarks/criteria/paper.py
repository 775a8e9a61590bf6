"""The published search: Gumbel gates under the task loss alone.

Source:
    SepPrune, arXiv 2505.12079, equations 3 to 5; its final mask is the last random sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.criteria.base import Chosen, Search
from benchmarks.criteria.gating import gates_of
from benchmarks.criteria.memory import remembered
from benchmarks.criteria.options import OptionError, one_of, positive, read
from benchmarks.criteria.published_gates import PublishedGates
from benchmarks.criteria.ranking import reaching
from sepprune_tp import Budget, GateSet, learn_gates
from sepprune_tp.gates import Gumbel
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.search import masks_for

__all__ = ["Options", "choose"]


@dataclass(frozen=True)
class Options:
    """What of the published rule to take.

    Attributes:
        masks: ``ranked``: scores ranked to the budget; ``last sample``: verbatim, the mask drawn
            in the last step, whatever it costs.
        gates: ``prune-exact``: the package's, which compute what pruning leaves; ``published``:
            on outputs behind the norms, whose statistics hold closed channels too.
        epsilon: Threshold ε of a gate, in (0, 1).
        steps: Of the search.
        batch: Mixtures in a step.
        lr: Of Adam.
    """

    masks: str = "ranked"
    gates: str = "prune-exact"
    epsilon: float = 0.7
    steps: int = 500
    batch: int = 1
    lr: float = 0.1

    def __post_init__(self) -> None:
        one_of("masks", self.masks, ("ranked", "last sample"))
        one_of("gates", self.gates, ("prune-exact", "published"))
        positive(steps=self.steps, batch=self.batch, lr=self.lr)
        if not 0 < self.epsilon < 1:
            raise OptionError(f"epsilon={self.epsilon} is not in (0, 1)")


def choose(search: Search) -> Chosen:
    """Learn gates by the published rule; ``last sample`` does not look at the budget."""
    options = read(Options, search.options)
    key = ("paper", replace(options, masks="ranked"))
    gates = remembered(search, key, lambda: _learned(search, options))
    if options.masks == "last sample":
        share = gates.cost().macs / gates.cost_model.dense.macs
        return Chosen(gates.masks(), {"macs_share": share})
    with reaching(search.budget):
        return Chosen(masks_for(gates, Budget(macs=search.budget)))


def _learned(search: Search, options: Options) -> GateSet:
    """Gates after a search; their masks are the last sample."""
    made = PublishedGates if options.gates == "published" else GateSet
    gates = gates_of(search, Gumbel(threshold=options.epsilon), made)
    learn_gates(
        gates,
        search.batches(options.steps, options.batch),
        pit_neg_si_sdr,
        steps=options.steps,
        lr=options.lr,
        seed=search.seed,
        progress=False,
    )
    return gates
