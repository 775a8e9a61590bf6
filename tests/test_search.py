"""The search: budgets are met, the published rule is as published, bad input is named."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from sepprune_tp.errors import BudgetError, CheckpointError, DataError, InputError, SearchError
from sepprune_tp.gates import GateSet, HardConcrete
from sepprune_tp.gates.parametrisation import Gumbel, parametrisation
from sepprune_tp.importance import SepPruneImportance
from sepprune_tp.profile import profile
from sepprune_tp.pruner import SepPrunePruner
from sepprune_tp.search import Budget, SearchResult, learn_gates
from sepprune_tp.search.ranking import smallest
from sepprune_tp.search.selection import select

TIME = 64
few = settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class Separator(nn.Module):
    """Encoder, a masker with two hidden layers and a residual, decoder: (B, T) -> (B, 2, T)."""

    def __init__(self, hidden: int = 12) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.encoder = nn.Conv1d(1, 8, 5, padding=2)
            self.masker = nn.Sequential(
                nn.Conv1d(8, hidden, 1),
                nn.GroupNorm(1, hidden),
                nn.ReLU(),
                nn.Conv1d(hidden, hidden, 3, padding=1),
                nn.ReLU(),
                nn.Conv1d(hidden, 16, 1),
            )
            self.decoder = nn.Conv1d(8, 1, 5, padding=2)

    def forward(self, mixture: Tensor) -> Tensor:
        encoded = self.encoder(mixture[:, None])
        masks = self.masker(encoded).unflatten(1, (2, 8)).sigmoid()
        return torch.cat([self.decoder(masks[:, s] * encoded) for s in (0, 1)], 1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batches(count: int = 3, size: int = 2) -> list[tuple[Tensor, Tensor]]:
    sources = [noise(size, 2, TIME, seed=i) for i in range(count)]
    return [(s.sum(1), s) for s in sources]


def gates_of(kind: Any = "budget", scope: Any = "all", model: nn.Module | None = None) -> GateSet:
    return GateSet(Separator().eval() if model is None else model, noise(1, TIME), scope, kind)


def learn(gates: GateSet, **options: Any) -> SearchResult:
    given_ = {"batches": batches(), "steps": 4, "progress": False, **options}
    if not isinstance(gates.kind, Gumbel):
        given_.setdefault("budget", Budget(macs=0.7))
    return learn_gates(gates, **given_)


# -- budgets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "an empty budget bounds nothing: give macs=, params="),
        ({"macs": 0}, r"macs=0: give a share of the dense model in \(0, 1\] or as"),
        ({"macs": -3}, "macs=-3: give a share"),
        ({"params": math.nan}, "params=nan: give a share"),
        ({"macs": "half"}, "macs='half': give a share"),
        ({"macs": 0.5, "of": "decoder"}, "of='decoder': a budget is of='model' or of='separator'"),
    ],
)
def test_malformed_budgets(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget(**options)


@cache
def wide(scope: str = "all") -> GateSet:
    """A Conv-TasNet with enough channels to come close to any budget."""
    models = pytest.importorskip("asteroid.models", reason="needs the extra 'asteroid'")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.ConvTasNet(
            n_src=2, n_filters=64, bn_chan=32, hid_chan=64, skip_chan=32, n_blocks=2, n_repeats=2
        )
    return GateSet(model.eval(), noise(1, 800), scope=scope)


def masks_of(gates: GateSet, budget: Budget, seed: int) -> Tensor:
    return select(gates.groups, noise(len(gates), seed=seed), budget.limits(gates))


@few
@given(
    share=st.floats(0.1, 1.0),
    of=st.sampled_from(["model", "separator"]),
    what=st.sampled_from(["macs", "params"]),
    seed=st.integers(0, 99),
)
def test_budgets_are_met_from_below_within_one_percent(
    share: float, of: str, what: str, seed: int
) -> None:
    gates = wide()
    name = what if of == "model" else f"separator_{what}"
    dense = getattr(gates.cost_model.dense, name)
    for amount in (share, share * dense):  # a share, or the same as a number
        keep = masks_of(gates, Budget(**{what: amount}, of=of), seed)
        found = getattr(gates.cost_model.exact(keep), name)
        assert 0.99 * share * dense <= found <= share * dense
    scores = noise(len(gates), seed=seed)
    for group in gates.groups:  # of each group the best are kept
        mask, own = keep[group.gates], scores[group.gates]
        assert mask.any() and (mask.all() or own[mask].min() > own[~mask].max())


def test_two_bounds_at_once() -> None:
    gates = wide()
    dense = gates.cost_model.dense
    for macs, params in ((0.3, 0.9), (0.9, 0.3), (0.5, 0.5)):
        found = gates.cost_model.exact(masks_of(gates, Budget(macs=macs, params=params), 0))
        shares = found.macs / dense.macs, found.params / dense.params
        assert shares[0] <= macs and shares[1] <= params
        assert shares[0] > 0.98 * macs or shares[1] > 0.98 * params


def test_the_whole_model_is_within_a_whole_budget() -> None:
    assert bool(masks_of(wide(), Budget(macs=1.0), 0).all())
    assert bool(masks_of(wide(), Budget(macs=1e15), 0).all())


@pytest.mark.parametrize("budget", [Budget(macs=0.5), Budget(params=0.4, of="separator")])
def test_learned_masks_meet_the_budget_when_pruned(budget: Budget) -> None:
    gates = gates_of()
    result = learn(gates, budget=budget, steps=12)
    small = Separator().eval()
    SepPrunePruner(small, noise(1, TIME), SepPruneImportance(gates)).step()
    found, dense = profile(small, noise(1, TIME)), profile(gates.model, noise(1, TIME))
    assert (found.params, found.macs) == (result.cost.params, result.cost.macs)
    if budget.macs is not None:
        assert found.macs <= 0.5 * dense.macs
    else:
        assert found.separator.params <= 0.4 * dense.separator.params


def test_out_of_reach_says_what_is_reachable() -> None:
    gates = gates_of()
    least = gates.cost_model.exact(smallest(gates.groups))
    dense = gates.cost_model.dense
    message = (
        rf"out of reach with the fewest channels left in each of {len(gates.groups)} groups: "
        rf"macs=0.001 asked, macs=\S+ reachable \({least.macs:,} MACs, "
        rf"{least.macs / dense.macs:.1%} of the dense"
        r" model\)\. Ask for more, or widen the scope"
    )
    with pytest.raises(BudgetError, match=message):
        learn(gates, budget=Budget(macs=0.001))
    with pytest.raises(BudgetError, match=r"params=5 asked, params=\d+ reachable .* separator"):
        learn(gates, budget=Budget(params=5, of="separator"))
    learn(gates, budget=Budget(macs=float(least.macs)))  # the named figure can be had
    assert all(int(mask.sum()) == 1 for mask in gates.masks().values())


def test_a_budget_is_needed() -> None:
    with pytest.raises(BudgetError, match="kind='budget' learns under a budget: give budget="):
        learn(gates_of(), budget=None)
    with pytest.raises(InputError, match="steps=0: a search takes at least one step"):
        learn(gates_of(), steps=0)
    with pytest.raises(InputError, match="kind is 'paper'; it must be one of 'gumbel', 'budget'"):
        gates_of("paper")


# -- bad input -----------------------------------------------------------------------------------


def broken(change: Any) -> list[Any]:
    """Good batches, the second of which is changed."""
    good: list[Any] = batches()
    good[1] = change(*good[1])
    return good


def with_nan(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[3] = math.nan
    return tensor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, s: (with_nan(m), s), "the mixture of batch 1 holds NaN or infinity"),
        (lambda m, s: (m, with_nan(s)), "the sources of batch 1 holds NaN or infinity"),
        (lambda m, s: (m, s * math.inf), "the sources of batch 1 holds NaN or infinity"),
        (lambda m, s: m, r"batch 1 is a Tensor; give pairs \(mixture \(B, T\), sources"),
        (lambda m, s: (m, s, s), r"batch 1 is a tuple; give pairs"),
        (lambda m, s: (m, s[:, 0]), r"sources of shape \(2, 64\); expected \(B, T\) and"),
        (
            lambda m, s: (m[:1], s),
            r"a mixture of shape \(1, 64\) and sources of shape \(2, 2, 64\)",
        ),
        (lambda m, s: (m[:, :-1], s), "batch 1: the mixture has 63 samples, its sources 64"),
    ],
)
def test_bad_batches_are_named(change: Any, message: str) -> None:
    gates = gates_of()
    with pytest.raises(DataError, match=message):
        learn(gates, batches=broken(change))
    assert all("forward" not in m.__dict__ for m in gates.model.modules())


def test_nan_in_weights_names_the_group() -> None:
    model = Separator().eval()
    with torch.no_grad():
        model.masker[3].weight[2, 0, 0] = math.nan
    gates = gates_of(model=model, scope="separator")
    assert [g.name for g in gates.groups] == ["masker.0", "masker.3"]
    message = "loss is not finite at step 0; it first appears in 'masker.3', of group 'masker"
    with pytest.raises(SearchError, match=message):
        learn(gates)
    assert all(p.requires_grad for p in model.parameters())


def test_nan_in_the_loss_is_told_apart() -> None:
    with pytest.raises(SearchError, match="no gated layer gives one, so it arises in the loss"):
        learn(gates_of(), loss=lambda estimates, sources: estimates.sum() * math.nan)


def test_nan_in_a_gradient_names_the_group() -> None:
    def loss(estimates: Tensor, sources: Tensor) -> Tensor:
        return (estimates - estimates.detach()).abs().sum().sqrt()  # 0, with an infinite slope

    with pytest.raises(SearchError, match=r"gradient of the gates of group '\S+' is not finite"):
        learn(gates_of(), loss=loss)


@pytest.mark.parametrize("empty", [[], DataLoader(TensorDataset(noise(3, 4)), 8, drop_last=True)])
def test_no_batches(empty: Any) -> None:
    with pytest.raises(SearchError, match="batches is empty: the search needs at least one"):
        learn(gates_of(), batches=empty)
    with pytest.raises(SearchError, match="batches is empty"):
        learn(gates_of(), batches=iter(()))


def test_batches_of_every_kind() -> None:
    """A list and a loader start over; all give the same search."""
    one = batches(2)

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from one

    mixtures, sources = (torch.cat(part) for part in zip(*one, strict=True))
    loader = DataLoader(TensorDataset(mixtures, sources), batch_size=2)
    results = []
    for source in (one, tuple(one), endless(), loader):
        gates = gates_of()
        learn(gates, batches=source, steps=5)
        results.append(gates.scores)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_a_generator_that_ends_too_soon() -> None:
    with pytest.raises(
        SearchError, match="batches ended after 3 of 4 steps and cannot be iterated"
    ):
        learn(gates_of(), batches=(b for b in batches(3)))


def test_mixtures_with_a_channel_axis() -> None:
    class Squeezing(Separator):
        def forward(self, mixture: Tensor) -> Tensor:
            return super().forward(mixture.flatten(1))

    gates = gates_of(model=Squeezing().eval())
    result = learn(gates, batches=[(m[:, None], s) for m, s in batches()])
    assert len(result.history) == 4


# -- what a search gives -------------------------------------------------------------------------


def test_history_and_result() -> None:
    gates = gates_of()
    result = learn(gates, budget=Budget(macs=0.4), steps=40)
    assert isinstance(result, SearchResult) and result.seconds > 0
    assert result.dense == gates.cost_model.dense and result.cost == gates.cost()
    keys = {"loss", "si_sdr", "macs"}
    assert [keys <= set(step) for step in result.history] == [True] * 40
    assert set(result.history[0]) == keys, "the warm-up has no limit"
    last = result.history[-1]
    assert last["macs_limit"] == pytest.approx(0.4) and last["macs_expected"] == last["macs"]
    assert all(math.isfinite(v) for step in result.history for v in step.values())
    assert all(step["loss"] == pytest.approx(-step["si_sdr"], abs=1e-4) for step in result.history)
    assert result.history[0]["macs"] == 1.0
    assert result.history[-1]["macs"] < result.history[5]["macs"] < 1.0  # it is pushed down
    assert gates.learned and not gates.scores.requires_grad
    assert {n: m.shape[0] for n, m in gates.masks().items()} == {
        g.name: g.size for g in gates.groups
    }


def test_any_loss_between_any_shapes() -> None:
    result = learn(
        gates_of(),
        loss=lambda estimates, sources: functional.mse_loss(estimates.sum(1), sources.sum(1)),
    )
    assert len(result.history) == 4


def test_weights_stay_and_receive_no_gradient() -> None:
    model = Separator().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    learn(gates_of(model=model))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_checkpoint_of_another_search(tmp_path: Path) -> None:
    file = tmp_path / "search.pt"
    learn(gates_of(), checkpoint=file, checkpoint_every=2)
    with pytest.raises(CheckpointError, match=r"belongs to another search: .*'seed': 0.*'seed': 1"):
        learn(gates_of(), checkpoint=file, seed=1)
    file.write_bytes(b"nothing of ours")
    with pytest.raises(CheckpointError, match="is not the checkpoint of a search"):
        learn(gates_of(), checkpoint=file)
    assert [p.name for p in tmp_path.iterdir()] == ["search.pt"]  # no temporary file is left


def test_search_inside_the_gates() -> None:
    """The gates may be on already; afterwards they follow the new masks."""
    gates = gates_of()
    x = noise(1, TIME)
    with torch.no_grad(), gates:
        with torch.enable_grad():
            learn(gates, steps=3)
        inside = gates.model(x)
    with torch.no_grad(), gates:
        assert torch.equal(gates.model(x), inside)
    assert not torch.equal(gates.model(x), inside)


# -- it finds what does not matter ---------------------------------------------------------------


def half_useless() -> tuple[nn.Module, Tensor]:
    """A network whose 16 hidden channels are read by half: the weights of the others are zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Unflatten(1, (1, TIME)),
            nn.Conv1d(1, 16, 9, padding=4),
            nn.ReLU(),
            nn.Conv1d(16, 2, 9, padding=4),
        ).eval()
        useful = torch.zeros(16, dtype=torch.bool)
        useful[torch.randperm(16)[:8]] = True
        with torch.no_grad():
            model[3].weight[:, ~useful] = 0
    return model, useful


@pytest.mark.parametrize("seed", [0, 1])
def test_search_keeps_the_half_that_matters(seed: int) -> None:
    model, useful = half_useless()
    gates = GateSet(model, noise(1, TIME), "all")
    data = []
    for i in range(5):
        mixture = noise(4, TIME, seed=50 + i)
        with torch.no_grad():
            clean = model(mixture)
        data.append((mixture, clean + 0.1 * clean.std() * noise(*clean.shape, seed=80 + i)))
    learn_gates(gates, data, budget=Budget(macs=0.5), steps=30, seed=seed, progress=False)
    (mask,) = gates.masks().values()
    assert torch.equal(mask, useful)
    chance = select(gates.groups, noise(16, seed=seed), Budget(macs=0.5).limits(gates))
    assert int(chance.sum()) == 8 and not torch.equal(chance, useful)  # masks at random would not


# -- the published rule --------------------------------------------------------------------------


def test_gumbel_samples_by_hand() -> None:
    rule = parametrisation("gumbel")
    scores = torch.linspace(-2, 3, 400, requires_grad=True)
    gates = rule.sample(scores, torch.Generator().manual_seed(7))
    uniform = torch.rand(400, generator=torch.Generator().manual_seed(7)).tolist()
    slopes = [(-1) ** i * 0.02 * i for i in range(400)]  # up to 8: most are clipped
    (found,) = torch.autograd.grad(gates, scores, torch.tensor(slopes))
    for i, (alpha, u) in enumerate(zip(scores.tolist(), uniform, strict=True)):
        pi = 1 / (1 + math.exp(-(alpha - math.log(-math.log(u)))))
        assert gates[i] == float(pi > 0.7)
        clipped = max(-1.0, min(1.0, slopes[i]))
        assert float(found[i]) == pytest.approx(clipped * pi * (1 - pi), rel=1e-3, abs=1e-6)
    assert 0.1 < float(gates.detach().mean()) < 0.9


def test_gumbel_starts_between_zero_and_one() -> None:
    scores = Gumbel().initial(500, torch.Generator().manual_seed(0))
    assert 0 <= float(scores.min()) < 0.1 and 0.9 < float(scores.max()) < 1
    assert (Gumbel().threshold, Gumbel().temperature) == (0.7, 1.0)


@pytest.mark.parametrize("rule", [Gumbel(), Gumbel(0.5, 2.0), HardConcrete()])
def test_open_probability_is_that_of_the_samples(rule: Any) -> None:
    for score in (-2.0, 0.0, 1.5):
        scores = torch.full((40_000,), score)
        share = float((rule.sample(scores, torch.Generator().manual_seed(1)) > 0).float().mean())
        assert share == pytest.approx(float(rule.open_probability(torch.tensor(score))), abs=0.012)


def test_hard_concrete_gates() -> None:
    rule, scores = HardConcrete(), torch.zeros(5000, requires_grad=True)
    gates = rule.sample(scores, torch.Generator().manual_seed(0))
    assert float(gates.min()) == 0 and float(gates.max()) == 1
    assert 0.2 < float(((gates > 0) & (gates < 1)).float().mean()) < 0.9
    gates.sum().backward()
    inside = (gates > 0) & (gates < 1)
    assert bool((scores.grad[inside] > 0).all()) and bool((scores.grad[~inside] == 0).all())


class Recording(Gumbel):
    """Remembers its samples."""

    def __init__(self) -> None:
        super().__init__()
        self.samples: list[Tensor] = []

    def sample(self, scores: Tensor, generator: torch.Generator) -> Tensor:
        gates = super().sample(scores, generator)
        self.samples.append(gates.detach().clone())
        return gates


def test_the_final_mask_is_the_last_sample() -> None:
    rule = Recording()
    gates = gates_of(rule)
    result = learn(gates, steps=6)
    assert len(rule.samples) == 6
    last = rule.samples[-1] > 0
    assert not torch.equal(last, rule.samples[-2] > 0)
    for group in gates.groups:
        expected = last[group.gates]
        if expected.any():
            assert torch.equal(gates.masks()[group.name], expected)
    assert result.history[-1]["macs"] == gates.cost().macs / gates.cost_model.dense.macs


def test_the_published_rule_with_a_budget_is_ranked() -> None:
    gates = gates_of("gumbel")
    learn(gates, budget=Budget(macs=0.5))
    expected = select(gates.groups, gates.scores, Budget(macs=0.5).limits(gates))
    assert torch.equal(gates.keep, expected)
    assert gates.cost().macs <= 0.5 * gates.cost_model.dense.macs


def test_the_published_rule_learns_by_adam_alone() -> None:
    """One step from the start: each score moves by lr against the sign of its gradient."""
    gates = gates_of("gumbel")
    learn(gates, steps=1, lr=0.1)
    start = Gumbel().initial(len(gates), torch.Generator().manual_seed(0))
    moved = (gates.scores - start).abs()
    assert bool(((moved < 1e-6) | ((moved - 0.1).abs() < 1e-3)).all())
    assert float(moved.max()) > 0.09


# -- devices and precision -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["budget", "gumbel"])
def test_mixed_precision(kind: str) -> None:
    seen = []

    class Watching(Separator):
        def forward(self, mixture: Tensor) -> Tensor:
            y = super().forward(mixture)
            seen.append(y.dtype)
            return y

    gates = gates_of(kind, model=Watching().eval())
    seen.clear()
    result = learn(gates, autocast=torch.bfloat16)
    assert set(seen) == {torch.bfloat16} and gates.scores.dtype == torch.float32
    assert all(math.isfinite(step["loss"]) for step in result.history)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_on_a_gpu(autocast: torch.dtype | None) -> None:
    model = Separator().eval().cuda()
    gates = GateSet(model, noise(1, TIME).cuda(), "all")
    learn(gates, autocast=autocast)
    assert gates.scores.is_cuda and gates.cost().macs <= 0.7 * gates.cost_model.dense.macs
    with torch.no_grad(), gates:
        masked = model(noise(1, TIME).cuda())
    SepPrunePruner(model, noise(1, TIME).cuda(), SepPruneImportance(gates)).step()
    assert torch.allclose(model(noise(1, TIME).cuda()), masked, atol=1e-5)


def test_a_search_is_not_resumed_under_another_budget(tmp_path: Path) -> None:
    file = tmp_path / "search.pt"
    learn(gates_of(), budget=Budget(macs=0.7), checkpoint=file, checkpoint_every=1)
    with pytest.raises(CheckpointError, match="belongs to another search"):
        learn(gates_of(), budget=Budget(macs=0.6), checkpoint=file, checkpoint_every=1)
