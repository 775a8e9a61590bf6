"""Asteroid's models: what is tied, filterbanks, what is refused, full size."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("asteroid", reason="the separators need the extra 'asteroid'")

from architectures import SEPARATORS, randomised
from asteroid import models
from asteroid.masknn import recurrent
from asteroid_filterbanks import multiphase_gammatone_fb
from laws import TIME, example, far, gated, keep_by, mixture, oddly_pruned, pruned_copy
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sepprune_tp import architectures
from sepprune_tp.architectures import Adapter, Tie, mend_asteroid, part_names, separators_of
from sepprune_tp.architectures.asteroid_models import asteroid_args, build_asteroid
from sepprune_tp.checkpoint import load_pruned, save_pruned
from sepprune_tp.errors import CheckpointError, GraphError
from sepprune_tp.gates import GateSet
from sepprune_tp.graph import ChannelGraph
from sepprune_tp.profile import profile

X = torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(0))


# -- what is tied ---------------------------------------------------------------------------------


def members(name: str) -> dict[str, set[str]]:
    """Layers that make channels, by group."""
    graph = gated(name, "all").graph
    return {
        root: {graph.name_of(s.owner) for s in group.channel_set.sites if s.side == "out"}
        for root, group in graph.named_groups()
    }


@pytest.mark.parametrize("name", ["DCCRNet", "DCUNet-pad", "DCUNet-trim-2-sources"])
def test_real_and_imaginary_parts_go_together(name: str) -> None:
    groups = members(name)
    assert len(groups) == 5
    for layers in groups.values():
        assert {
            layer.replace("im_module", "re_module") for layer in layers if "im_" in layer
        } <= layers
        assert {
            layer.replace("re_module", "im_module") for layer in layers if "re_" in layer
        } <= layers
    model = oddly_pruned(name)
    for layer in model.modules():
        if hasattr(layer, "re_module") and not isinstance(layer.re_module, nn.PReLU):
            shapes = [[p.shape for p in m.parameters()] for m in (layer.re_module, layer.im_module)]
            assert shapes[0] == shapes[1]


def test_dccrn_linear_keeps_the_shape_of_its_input() -> None:
    gates = gated("DCCRNet", "all")
    conv = "masker.encoders.1.conv.re_module"
    assert members("DCCRNet")[conv] >= {"masker.encoders.2.linear.re_module"}
    keep = torch.tensor([1, 0, 1, 1, 0, 0, 1, 1], dtype=torch.bool)
    gates.load_masks(
        {g.name: keep if g.name == conv else torch.ones(g.size) > 0 for g in gates.groups}
    )
    linear = gates.model.get_submodule("masker.encoders.2.linear.re_module")
    small = pruned_copy(gates, example("DCCRNet")).get_submodule(
        "masker.encoders.2.linear.re_module"
    )
    bins = linear.out_features // 8
    assert small.out_features == 5 * bins
    assert torch.equal(small.weight, linear.weight[keep.repeat_interleave(bins)])


def test_fasnet_has_a_separator_of_its_own() -> None:
    model, x = gated("FasNetTAC-gLN", "separator").model, example("FasNetTAC-gLN")
    inside = {module for part in separators_of(model) for module in part.modules()}
    assert model.bottleneck in inside and model.DPRNN_TAC[0][1].avg_tf[0] in inside
    assert model.encoder not in inside and model.enc_LN not in inside
    assert part_names(nn.DataParallel(model))["conv_2D"] == "separator"
    cost = profile(model, x)
    assert cost.encoder.macs and cost.separator.macs > cost.encoder.macs
    (filtering,) = [row for row in cost.rows if row.part == "other"]  # filters that it estimates
    assert (filtering.kind, filtering.name, filtering.params) == ("product", "FasNetTAC", 0)
    separator, everything = members_in("separator"), members_in("all")
    assert everything - separator == {"encoder"}


def members_in(scope: str) -> set[str]:
    return {group.name for group in gated("FasNetTAC-gLN", scope).groups}


@pytest.mark.parametrize("name", ["FasNetTAC-gLN", "FasNetTAC-fgLN-no-TAC"])
def test_fasnet_with_fewer_valid_microphones(name: str) -> None:
    model = randomised(SEPARATORS[name], 0, torch.float64)
    x = example(name, 2, dtype=torch.float64)
    valid = torch.tensor([x.shape[1], x.shape[1] - 1])
    gates = GateSet(model, (x, valid), "all")
    gates.load_masks(keep_by(gates, "odd"))
    pruned = pruned_copy(gates, (x, valid))
    others = mixture(2, x.shape[1] + 2, 613, dtype=torch.float64), torch.tensor([1, x.shape[1] + 2])
    with torch.no_grad():
        for inputs in ((x, valid), others):
            with gates:
                found = model(*inputs)
            assert far(found, pruned(*inputs)) < 1e-10
            assert far(model(*inputs), found) > 1e-2
        assert far(pruned(x), pruned(x, valid)) > 1e-2  # the padded microphone is left out


class Unused(nn.Module):
    """Two layers of one width, by its adapter; the second never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 6, 1), nn.Conv1d(1, 6, 1)
        self.last = nn.Conv1d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, T) -> (B, 1, T)."""
        found: Tensor = self.last(self.first(x))
        return found


def test_a_layer_tied_to_one_that_is_not_followed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ChannelGraph("all").build_dependency(Unused(), X).protected.keys() & {"first"}
    for ends in (("first", "second"), ("second", "first")):

        def ties(net: Any, ends: tuple[str, str] = ends) -> list[Tie]:
            return [Tie(*(getattr(net, end) for end in ends), list(range(6)))]

        monkeypatch.setitem(architectures._ADAPTERS, Unused, Adapter(lambda net: None, ties))
        why = ChannelGraph("all").build_dependency(Unused(), X).protected["first"]
        assert why == "its width is that of layer 'second', which cannot be cut"


# -- filterbanks ----------------------------------------------------------------------------------


def with_bank(name: str, **options: Any) -> nn.Module:
    args = {"n_filters": 24, "kernel_size": 24, "stride": 12, "n_blocks": 2, "n_repeats": 1}
    return models.ConvTasNet(
        2, bn_chan=8, hid_chan=10, skip_chan=6, fb_name=name, **args, **options
    )


@pytest.mark.parametrize(
    ("bank", "why"),
    [
        ("stft", "its filterbank STFTFB is computed"),
        ("torch_stft", "its filterbank TorchSTFTFB is computed"),
        ("param_sinc", "its filterbank ParamSincFB is computed"),
        ("multiphase_gammatone", "its filterbank MultiphaseGammatoneFB is computed"),
    ],
)
def test_computed_filterbanks_stay(bank: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if bank == "multiphase_gammatone":  # asteroid_filterbanks 0.4 needs names that NumPy dropped
        monkeypatch.setattr(multiphase_gammatone_fb, "np", OldNumPy())
    model = randomised(lambda: with_bank(bank), 0, torch.float64)
    x = mixture(1, TIME, dtype=torch.float64)
    gates = GateSet(model, x, "all")
    assert why in gates.graph.protected["masker.mask_net.1"]
    assert not {"encoder", "decoder", "masker.mask_net.1"} & {g.name for g in gates.groups}
    gates.load_masks(keep_by(gates, "odd"))
    pruned = pruned_copy(gates, x)
    with torch.no_grad():
        with gates:
            found = model(x)
        assert far(found, pruned(x)) < 1e-10 < 1e-2 < far(found, model(x))


class OldNumPy:
    """NumPy as asteroid_filterbanks knew it."""

    float, math = float, __import__("math")

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@pytest.mark.parametrize("who", ["encoder", "decoder"])
@pytest.mark.parametrize("bank", ["free", "analytic_free"])
def test_pseudo_inverse_filterbanks_stay(bank: str, who: str) -> None:
    graph = ChannelGraph("all").build_dependency(with_bank(bank, who_is_pinv=who), mixture(1, TIME))
    assert re.search("pseudo-inverse|are shared", graph.protected["masker.mask_net.1"])


def test_an_analytic_filter_goes_with_its_hilbert_transform() -> None:
    gates = gated("ConvTasNet-analytic", "all")
    root = next(g for g in gates.groups if g.size == 8 and "bottleneck" not in g.name)
    keep = torch.arange(8) % 3 > 0
    gates.load_masks({g.name: keep if g is root else torch.ones(g.size) > 0 for g in gates.groups})
    model, small = gates.model, pruned_copy(gates, example("ConvTasNet-analytic"))
    for part in ("encoder", "decoder"):
        bank, cut = model.get_submodule(part).filterbank, small.get_submodule(part).filterbank
        assert torch.equal(cut._filters, bank._filters[keep])
        assert torch.allclose(cut.filters(), bank.filters()[keep.repeat(2)], atol=1e-6)
    assert small.encoder.n_feats_out == small.masker.in_chan == 10


@pytest.mark.parametrize("name", ["DCUNet-pad", "DCCRNet", "DeMask-cat-mag-cLN", "TDConvNetpp-gLN"])
def test_profile_counts_what_torch_multiplies(name: str) -> None:
    """Complex layers twice, filterbanks with their real and imaginary filters."""
    model, x = randomised(SEPARATORS[name], 0, torch.float64), example(name, dtype=torch.float64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert 2 * profile(model, x).macs == counter.get_total_flops()


# -- what Asteroid itself gets wrong --------------------------------------------------------------


BUILD = "asteroid.models.DCCRNet('mini', stft_n_filters=64, stft_kernel_size=64, stft_stride=32)"


@pytest.mark.parametrize("first", ["asteroid.models", "sepprune_tp"])
def test_dccrnet_can_be_built_whichever_is_imported_first(first: str) -> None:
    second = {"asteroid.models": "sepprune_tp", "sepprune_tp": "asteroid.models"}[first]
    code = f"import {first}, sys; early = 'asteroid' in sys.modules; import {second}; {BUILD}"
    code += f"; assert early == {first == 'asteroid.models'}"  # we do not import it
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_asteroid_alone_still_cannot_build_dccrnet() -> None:
    code = f"import asteroid.models; {BUILD}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "input_size should be of type int" in done.stderr


def test_mending_twice_changes_nothing() -> None:
    mended = recurrent.DCCRMaskNetRNN.__init__
    mend_asteroid()
    assert recurrent.DCCRMaskNetRNN.__init__ is mended


def test_xumx_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"x.pth holds an Asteroid XUMX: .* under torch 2"):
        build_asteroid("XUMX", {"sources": ["bass"]}, "x.pth")
    with pytest.raises(RuntimeError, match=r"broken in torch 2\.0"):  # still so?
        models.XUMX(["bass"])


def test_numbers_of_numpy_become_plain() -> None:
    model = copy.deepcopy(gated("DCUNet-pad", "all").model)
    model.stft_stride, model.masknet_kwargs["extra"] = (
        np.int64(32),
        {"a": (np.float32(0.5), np.arange(2))},
    )
    args = asteroid_args(model)
    assert args["stft_stride"] == 32 and type(args["stft_stride"]) is int
    assert args["extra"] == {"a": (0.5, [0, 1])} and json.dumps(args)


def test_pruned_model_without_its_sizes_is_refused_with_the_way_out(tmp_path: Path) -> None:
    from sepprune_tp.architectures.asteroid_checkpoints import load_asteroid

    model = oddly_pruned("DCCRNet")
    conf = {
        "model_name": "DCCRNet",
        "state_dict": model.state_dict(),
        "model_args": model.get_model_args(),
    }
    torch.save(conf, tmp_path / "pruned.pth")
    with pytest.raises(CheckpointError, match="a pruned model is kept by save_pruned"):
        load_asteroid(tmp_path / "pruned.pth")
    dense = gated("DCCRNet", "all").model
    torch.save(conf | {"state_dict": dense.state_dict()}, tmp_path / "dense.pth")
    x = example("DCCRNet", 2)
    with torch.no_grad():
        assert torch.equal(load_asteroid(tmp_path / "dense.pth")(x), dense(x))


@pytest.mark.parametrize("name", ["DCCRNet", "FasNetTAC-gLN", "LSTMTasNet-3-layers-bi"])
def test_serialized_pruned_model_comes_back(tmp_path: Path, name: str) -> None:
    from sepprune_tp.architectures.asteroid_checkpoints import load_asteroid

    model, x = oddly_pruned(name), example(name, 2)
    torch.save(model.serialize(), tmp_path / "pruned.pth")
    with torch.no_grad():
        assert torch.equal(load_asteroid(tmp_path / "pruned.pth")(x), model(x))


def test_dcunet_that_fixes_no_length_says_which_it_takes() -> None:
    args = {"stft_n_filters": 64, "stft_kernel_size": 64, "stft_stride": 32}
    model = randomised(lambda: models.DCUNet("mini", **args), 0, torch.float64)
    with pytest.raises(GraphError, match=r"time divisible by 8.*'pad' or 'trim'"):
        ChannelGraph("all").build_dependency(model, mixture(1, TIME, dtype=torch.float64))
    x = mixture(1, 64 + 8 * 32, dtype=torch.float64)
    gates = GateSet(model, x)
    gates.load_masks(keep_by(gates, "odd"))
    pruned = pruned_copy(gates, x)
    with torch.no_grad(), gates:
        assert far(model(x), pruned(x)) < 1e-10


def test_fasnet_reloads_its_stride(tmp_path: Path) -> None:
    """Its constructor takes milliseconds, its arguments give samples."""
    model = models.FasNetTAC(
        2, 12, 10, 6, 1, stride=2, sample_rate=2000, tac_hidden_dim=8, chunk_size=10, hop_size=5
    )
    assert (model.stride, model.get_model_args()["stride"]) == (4, 4)
    loaded = load_pruned(save_pruned(model, tmp_path / "fasnet.safetensors"))
    assert loaded.stride == 4 and loaded.get_model_args() == model.get_model_args()


# -- full size ------------------------------------------------------------------------------------

FULL: dict[str, tuple[Any, tuple[int, ...]]] = {
    "DCUNet-10": (lambda: models.DCUNet("DCUNet-10", fix_length_mode="pad"), (1, 4000)),
    "DCUNet-16": (lambda: models.DCUNet("DCUNet-16", fix_length_mode="trim"), (1, 8000)),
    "DCUNet-20": (lambda: models.DCUNet("DCUNet-20", fix_length_mode="pad"), (1, 4000)),
    "Large-DCUNet-20": (
        lambda: models.DCUNet("Large-DCUNet-20", fix_length_mode="pad", n_src=2),
        (1, 4000),
    ),
    "DCCRN-CL": (lambda: models.DCCRNet("DCCRN-CL"), (1, 4000)),
    "FasNetTAC": (lambda: models.FasNetTAC(2), (1, 2, 1600)),
    "DeMask": (models.DeMask, (1, 4000)),
    "DPTNet": (lambda: models.DPTNet(2), (1, 800)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size(name: str) -> None:
    builder, shape = FULL[name]
    model = randomised(builder, 0, torch.float32)
    x = mixture(*shape)
    gates = GateSet(model, x, "all")
    gates.load_masks(keep_by(gates, "odd"))
    pruned = pruned_copy(gates, x)
    assert gates.cost().macs == profile(pruned, x).macs < 0.8 * gates.cost_model.dense.macs
    with torch.no_grad():
        with gates:
            found = model(x)
        assert far(found, pruned(x)) < 1e-5
        assert far(model(x), found) > 1e-2
