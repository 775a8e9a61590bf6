"""The benchmark's criteria: masks that meet a budget, by what each of them says it looks at."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

models = pytest.importorskip("asteroid.models", reason="the benchmark needs the extra 'asteroid'")
if not (Path(__file__).parents[1] / "benchmarks").is_dir():
    pytest.skip("benchmarks/ is not installed", allow_module_level=True)

from benchmarks.criteria import (  # noqa: E402
    CRITERIA,
    Batch,
    Chosen,
    OptionError,
    Search,
    UnreachableError,
    criterion,
    feature_rank,
    gradients,
    memory,
)
from benchmarks.criteria.gating import gates_of  # noqa: E402
from benchmarks.criteria.hyper_network import excess, gumbel_sigmoid, seeded  # noqa: E402
from benchmarks.criteria.norm_scale import scales  # noqa: E402
from benchmarks.criteria.published_gates import PublishedGates  # noqa: E402
from benchmarks.criteria.ranking import at_one_rate  # noqa: E402
from benchmarks.criteria.rules import RULES  # noqa: E402
from benchmarks.criteria.torch_pruning import smallest_ratio  # noqa: E402
from sepprune_tp import GateSet, SepPruneImportance, SepPrunePruner, profile  # noqa: E402

CONV = {"n_filters": 8, "bn_chan": 16, "hid_chan": 24, "skip_chan": 8, "n_blocks": 3}
SUDO = {"n_filters": 8, "bn_chan": 16, "num_blocks": 4, "upsampling_depth": 3}
DPRNN = {"n_filters": 8, "bn_chan": 8, "hid_size": 10, "n_repeats": 1, "chunk_size": 10}
SMALL: dict[str, dict[str, Any]] = {
    "ConvTasNet": {**CONV, "n_repeats": 1, "kernel_size": 16, "stride": 8},
    "SuDORMRFImprovedNet": {**SUDO, "kernel_size": 16, "stride": 8},
    "DPRNNTasNet": {**DPRNN, "kernel_size": 16, "stride": 8},
}
X = torch.zeros(1, 800)
LEARNED = ("sepprune", "sepprune/lookahead", "sepprune/family", "paper", "UDSP", "joint", "learned")
UNLIMITED = "paper/last sample"
FEW = {
    **{name: {"steps": 4} for name in (*LEARNED, UNLIMITED)},
    "HRank": {"mixtures": 2},
    **{n: {"mixtures": 2} for n in CRITERIA if "Taylor" in n or "Hessian" in n},
}


@functools.cache
def dense(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(models, name)(n_src=2, **SMALL[name]).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() <= 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def drawn(seed: int) -> Callable[[int, int], list[Batch]]:
    def batches(steps: int, size: int) -> list[Batch]:
        generator = torch.Generator().manual_seed(seed)
        sources = torch.randn(steps, size, 2, 800, generator=generator)
        return [(s.sum(1), s) for s in sources]

    return batches


def search_of(name: str = "ConvTasNet", budget: float = 0.5, seed: int = 0) -> Search:
    return Search(copy.deepcopy(dense(name)), X, drawn(seed), budget, seed)


def chosen(criterion_name: str, search: Search, **options: Any) -> Chosen:
    return criterion(criterion_name, {**FEW.get(criterion_name, {}), **options})(search)


def share(name: str, masks: dict[str, Tensor]) -> float:
    gates = GateSet(dense(name), X)
    return gates.cost(masks).macs / gates.cost_model.dense.macs


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# -- all of them ----------------------------------------------------------------------------------


def test_names() -> None:
    modes = ("", "/local", "/isomorphic")
    kinds = ("Magnitude", "Taylor", "Hessian")
    importances = [f"Group{kind}Importance" for kind in kinds]
    importances += ["LAMPImportance", "FPGMImportance", "RandomImportance"]
    theirs = {f"{one}{mode}" for one in importances for mode in modes}
    theirs |= {f"GroupMagnitudeImportance-L1{mode}" for mode in modes}
    assert len(theirs) == 21
    assert set(CRITERIA) == {*LEARNED, UNLIMITED, "HRank", "NormScale", *theirs}


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("model", SMALL)
def test_masks_meet_the_budget(model: str, name: str) -> None:
    search = search_of(model)
    state = copy.deepcopy(search.model.state_dict())
    random = torch.get_rng_state()
    if (model, name) == ("DPRNNTasNet", "NormScale"):  # its widest groups have no norm
        with pytest.raises(UnreachableError, match="50%"):
            chosen(name, search)
        return
    found = chosen(name, search)
    assert torch.equal(torch.get_rng_state(), random)
    sizes = {group.name: group.size for group in GateSet(dense(model), X).groups}
    assert {group: mask.numel() for group, mask in found.masks.items()} == sizes
    assert all(mask.dtype == torch.bool and mask.any() for mask in found.masks.values())
    kept = share(model, found.masks)
    if name == UNLIMITED:
        assert found.details["macs_share"] == kept
    else:
        assert 0.25 < kept <= 0.5
    left = search.model.state_dict()
    assert all(torch.equal(state[key], left[key]) for key in state) == (name != "joint")
    assert all(p.requires_grad and p.grad is None for p in search.model.parameters())
    assert not search.model.training


@pytest.mark.parametrize("name", [*LEARNED, UNLIMITED, "HRank", "NormScale", "RandomImportance"])
def test_masks_follow_the_seed(name: str) -> None:
    first, again, other = (chosen(name, search_of(seed=seed)).masks for seed in (1, 1, 2))
    assert same(first, again)
    if name not in ("HRank", "NormScale"):
        assert not same(first, other)


def test_masks_are_what_pruning_leaves() -> None:
    search = search_of()
    gates = GateSet(search.model, X)
    gates.load_masks(chosen("HRank", search).masks)
    importance = SepPruneImportance(gates)
    SepPrunePruner(search.model, X, importance=importance).step()
    assert profile(search.model, X).macs == gates.cost().macs


@pytest.mark.parametrize("name", [n for n in CRITERIA if n != UNLIMITED])
def test_a_budget_out_of_reach_is_said(name: str) -> None:
    with pytest.raises(UnreachableError, match=r"1%|MACs"):
        chosen(name, search_of(budget=0.01))


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(OptionError, match=r"no criterion is called 'Hrank'; .*HRank, UDSP"):
        criterion("Hrank")
    with pytest.raises(OptionError, match=r"'HRank': no option rate; .*global \(False\)"):
        criterion("HRank", {"rate": 0.5})
    with pytest.raises(OptionError, match="mixtures='two' is not of type int"):
        criterion("HRank", {"mixtures": "two"})
    with pytest.raises(OptionError, match="'sepprune/family' stands for family=True"):
        criterion("sepprune/family", {"family": False})
    with pytest.raises(OptionError, match="at its own budget, not for a family"):
        criterion("sepprune/family", {"rounded": True})
    with pytest.raises(OptionError, match="'none', 'waveform', 'features'"):
        criterion("sepprune", {"distill": "estimates"})
    with pytest.raises(OptionError, match="'trained', 'frozen'"):
        criterion("UDSP", {"weights": "thawed"})
    with pytest.raises(OptionError, match="epsilon"):
        criterion("paper", {"epsilon": 1})
    with pytest.raises(OptionError, match="no option rate"):
        CRITERIA["HRank"](replace(search_of(), options={"rate": 0.5}))


def test_a_scope_may_name_modules() -> None:
    search = replace(search_of(), scope=["masker.TCN.0"], budget=0.9)
    for name in ("HRank", "NormScale", "sepprune", "GroupMagnitudeImportance"):
        masks = chosen(name, search).masks
        assert masks and all(group.startswith("masker.TCN.0") for group in masks)


# -- by feature rank and by scale -----------------------------------------------------------------


def constant_channel(model: nn.Module, layer: str, channel: int) -> None:
    found: Any = model.get_submodule(layer)
    with torch.no_grad():
        found.weight[channel], found.bias[channel] = 0, 0


def test_rank_of_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(25, generator=generator)
    periodic = torch.randn(5, generator=generator).repeat(5)
    series = torch.stack([square, periodic, torch.zeros(25)])
    assert feature_rank.ranks(series[:, None], 1e-2).tolist() == [5, 1, 0]
    with_rest = torch.cat([series, torch.ones(3, 3)], 1)  # 28 frames: three are left over
    assert feature_rank.ranks(with_rest[:, None], 1e-2).tolist() == [5, 1, 0]
    table = torch.randn(2, 1, 4, 3, generator=generator)
    table[1] = table[1, :, :1]
    assert feature_rank.ranks(table, 1e-2).tolist() == [3, 1]


def test_rank_is_zero_for_a_constant_zero() -> None:
    search = search_of()
    group = next(g for g in GateSet(search.model, X).groups if "TCN.0" in g.name)
    constant_channel(search.model, group.name, 3)
    gates = gates_of(search)
    ranks = feature_rank.mean_ranks(gates, drawn(0)(2, 1), 1e-2)[group.gates]
    assert ranks[3] == 0 and ranks.argmin() == 3
    assert ranks.sort().values[1] > 0
    assert all(
        not chosen("HRank", search, **{"global": g}).masks[group.name][3] for g in (False, True)
    )


def test_rank_reads_channels_of_recurrent_layers() -> None:
    search = search_of("DPRNNTasNet")
    gates = gates_of(search)
    name = next(
        g.name for g in gates.groups if isinstance(search.model.get_submodule(g.name), nn.LSTM)
    )
    group = next(g for g in gates.groups if g.name == name)
    layer: Any = search.model.get_submodule(name)
    size = layer.hidden_size
    with torch.no_grad():  # the output gate of unit 2 is shut in both directions
        for key, parameter in layer.named_parameters():
            rows = parameter[3 * size + 2 :: 4 * size]
            rows.copy_(torch.zeros_like(rows) if key.startswith("weight") else rows * 0 - 1e4)
    ranks = feature_rank.mean_ranks(gates, drawn(0)(1, 1), 1e-2)[group.gates]
    assert len(ranks) == group.size
    assert ranks[2] == 0 and (ranks > 0).sum() == group.size - 1


def test_one_rate_is_the_smallest_that_meets_the_budget() -> None:
    search = search_of()
    gates = gates_of(search)
    scores = torch.rand(len(gates), generator=torch.Generator().manual_seed(0))
    masks, rate = at_one_rate(gates, scores, 0.5)
    for group in gates.groups:
        mask, own = masks[group.name], scores[group.gates]
        assert (~mask).sum() == min(group.size - 1, int(rate * group.size + 1e-9))
        assert own[mask].min() > own[~mask].max()
    sizes = {group.size for group in gates.groups}
    less = max(k / n for n in sizes for k in range(n) if k / n < rate)
    fewer = {
        g.name: scores[g.gates] >= scores[g.gates].sort().values[int(less * g.size + 1e-9)]
        for g in gates.groups
    }
    assert share("ConvTasNet", masks) <= 0.5 < share("ConvTasNet", fewer)
    assert at_one_rate(gates, scores, 1.0)[1] == 0


@pytest.mark.parametrize("local", [False, True])
def test_scale_drops_a_channel_whose_gain_is_zero(local: bool) -> None:
    search = search_of(budget=0.95)
    group = next(g for g in GateSet(search.model, X).groups if "TCN.0" in g.name)
    block: Any = search.model.get_submodule(group.name.rpartition(".")[0])
    with torch.no_grad():
        for module in block.modules():
            if hasattr(module, "gamma"):
                module.gamma[5] = 0
    found = scales(gates_of(search))[group.gates]
    assert found[5] == 0 and found.sort().values[1] > 0
    norms = [m.gamma.detach().abs() for m in block.modules() if hasattr(m, "gamma")]
    assert len(norms) == 2  # of the depthwise layer, in front of it and behind it
    torch.testing.assert_close(found, torch.stack(norms).double().mean(0))
    assert not chosen("NormScale", search, local=local).masks[group.name][5]


def test_groups_without_norms_stay() -> None:
    search = search_of(budget=0.9)
    gates = gates_of(search)
    bare = scales(gates).isnan()
    found = chosen("NormScale", search)
    without = [g.name for g in gates.groups if bare[g.gates].all()]
    assert without == found.details["without norms"]
    assert without and all(found.masks[name].all() for name in without)


# -- learned --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", SMALL)
def test_published_gates_count_closed_channels_in_norms(model: str) -> None:
    network = dense(model)
    masks = {group.name: torch.arange(group.size) % 2 == 0 for group in GateSet(network, X).groups}
    mixture = drawn(0)(1, 1)[0][0]
    outputs = []
    for made in (GateSet, PublishedGates):
        gates = made(network, X)
        with gates, torch.no_grad():
            outputs.append(network(mixture))
        with torch.no_grad():
            torch.testing.assert_close(outputs[-1], network(mixture))  # all open: the model itself
        gates.load_masks(masks)
        with gates, torch.no_grad():
            outputs.append(network(mixture))
    exact, published = outputs[1], outputs[3]
    assert (exact - published).abs().max() > 1e-3 * exact.abs().max()


def test_published_gates_multiply_what_readers_see() -> None:
    network = dense("ConvTasNet")
    gates = PublishedGates(network, X)
    group = next(g for g in gates.groups if "TCN.0" in g.name)
    keep = torch.arange(group.size) % 3 == 0
    block: Any = network.get_submodule(group.name.rpartition(".")[0])
    last = [m for m in block.modules() if hasattr(m, "gamma")][-1]
    hook = last.register_forward_hook(lambda m, a, y: y * keep.to(y)[:, None])
    mixture = drawn(0)(1, 1)[0][0]
    with torch.no_grad():
        expected = network(mixture)
        hook.remove()
        gates.load_masks({group.name: keep})
        with gates:
            torch.testing.assert_close(network(mixture), expected)


def test_published_gates_are_searched() -> None:
    exact = chosen("paper", search_of()).masks
    published = chosen("paper", search_of(), gates="published").masks
    assert share("ConvTasNet", published) <= 0.5
    assert not same(exact, published)


def test_threshold_sets_what_a_sample_keeps() -> None:
    shares = [
        chosen(UNLIMITED, search_of(), epsilon=e, steps=1).details["macs_share"] for e in (0.5, 0.9)
    ]
    assert shares[0] > shares[1]


@pytest.mark.parametrize(
    "options",
    [{"distill": "waveform"}, {"distill": "features"}, {"kind": "gumbel"}],
)
def test_options_of_our_search(options: dict[str, Any]) -> None:
    assert share("ConvTasNet", chosen("sepprune", search_of(), **options).masks) <= 0.5


def test_a_family_is_nested() -> None:
    small, large = (chosen("sepprune/family", search_of(budget=b)).masks for b in (0.4, 0.7))
    assert all(bool((large[name] >= small[name]).all()) for name in small)
    assert share("ConvTasNet", small) < share("ConvTasNet", large)


def test_joint_with_our_gates() -> None:
    search = search_of()
    masks = chosen("joint", search, kind="budget").masks
    assert share("ConvTasNet", masks) <= 0.5
    before = dense("ConvTasNet").state_dict()
    still = [k for k, v in search.model.state_dict().items() if torch.equal(before[k], v)]
    assert all(name.startswith("masker.TCN.2.res_conv") for name in still)  # nobody reads it


def test_hyper_network_opens_all_gates_and_learns_to_close_them() -> None:
    static, dynamic = seeded(0, [40, 60])
    generator = torch.Generator().manual_seed(0)
    assert static().shape == (100,)
    assert dynamic(torch.randn(1, 800)).shape == (100,)
    assert gumbel_sigmoid(static(), generator).mean() > 0.9
    optimizer = torch.optim.Adam(static.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        excess(gumbel_sigmoid(static(), generator).sum(), 50.0).backward()
        optimizer.step()
    with torch.no_grad():
        assert gumbel_sigmoid(static(), generator).mean() < 0.7
    assert excess(torch.tensor(40.0), 50.0) == 0
    assert float(excess(torch.tensor(100.0), 50.0)) == pytest.approx(3.0103, abs=1e-3)


def test_frozen_and_trained_weights_are_two_searches() -> None:
    trained, frozen = (chosen("UDSP", search_of(), weights=w) for w in ("trained", "frozen"))
    assert trained.details["thresholded macs_share"] > 0.9  # four steps close nothing yet
    assert share("ConvTasNet", frozen.masks) <= 0.5


# -- torch-pruning --------------------------------------------------------------------------------


def test_gradients_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    original = gradients.gradients_of
    monkeypatch.setattr(gradients, "gradients_of", lambda *a: taken.append(1) or original(*a))
    monkeypatch.setattr(memory, "_KNOWN", type(memory._KNOWN)())
    for name in ("GroupTaylorImportance", "GroupHessianImportance/local"):
        for budget in (0.5, 0.7):
            chosen(name, search_of(budget=budget))
    assert len(taken) == 1
    chosen("GroupTaylorImportance", search_of(seed=1))
    changed = search_of()
    constant_channel(changed.model, "masker.TCN.0.shared_block.0", 0)
    chosen("GroupTaylorImportance", changed)
    assert len(taken) == 3


@pytest.mark.parametrize("mode", ["", "/local", "/isomorphic"])
@pytest.mark.parametrize("model", ["ConvTasNet", "DPRNNTasNet"])
def test_masks_are_what_torch_pruning_cuts(model: str, mode: str) -> None:
    import torch_pruning as tp

    search = search_of(model)
    found = chosen(f"GroupMagnitudeImportance-L1{mode}", search)
    theirs = copy.deepcopy(search.model)
    options = {"global_pruning": mode != "/local", "isomorphic": mode == "/isomorphic"}
    importance = tp.importance.GroupMagnitudeImportance(p=1)
    SepPrunePruner(theirs, X, importance, found.details["ratio"], **options).step()
    gates = GateSet(search.model, X)
    gates.load_masks(found.masks)
    SepPrunePruner(search.model, X, SepPruneImportance(gates)).step()
    left, right = search.model.state_dict(), theirs.state_dict()
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_the_smallest_ratio_that_meets_a_budget_is_taken() -> None:
    def left(ratio: float) -> float:
        return 1 - ratio if ratio < 0.8 else 0.45  # a group that is left whole again

    assert smallest_ratio(left, 0.5) == pytest.approx(0.5, abs=1e-4)
    assert smallest_ratio(left, 0.21) == pytest.approx(0.79, abs=1e-4)
    with pytest.raises(UnreachableError, match="10%"):
        smallest_ratio(left, 0.1)


@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_of_learning_meets_the_budget(rule: str) -> None:
    search = search_of()
    options = {"rule": rule, "start": "magnitude", "loss": "task + features"}
    masks = chosen("learned", search, **options).masks
    assert 0.3 < share("ConvTasNet", masks) <= 0.5
    other = {**options, "start": "zero", "loss": "waveform"}
    assert not same(masks, chosen("learned", search_of(), **other).masks)


def test_weights_that_learn_along_are_put_back() -> None:
    frozen, along = search_of(), search_of()
    before = copy.deepcopy(along.model.state_dict())
    masks = chosen("learned", along, weights_lr=0.01).masks
    assert share("ConvTasNet", masks) <= 0.5
    assert not same(masks, chosen("learned", frozen).masks)  # they did learn
    for name, value in along.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.requires_grad and p.grad is None for p in along.model.parameters())
    with pytest.raises(OptionError, match="weights_lr"):
        chosen("learned", search_of(), weights_lr=0.01, loss="waveform")


def test_rounded_widths_are_those_that_run_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def steps(gates: GateSet, round_to: Any) -> Any:
        asked.append(round_to)
        return 4 if round_to == "auto" else 1

    monkeypatch.setattr("sepprune_tp.search.steps.steps_for", steps)
    search = search_of()
    masks = chosen("sepprune", search, rounded=True).masks
    assert asked == ["auto"] and share("ConvTasNet", masks) <= 0.5
    assert all(int(mask.sum()) % 4 == 0 or bool(mask.all()) for mask in masks.values())
    plain = chosen("sepprune", search_of()).masks
    assert asked == ["auto", 1] and any(int(mask.sum()) % 4 for mask in plain.values())


def test_two_devices_choose_what_one_chooses() -> None:
    pytest.importorskip("lightning", reason="several devices need the extra 'train'")
    search = search_of()
    search.model.double()
    search = replace(search, example=X.double(), batches=doubled(search.batches))
    both = replace(search, devices=2)
    assert same(chosen("sepprune", search, batch=2).masks, chosen("sepprune", both, batch=2).masks)
    with pytest.raises(OptionError, match="several devices"):
        chosen("sepprune", both, distill="waveform")


def doubled(batches: Callable[[int, int], list[Batch]]) -> Callable[[int, int], list[Batch]]:
    return lambda steps, size: [(x.double(), s.double()) for x, s in batches(steps, size)]
