"""The invariants of gates, on every architecture: gated is pruned, open is the dense model.

Each architecture supplies only its model. Masks are random, as are biases, affines and running
statistics; two input lengths; float32 and float64; with negative controls.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch

pytest.importorskip("asteroid", reason="the separators need the extra 'asteroid'")

from architectures import PLAIN, SEPARATORS
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from laws import (
    TIME,
    assert_same,
    drawn_masks,
    example,
    far,
    gated,
    keep_by,
    mixture,
    pruned_copy,
    snapshot,
)
from torch import Tensor, nn

from sepprune_tp.gates import GateSet
from sepprune_tp.importance import SepPruneImportance
from sepprune_tp.layers import rule_of
from sepprune_tp.layers.composite import named_layers
from sepprune_tp.profile import profile
from sepprune_tp.pruner import SepPrunePruner

CASES = [(name, scope) for name in SEPARATORS for scope in ("separator", "all")]
CASES += [(name, "all") for name in PLAIN]
DTYPES = {torch.float32: 1e-5, torch.float64: 1e-10}
LENGTHS = ((1, TIME), (2, 613))

every_case = pytest.mark.parametrize(("name", "scope"), CASES, ids=["-".join(c) for c in CASES])
few = settings(
    max_examples=3,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # a failure is reported as drawn: shrinking runs it hundreds of times
    suppress_health_check=list(HealthCheck),
)


# -- 1: gated is pruned; 3: the cost is exact and no coupled channel is split ---------------------


@every_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@few
@given(data=st.data())
def test_gated_is_pruned(name: str, scope: str, dtype: torch.dtype, data: st.DataObject) -> None:
    gates = gated(name, scope, dtype)
    gates.load_masks(data.draw(drawn_masks(gates)))
    pruned = pruned_copy(gates, example(name, dtype=dtype))
    for seed, shape in enumerate(LENGTHS):
        x = example(name, *shape, seed=seed, dtype=dtype)
        with torch.no_grad(), gates:
            masked = gates.model(x)
        with torch.no_grad():
            y = pruned(x)
        assert y.shape == masked.shape and bool(torch.isfinite(y).all())
        error = far(masked, y)
        if error > DTYPES[dtype]:
            assert dtype is torch.float32 and error <= 4 * rounding(pruned, x)
            assert_exact_in_double(name, scope, gates.masks(), shape)
    assert_cost_is(gates, pruned, example(name, dtype=dtype))
    assert_no_channel_is_split(gates, pruned)


def rounding(model: nn.Module, x: Tensor) -> float:
    """What a model itself loses in float32; single channels under a cumulative norm lose much.

    Nothing that is compared with such a model can agree better: then :func:`assert_exact_in_double`
    has to hold for the very same masks.
    """
    assert x.dtype is torch.float32
    with torch.no_grad():
        return far(model(x).double(), copy.deepcopy(model).double()(x.double()))


def assert_exact_in_double(
    name: str, scope: str, masks: dict[str, Tensor], shape: tuple[int, ...]
) -> None:
    gates = gated(name, scope, torch.float64)
    gates.load_masks(masks)
    pruned = pruned_copy(gates, example(name, dtype=torch.float64))
    x = example(name, *shape, dtype=torch.float64)
    with torch.no_grad():
        with gates:
            masked = gates.model(x)
        assert far(masked, pruned(x)) <= DTYPES[torch.float64]


def assert_cost_is(gates: GateSet, pruned: nn.Module, x: Tensor) -> None:
    predicted, measured = gates.cost(), profile(pruned, x)
    assert predicted.params == measured.params == sum(p.numel() for p in pruned.parameters())
    assert predicted.macs == measured.macs
    assert predicted.separator_params == measured.separator.params
    assert predicted.separator_macs == measured.separator.macs


def assert_no_channel_is_split(gates: GateSet, pruned: nn.Module) -> None:
    """Each side of each layer has lost exactly the channels of closed components."""
    closed: set[int] = set()
    for group, channel_set in zip(gates.groups, gates.graph.prunable_sets(), strict=True):
        mask = gates.masks()[group.name].tolist()
        closed |= {c for c, kept in zip(channel_set.components, mask, strict=True) if not kept}
    seen, layers = 0, dict(named_layers(pruned))
    for channel_set in gates.graph.sets:
        for site in channel_set.sites:
            keep = torch.tensor([c not in closed for c in site.components.tolist()])
            if isinstance(site.owner, nn.Parameter):
                continue
            layer = layers[gates.graph.name_of(site.owner)]
            rule = rule_of(layer)
            if rule is None:  # of many slopes one is left, which is then that of every channel
                assert isinstance(layer, nn.PReLU) and layer.num_parameters == int(keep.sum()) == 1
                continue
            count = rule.n_out(layer) if site.side == "out" else rule.n_in(layer)
            assert count == int(keep.sum()), (gates.graph.name_of(site.owner), site.side)
            plain = isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear))
            if plain and getattr(layer, "groups", 1) == 1:
                dim = int((site.side == "in") != getattr(layer, "transposed", False))
                other = [c not in closed for c in _other_side(gates, site)]
                expected = site.owner.weight.movedim(dim, 0)[keep][:, torch.tensor(other)]
                assert torch.equal(layer.weight.movedim(dim, 0), expected)
                seen += 1
    assert seen


def _other_side(gates: GateSet, site: Any) -> list[int]:
    """Components of the other side of the layer of a site (0: no channel, never closed)."""
    for channel_set in gates.graph.sets:
        for other in channel_set.sites:
            if other.owner is site.owner and other.side != site.side:
                found: list[int] = other.components.tolist()
                return found
    dim = (site.side == "out") != getattr(site.owner, "transposed", False)
    return [0] * int(site.owner.weight.shape[dim])


@every_case
def test_pruned_differs_from_dense_and_trains(name: str, scope: str) -> None:
    """The negative control of the test above, and the backward pass of the pruned model."""
    gates = gated(name, scope)
    gates.load_masks(keep_by(gates, "half"))
    x = example(name, 2)
    pruned = pruned_copy(gates, x)
    with torch.no_grad():
        assert far(pruned(x), gates.model(x)) > 1e-2
    dense = copy.deepcopy(gates.model)
    reached = []
    for model in (dense.train(), pruned.train()):
        model(x).square().mean().backward()
        with_grad = [n for n, p in model.named_parameters() if p.grad is not None]
        reached.append({re.sub(r"(in|[qkv])_proj_", "proj_", name) for name in with_grad})
        assert all(p.requires_grad for p in model.parameters())
    assert reached[0] == reached[1] and len(reached[0]) > 3


@pytest.mark.parametrize("name", [*SEPARATORS, *PLAIN])
def test_gradients_of_gates(name: str) -> None:
    """Frozen weights, as in a search, change nothing; and they are what differences say."""
    gates = gated(name, "all", torch.float64)
    model, x = gates.model, example(name, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    values = 0.2 + 0.8 * torch.rand(len(gates), generator=generator, dtype=torch.float64)
    values[1] = 1.0
    step = torch.randn(len(gates), generator=generator, dtype=torch.float64)

    def score(at: Tensor) -> Tensor:
        with gates:
            gates.use(at)
            y = model(x)
        return (y * torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)).sum()

    found = []
    try:
        for frozen in (False, True):
            model.requires_grad_(not frozen)
            leaf = values.clone().requires_grad_()
            found.append(torch.autograd.grad(score(leaf), leaf)[0])
        with torch.no_grad():
            slope = (score(values + 1e-6 * step) - score(values - 1e-6 * step)) / 2e-6
    finally:
        model.requires_grad_(True)
    size = float(found[0].abs().max())
    assert torch.allclose(found[0], found[1], rtol=1e-8, atol=1e-10 * size)
    assert bool((found[0] != 0).all()) or "ConvTasNet" not in name
    assert float(slope) == pytest.approx(float(found[0] @ step), rel=1e-4, abs=1e-6 * size)


# -- 2: all open is dense, and nothing is left behind ---------------------------------------------


@every_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_open_gates_are_the_dense_model_bit_for_bit(
    name: str, scope: str, dtype: torch.dtype
) -> None:
    gates = gated(name, scope, dtype)
    for seed, shape in enumerate(LENGTHS):
        x = example(name, *shape, seed=seed, dtype=dtype)
        gates.load_masks({g.name: torch.ones(g.size, dtype=torch.bool) for g in gates.groups})
        before = snapshot(gates.model)
        with torch.no_grad():
            dense = gates.model(x)
            with gates:
                assert torch.equal(gates.model(x), dense)
            gates.load_masks(keep_by(gates, "half"))
            with gates:
                assert not torch.equal(gates.model(x), dense)
            assert torch.equal(gates.model(x), dense)
        assert_same(before, snapshot(gates.model))


# -- the trap of this field -----------------------------------------------------------------------


def masked_after_norm(gates: GateSet, x: Tensor) -> Tensor:
    """The published way: zero the channels that leave a block's norms, statistics and all."""
    model = copy.deepcopy(gates.model)
    masks = gates.masks()
    for name, module in model.named_modules():
        if name.endswith("shared_block"):
            mask = masks[f"{name}.0"].to(x.dtype)[:, None]
            for norm in (module[2], module[5]):
                norm.register_forward_hook(lambda layer, args, y, mask=mask: y * mask)
    with torch.no_grad():
        found: Tensor = model(x)
    return found


@pytest.mark.parametrize("norm", ["gLN", "cLN", "cgLN"])
def test_zeroing_after_a_pooling_norm_is_not_pruning(norm: str) -> None:
    gates = gated(f"ConvTasNet-{norm}", "separator", torch.float64)
    close_hidden_halves(gates)
    x = mixture(1, TIME, dtype=torch.float64)
    pruned = pruned_copy(gates, x)(x)
    assert far(masked_after_norm(gates, x), pruned) > 1e-2
    with torch.no_grad(), gates:
        assert far(gates.model(x), pruned) < 1e-10


@pytest.mark.parametrize("norm", ["fgLN", "bN"])
def test_zeroing_after_a_norm_of_each_channel_alone_is_pruning(norm: str) -> None:
    """So it is the pooled statistics that make the difference above, not how the test masks."""
    gates = gated(f"ConvTasNet-{norm}", "separator", torch.float64)
    close_hidden_halves(gates)
    x = mixture(1, TIME, dtype=torch.float64)
    assert far(masked_after_norm(gates, x), pruned_copy(gates, x)(x)) < 1e-10


def close_hidden_halves(gates: GateSet) -> None:
    half = keep_by(gates, "half")
    hidden = {n: m if n.endswith("shared_block.0") else m | True for n, m in half.items()}
    assert any(not m.all() for m in hidden.values())
    gates.load_masks(hidden)


# -- what a pruner must not touch -------------------------------------------


def test_pruning_leaves_the_gated_model_alone() -> None:
    """The copy is cut, not the model that the gates sit on."""
    gates = gated("DPRNNTasNet-LSTM-bi", "all")
    before = snapshot(gates.model)
    gates.load_masks(keep_by(gates, "half"))
    model = copy.deepcopy(gates.model)
    SepPrunePruner(model, mixture(1, TIME), SepPruneImportance(gates)).step()
    assert_same(before, snapshot(gates.model))
    assert gates.cost().params < gates.cost_model.dense.params
