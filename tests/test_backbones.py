"""The paper's backbones are those of the paper: figures, prunable sites, and what they compute."""

from __future__ import annotations

import doctest
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning as tp
from backbones import BACKBONES
from laws import TIME, far, gated, keep_by, mixture, pruned_copy
from ptflops_counts import ptflops_macs
from torch import Tensor, nn

import benchmarks.models
from benchmarks.models import CONFIGURATIONS, PUBLISHED, MaskingModel, build, from_published
from benchmarks.models.positions import PositionalEncoding
from benchmarks.models.tdanet import DropBranch, TimeAttention
from sepprune_tp import (
    Budget,
    ChannelGraph,
    GateSet,
    SepPruneImportance,
    SepPrunePruner,
    learn_gates,
    profile,
    save_pruned,
)
from sepprune_tp.architectures import separator_of
from sepprune_tp.errors import InputError
from sepprune_tp.losses import pit_neg_si_sdr

SECOND = 16_000
every_backbone = pytest.mark.parametrize("name", BACKBONES)
every_configuration = pytest.mark.parametrize("name", PUBLISHED)


def count(modules: Any) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def norms_in(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.GroupNorm)]


def weightless(name: str, **overrides: Any) -> tuple[MaskingModel, Tensor]:
    """A full-size model and 1 s of audio without values: only shapes are needed to count."""
    with torch.device("meta"):
        return build(name, **overrides).eval(), torch.empty(1, SECOND)


# -- the paper's figures --------------------------------------------------------------------------


@every_configuration
def test_parameters_are_those_of_the_paper(name: str) -> None:
    model, known = weightless(name)[0], PUBLISHED[name]
    params = count([model])
    assert known.exact_params in (params, None)
    assert params / 1e6 == pytest.approx(known.params, rel=0.005)
    assert count([model.sm]) - count(norms_in(model.sm)) == pytest.approx(
        known.separator_params * 1e6, abs=0.5e4
    )


@every_configuration
def test_macs_are_those_of_the_paper_when_counted_as_there(name: str) -> None:
    model, x = weightless(name, **({"as_published": True} if "tdanet" in name else {}))
    counts = ptflops_macs(model, x)
    assert counts.total / 1e9 == pytest.approx(PUBLISHED[name].macs, rel=1e-3)
    assert counts.separator / 1e9 == pytest.approx(PUBLISHED[name].separator_macs, rel=2e-3)


OURS = {  # whole, separator: multiplications with weights, and of queries, keys and values
    "afrcnn-12": (27_209_318_400, 26_496_204_800),
    "afrcnn-16": (36_041_523_200, 35_328_409_600),
    "sudormrf": (3_883_008_000, 3_482_419_200),
    "tdanet": (4_620_255_360, 4_596_791_040),
    "tdanet-large": (9_246_754_368, 9_228_165_888),
}


@every_configuration
def test_our_macs_and_all_that_differs(name: str) -> None:
    """What the paper counts without its additions, and with attention over all frames."""
    model, x = weightless(name)
    found, there = profile(model, x), ptflops_macs(model, x)
    assert (found.macs, found.separator.macs) == OURS[name] and not found.uncounted
    frames = {"tdanet": 64, "tdanet-large": 126}.get(name, 0)
    between = 16 * 2 * frames * (frames - 1) * 512  # products of each frame with the others
    assert found.macs == there.products + between
    assert there.total > there.products


def test_table_of_the_parts() -> None:
    parts = profile(*weightless("afrcnn-12")).parts
    assert {name: part.params for name, part in parts.items()} == {
        "encoder": 512 * 41,
        "separator": 4_233_735,
        "decoder": 2 * 512 * 2 * 41,
        "other": 2 * 512 + 512 * 513 + 1 + 513 * 1024,
    }
    assert parts["separator"].share > 0.97


def test_a_mask_net_alone_is_the_separator() -> None:
    whole = nn.ModuleDict({"encoder": nn.Linear(2, 3), "mask_net": nn.Linear(3, 3)})
    assert profile_of_chain(whole) == {"encoder": "encoder", "mask_net": "separator"}
    whole["sm"] = nn.Linear(3, 3)
    assert profile_of_chain(whole) == {"encoder": "encoder", "mask_net": "other", "sm": "separator"}
    model = build("sudormrf", blocks=1)
    assert separator_of(model) is model.sm


def profile_of_chain(layers: nn.ModuleDict) -> dict[str, str]:
    """Part of each layer of a model that runs them one after the other."""

    class Chain(nn.ModuleDict):
        def forward(self, x: Tensor) -> Tensor:
            for layer in self.values():
                x = layer(x)
            return x

    return {row.name: row.part for row in profile(Chain(layers), torch.zeros(1, 2)).rows}


# -- the paper's sites, found without being named -------------------------------------------------


def sites_of(graph: ChannelGraph, name: str) -> dict[tuple[str, str], list[int]]:
    """(layer, side) -> channel indices, of the group that is called ``name``."""
    group = {graph.name_of(s.root.owner): s for s in graph.prunable_sets()}[name]
    return {
        (graph.name_of(site.owner), site.side): site.where(group.components).tolist()
        for site in group.sites
    }


def full_graph(name: str, **overrides: int) -> ChannelGraph:
    return ChannelGraph("separator").build_dependency(build(name, **overrides), mixture(1, 320))


def test_sites_of_afrcnn() -> None:
    graph = full_graph("afrcnn-12")
    for level in range(4):
        stage, every = f"sm.blocks.concat_layer.{level}", list(range(512))
        assert sites_of(graph, f"{stage}.conv") == {
            (f"{stage}.conv", "out"): every,
            (f"{stage}.norm", "out"): every,
            ("sm.blocks.last_layer.0.conv", "in"): [512 * level + i for i in every],
        }


def test_sites_of_tdanet() -> None:
    graph = full_graph("tdanet", iterations=2)
    mlp, every = "sm.blocks.globalatt.mlp", list(range(1024))
    assert sites_of(graph, f"{mlp}.fc1.conv") == {
        (f"{mlp}.fc1.conv", "out"): every,
        (f"{mlp}.fc1.norm", "out"): every,
        (f"{mlp}.dwconv", "out"): every,
        (f"{mlp}.fc2.conv", "in"): every,
    }


def test_sites_of_sudormrf() -> None:
    graph = full_graph("sudormrf")
    for block in range(16):
        at, every = f"sm.{block}", list(range(512))
        stages = [f"{at}.proj_1x1", *(f"{at}.spp_dw.{level}" for level in range(5))]
        assert sites_of(graph, f"{at}.proj_1x1.conv") == {
            **{(f"{s}.{part}", "out"): every for s in stages for part in ("conv", "norm")},
            (f"{at}.final_norm.norm", "out"): every,
            (f"{at}.res_conv", "in"): every,
        }
    assert len(graph.prunable_sets()) == 16


@every_backbone
def test_nothing_is_protected_but_the_output(name: str) -> None:
    graph = ChannelGraph("all").build_dependency(BACKBONES[name](), mixture(1, TIME))
    assert graph.protected == {"decoder": "it is an output of the model"}


def test_the_papers_pruned_afrcnn() -> None:
    model, x = build("afrcnn-12"), mixture(1, 320)
    gates = GateSet(model, x, "separator")
    widths = dict(zip(range(4), (339, 237, 174, 158), strict=True))
    masks = {g.name: torch.ones(g.size, dtype=torch.bool) for g in gates.groups}
    for level, width in widths.items():
        order = torch.randperm(512, generator=torch.Generator().manual_seed(level))
        masks[f"sm.blocks.concat_layer.{level}.conv"][order[width:]] = False
    gates.load_masks(masks)
    assert gates.cost().params == 3_059_372
    SepPrunePruner(model, x, SepPruneImportance(gates)).step()
    assert count([model]) == 3_059_372
    kept = [stage.conv.out_channels for stage in model.sm.blocks.concat_layer]
    assert kept == list(widths.values())


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
    untouched = (pruned.encoder, pruned.bottleneck, pruned.mask_net, pruned.decoder)
    same = (gates.model.encoder, gates.model.bottleneck, gates.model.mask_net, gates.model.decoder)
    assert count(untouched) == count(same)


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


# -- the registry ---------------------------------------------------------------------------------


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="no backbone 'convtasnet'; choose afrcnn-12, afrcnn-16"):
        build("convtasnet")
    with pytest.raises(InputError, match="SuDoRMRF has no argument iterations; it has sources"):
        build("sudormrf", iterations=3)


def test_configurations_are_the_published_ones() -> None:
    assert set(CONFIGURATIONS) == set(PUBLISHED)
    for name, (cls, sizes) in CONFIGURATIONS.items():
        with torch.device("meta"):
            assert type(build(name)) is cls
            assert build(name, sources=3).decoder.out_channels == 3
        assert "sources" not in sizes


def test_the_example_in_the_docstring() -> None:
    done = doctest.testmod(benchmarks.models)
    assert done.attempted > 0 and done.failed == 0


def test_names_in_authors_files() -> None:
    model = build("tdanet", kernel=8, hidden=8, heads=2, depth=3, iterations=1)
    own = model.state_dict()
    published = {}
    for name, value in own.items():
        layer = model.get_submodule(name.rpartition(".")[0])
        name = name.replace("sm.blocks.", "sm.unet.")
        if isinstance(layer, nn.GroupNorm):
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        if not isinstance(layer, PositionalEncoding):
            published[name] = value + 1
    published["sm.unet.globalatt.attn.pos_enc.pe"] = torch.zeros(1, 10_000, 8)
    known = ("sm.unet.spp_dw.0.norm.gamma", "sm.unet.globalatt.mlp.fc1.conv.weight", "ln.beta")
    assert set(known) <= set(published)
    model.load_state_dict(from_published(published, own))
    assert torch.equal(model.ln.bias, torch.ones(5))
