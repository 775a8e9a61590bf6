"""The backbones are those of the paper: their figures, their prunable sites, their names."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
import torch
from backbones import BACKBONES
from laws import TIME, mixture
from ptflops_counts import ptflops_macs
from torch import Tensor, nn

import benchmarks.models
from benchmarks.models import CONFIGURATIONS, PUBLISHED, MaskingModel, build, from_published
from benchmarks.models.positions import PositionalEncoding
from sepprune_tp import (
    ChannelGraph,
    GateSet,
    SepPruneImportance,
    SepPrunePruner,
    profile,
)
from sepprune_tp.architectures import separators_of
from sepprune_tp.errors import InputError

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
    assert separators_of(model) == [model.sm]


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


def test_the_papers_pruned_sudormrf() -> None:
    """Its widths are not known, but each hidden channel costs 301: 3,922 of 8,192 are gone."""
    model, x = build("sudormrf"), mixture(1, 320)
    gates = GateSet(model, x, "separator")
    order = torch.randperm(16 * 512, generator=torch.Generator().manual_seed(0))
    keep = (order >= 3_922).view(16, 512)
    gates.load_masks({group.name: keep[i] for i, group in enumerate(gates.groups)})
    assert gates.cost().params == 1_539_895
    SepPrunePruner(model, x, SepPruneImportance(gates)).step()
    assert count([model]) == 1_539_895
    assert [block.res_conv.in_channels for block in model.sm] == keep.sum(1).tolist()


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
