"""The paper's backbones run, train and are pruned as exactly as every other architecture.

The first three invariants are proved for scope "all" in test_invariants.py.
"""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch_pruning as tp
from backbones import BACKBONES
from laws import TIME, far, gated, keep_by, mixture, pruned_copy

from benchmarks.models import build
from benchmarks.models.positions import PositionalEncoding
from benchmarks.models.tdanet import DropBranch, TimeAttention
from sepprune_tp import (
    Budget,
    GateSet,
    SepPrunePruner,
    learn_gates,
    profile,
    save_pruned,
)
from sepprune_tp.losses import pit_neg_si_sdr

SECOND = 16_000
every_backbone = pytest.mark.parametrize("name", BACKBONES)


# -- what the networks compute --------------------------------------------------------------------


@every_backbone
@pytest.mark.parametrize("time", [1, 63, 400, 1001])
def test_any_length(name: str, time: int) -> None:
    model = BACKBONES[name]().eval()
    x = mixture(2, time)
    with torch.no_grad():
        y = model(x)
        assert y.shape == (2, model.sources, time) and bool(torch.isfinite(y).all())
        assert torch.equal(model(x.unsqueeze(1)), y)
        assert far(model(x[:1]), y[:1]) < 1e-4  # items of a batch do not see each other
        assert far(model(x.flip(0)), y) > 1e-2


@every_backbone
def test_gradients_reach_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    model = BACKBONES[name]()
    model(mixture(2, TIME)).square().mean().backward()
    for parameter, value in model.named_parameters():
        assert value.grad is not None and bool((value.grad != 0).any()), parameter


def test_as_published_some_weights_are_never_used() -> None:
    torch.manual_seed(0)
    model = build("tdanet", kernel=8, hidden=8, heads=2, depth=3, iterations=2, as_published=True)
    model(mixture(2, TIME)).square().mean().backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    unused = "sm.blocks.loc_glo_fus.2"
    assert idle == {
        f"{unused}.{name}" for name, _ in model.get_submodule(unused).named_parameters()
    }


@pytest.mark.parametrize("over_batch", [False, True])
def test_attention_is_over_time(over_batch: bool) -> None:
    """As published it is over the batch: one frame sees itself alone, and the other items."""
    torch.manual_seed(0)
    layer = TimeAttention(8, 2, over_batch).eval()
    x = mixture(2, 8, 5)
    changed = x.clone()
    changed[0, 0, 1] += 1
    with torch.no_grad():
        moved = (layer(changed) - layer(x)).abs().amax(1) > 1e-6  # (B, T)
    expected = {
        False: [[True] * 5, [False] * 5],
        True: [[False, True, False, False, False]] * 2,
    }
    assert moved.tolist() == expected[over_batch]


def test_positions() -> None:
    layer = PositionalEncoding(6)
    added = layer(torch.zeros(2, 50, 6))
    for frame in (0, 1, 49):
        for channel in range(6):
            angle = frame / 10_000 ** (2 * (channel // 2) / 6)
            expected = math.cos(angle) if channel % 2 else math.sin(angle)
            assert float(added[1, frame, channel]) == pytest.approx(expected, abs=1e-5)


def test_dropped_branches_keep_their_mean() -> None:
    torch.manual_seed(0)
    layer, x = DropBranch(0.25), torch.ones(4000, 2, 3)
    y = layer(x)
    values = y.flatten(1)
    assert bool((values == values[:, :1]).all())  # whole items
    assert set(values[:, 0].tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert float(y.mean()) == pytest.approx(1, abs=0.03)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("name", ["AFRCNN", "SuDoRMRF", "TDANet"])
def test_training_lowers_the_loss(name: str) -> None:
    """30 steps of Adam on sums of two tones, one low and one high."""
    torch.manual_seed(0)
    wide = {"hidden": 16, "bottleneck": 16}
    model = {
        "AFRCNN": lambda: build("afrcnn-12", iterations=2, basis=32, **wide),
        "SuDoRMRF": lambda: build("sudormrf", blocks=2, basis=32, **wide),
        "TDANet": lambda: build("tdanet", iterations=2, heads=2, **wide),
    }[name]()
    seconds = torch.arange(2000) / SECOND
    sources = torch.stack(
        [
            torch.stack([(2 * math.pi * f * seconds).sin() for f in (low, 10 * low)])
            for low in (110.0, 130.0, 170.0, 190.0)
        ]
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = pit_neg_si_sdr(model(sources.sum(1)), sources)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert sum(losses[-5:]) / 5 < sum(losses[:3]) / 3 - 3  # dB


# -- pruning (invariants 1 to 3 are proved with the other architectures) --------------------------


@every_backbone
def test_invariants_hold_within_the_separator(name: str) -> None:
    gates = gated(name, "separator", torch.float64)
    x = mixture(2, 613, dtype=torch.float64)
    gates.load_masks({g.name: torch.ones(g.size, dtype=torch.bool) for g in gates.groups})
    with torch.no_grad():
        dense = gates.model(x)
        with gates:
            assert torch.equal(gates.model(x), dense)
    gates.load_masks(keep_by(gates, "odd"))
    pruned = pruned_copy(gates, mixture(1, TIME, dtype=torch.float64))
    with torch.no_grad(), gates:
        assert far(gates.model(x), pruned(x)) < 1e-10
    assert far(pruned(x), dense) > 1e-2
    measured = profile(pruned, mixture(1, TIME, dtype=torch.float64))
    cost = gates.cost()
    assert (cost.params, cost.macs) == (measured.params, measured.macs)
    assert cost.separator_macs == measured.separator.macs
    for part in ("encoder", "bottleneck", "mask_net", "decoder"):
        for whole, left in zip(
            getattr(gates.model, part).parameters(), getattr(pruned, part).parameters(), strict=True
        ):
            assert torch.equal(whole, left)


def test_as_published_is_pruned_as_exactly() -> None:
    torch.manual_seed(0)
    sizes = {"kernel": 8, "bottleneck": 7, "hidden": 6, "depth": 3, "heads": 2, "iterations": 2}
    model = build("tdanet", as_published=True, **sizes).double().eval()
    x = mixture(2, TIME, dtype=torch.float64)
    gates = GateSet(model, x, "all")
    gates.load_masks(keep_by(gates, "odd"))
    pruned = pruned_copy(gates, x)
    with torch.no_grad(), gates:
        assert far(model(x), pruned(x)) < 1e-10
    assert far(model(x), pruned(x)) > 1e-2


@every_backbone
def test_same_seed_same_masks(name: str) -> None:
    def search(seed: int) -> GateSet:
        gates = GateSet(gated(name, "all").model, mixture(1, TIME), "all")
        pieces = [mixture(2, gates.model.sources, TIME, seed=i) for i in range(2)]
        batches = [(piece.sum(1), piece) for piece in pieces]
        learn_gates(gates, batches, budget=Budget(macs=0.6), steps=5, seed=seed, progress=False)
        return gates

    one, again, other = search(0), search(0), search(1)
    assert torch.equal(one.scores, again.scores) and torch.equal(one.keep, again.keep)
    assert not torch.equal(one.scores, other.scores)
    assert 0 < int(one.keep.sum()) < one.keep.numel()


@every_backbone
def test_torch_prunings_own_pruner(name: str) -> None:
    model, x = BACKBONES[name](), mixture(1, TIME)
    before = profile(model, x)
    importance = tp.importance.GroupMagnitudeImportance()
    SepPrunePruner(model, x, importance=importance, pruning_ratio=0.4).step()
    after = profile(model, x)
    assert after.macs < before.macs and after.encoder.params == before.encoder.params
    assert model(mixture(2, 613)).shape == (2, model.sources, 613)


LOADER = """
import sys
from pathlib import Path
import pickle
import torch
from backbones import BACKBONES
from sepprune_tp.checkpoint import load_pruned

def refuse(*args, **kwargs):
    raise AssertionError("a pickle was executed")

pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse
torch.set_num_threads(1)
folder = Path(sys.argv[1])
from safetensors.torch import load_file, save_file
x = load_file(folder / "x.bin")["x"]
with torch.no_grad():
    outputs = {
        name: load_pruned(folder / f"{name}.safetensors", make())(x).contiguous()
        for name, make in BACKBONES.items()
    }
save_file(outputs, folder / "outputs.bin")
"""


def test_saved_and_loaded_in_a_fresh_process(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    x = mixture(2, TIME)
    safetensors.save_file({"x": x}, tmp_path / "x.bin")
    here = {}
    for name in BACKBONES:
        gates = gated(name, "all")
        gates.load_masks(keep_by(gates, "odd"))
        model = pruned_copy(gates, mixture(1, TIME)).eval()
        save_pruned(model, tmp_path / f"{name}.safetensors")
        with torch.no_grad():
            here[name] = model(x)
            assert far(here[name], gates.model(x)) > 1e-2
    root = Path(__file__).parents[1]
    path = f"import sys; sys.path[:0] = [{str(root)!r}, {str(root / 'tests')!r}]"
    command = [sys.executable, "-c", path + LOADER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    there = safetensors.load_file(tmp_path / "outputs.bin")
    assert all(torch.equal(there[name], y) for name, y in here.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["afrcnn-12", "sudormrf", "tdanet"])
def test_full_size_gated_is_pruned(name: str) -> None:
    torch.manual_seed(0)
    model, x = build(name).eval(), mixture(1, 800)
    gates = GateSet(model, x, "all")
    with torch.no_grad():
        dense = model(mixture(1, SECOND, seed=1))
        gates.load_masks(keep_by(gates, "half"))
        with gates:
            masked = model(mixture(1, SECOND, seed=1))
        pruned = pruned_copy(gates, x)(mixture(1, SECOND, seed=1))
    assert far(masked, pruned) < 1e-5
    assert far(dense, pruned) > 1e-2
