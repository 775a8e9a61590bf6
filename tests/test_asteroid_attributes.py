"""Attributes, arguments and printed form of pruned models are true, on every architecture."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("asteroid", reason="the separators need the extra 'asteroid'")

from architectures import MICROPHONES, PLAIN, SEPARATORS, shape_of
from asteroid import models
from asteroid_filterbanks import AnalyticFreeFB, FreeFB
from laws import gated, mixture, oddly_pruned
from torch import nn

from sepprune_tp.architectures.asteroid_models import asteroid_args, build_asteroid

CASES = [(name, scope) for name in SEPARATORS for scope in ("separator", "all")]
CASES += [(name, "all") for name in PLAIN]
every_name = pytest.mark.parametrize("name", SEPARATORS)
every_scope = pytest.mark.parametrize("scope", ["separator", "all"])


@pytest.mark.parametrize(("name", "scope"), CASES, ids=["-".join(c) for c in CASES])
def test_attributes_match_the_tensors(name: str, scope: str) -> None:
    for layer in oddly_pruned(name, scope).modules():
        if isinstance(layer, nn.modules.conv._ConvNd):
            first, second = layer.weight.shape[:2]
            made, read = (second, first) if layer.transposed else (first, second)
            made, read = (made * layer.groups, read) if layer.transposed else (made, read)
            read = read if layer.transposed else read * layer.groups
            assert (layer.in_channels, layer.out_channels) == (read, made)
            assert repr(layer).startswith(f"{type(layer).__name__}({read}, {made},")
        elif isinstance(layer, nn.Linear):
            assert (layer.out_features, layer.in_features) == tuple(layer.weight.shape)
        elif isinstance(layer, nn.RNNBase):
            assert layer.weight_hh_l0.shape[1] == layer.hidden_size
            assert layer.weight_ih_l0.shape[1] == layer.input_size
        elif hasattr(layer, "channel_size"):
            assert layer.channel_size == layer.gamma.numel() == layer.beta.numel()
        elif isinstance(layer, nn.GroupNorm):
            assert layer.num_channels == layer.weight.numel()
            assert layer.num_channels % layer.num_groups == 0
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            assert layer.num_features == layer.weight.numel() == layer.running_mean.numel()
        elif isinstance(layer, nn.LayerNorm):
            assert layer.normalized_shape == tuple(layer.weight.shape)
        if isinstance(layer, (FreeFB, AnalyticFreeFB)):
            assert layer.n_filters == layer.n_feats_out == layer.filters().shape[0]
        if hasattr(layer, "deconv"):
            deconv = layer.deconv.im_module
            assert (layer.in_chan, layer.out_chan) == tuple(deconv.weight.shape[:2])
        for inner in ("rnn", "rnn1"):
            if isinstance(getattr(layer, inner, None), nn.RNNBase) and hasattr(layer, "input_size"):
                rnn = getattr(layer, inner)
                assert (layer.input_size, layer.hidden_size) == (rnn.input_size, rnn.hidden_size)
                directions = 1 + rnn.bidirectional
                outputs = rnn.hidden_size * directions
                assert layer.output_size == outputs + (layer.input_size if inner == "rnn1" else 0)


def widths(layers: Any) -> int | list[int]:
    """Hidden sizes of the recurrent layers: one number if they are equal."""
    found = [layer.hidden_size for layer in layers.modules() if isinstance(layer, nn.RNNBase)]
    return found[0] if len(set(found)) == 1 else found


def tcn_arguments(model: Any) -> dict[str, Any]:
    masker = model.masker
    hidden = [block.shared_block[0].weight.shape[0] for block in masker.TCN]
    assert len(set(hidden)) > 1
    skips = {block.skip_conv.weight.shape[0] for block in masker.TCN if block.skip_out_chan}
    assert skips == {block.skip_out_chan for block in masker.TCN if block.skip_out_chan}
    return {
        "hid_chan": hidden,
        "bn_chan": masker.bottleneck[1].weight.shape[0],
        "skip_chan": skips.pop() if skips else masker.skip_chan,
        "in_chan": masker.bottleneck[1].weight.shape[1],
        "out_chan": masker.mask_net[1].weight.shape[0] // masker.n_src,
    }


def dprnn_arguments(model: Any) -> dict[str, Any]:
    masker = model.masker
    return {
        "hid_size": widths(masker.net),
        "bn_chan": masker.bottleneck[1].weight.shape[0],
        "in_chan": masker.bottleneck[1].weight.shape[1],
        "out_chan": masker.mask_net.weight.shape[0],
    }


def dpt_arguments(model: Any) -> dict[str, Any]:
    masker = model.masker
    assert masker.mha_in_dim == masker.first_out[1].weight.shape[1]
    return {
        "ff_hid": widths(masker.layers),
        "in_chan": masker.net_out[0].weight.shape[0],
        "n_heads": 4,
    }


def lstm_arguments(model: Any) -> dict[str, Any]:
    rnn, linear = model.masker.masker[0].rnn, model.masker.masker[1]
    return {
        "hid_size": rnn.hidden_size,
        "in_chan": rnn.weight_ih_l0.shape[1],
        "out_chan": linear.weight.shape[0] // 2,
    }


def sudo_arguments(model: Any) -> dict[str, Any]:
    improved = isinstance(model, models.SuDORMRFImprovedNet)
    first = model.masker.bottleneck if improved else model.masker.l1
    return {"bn_chan": first.weight.shape[0], "in_chan": first.weight.shape[1]}


def demask_arguments(model: Any) -> dict[str, Any]:
    convs = [layer for layer in model.masker if isinstance(layer, nn.Conv1d)]
    return {"hidden_dims": tuple(conv.weight.shape[0] for conv in convs[:-1])}


def fasnet_arguments(model: Any) -> dict[str, Any]:
    found = {
        "enc_dim": model.encoder.weight.shape[0],
        "feature_dim": model.bottleneck.weight.shape[0],
        "hidden_dim": widths(model.DPRNN_TAC),
    }
    hidden = [pair[1].input_tf[0].weight.shape[0] for pair in model.DPRNN_TAC if len(pair) > 1]
    assert hidden == [pair[1].hidden_dim for pair in model.DPRNN_TAC if len(pair) > 1]
    tac = hidden if len(set(hidden)) > 1 else hidden[:1].pop() if hidden else None
    return found | ({"tac_hidden_dim": tac} if hidden else {})


def unet_arguments(model: Any) -> dict[str, Any]:
    """Widths come from the name of the architecture, pruned or not."""
    return {"architecture": "mini", "stft_n_filters": 64}


ARGUMENTS = {
    "ConvTasNet": tcn_arguments,
    "TDConvNetpp": tcn_arguments,
    "DPRNNTasNet": dprnn_arguments,
    "DPTNet": dpt_arguments,
    "LSTMTasNet": lstm_arguments,
    "SuDORMRFNet": sudo_arguments,
    "SuDORMRFImprovedNet": sudo_arguments,
    "DeMask": demask_arguments,
    "FasNetTAC": fasnet_arguments,
    "DCCRNet": unet_arguments,
    "DCUNet": unet_arguments,
}


@every_scope
@every_name
def test_arguments_are_those_of_the_tensors(name: str, scope: str) -> None:
    dense, model = gated(name, scope).model, oddly_pruned(name, scope)
    before, args = dense.get_model_args(), model.get_model_args()
    family = name.partition("-")[0]
    for key, value in ARGUMENTS[family](model).items():
        assert args[key] == value, key
    if family not in ("DCCRNet", "DCUNet"):
        assert args != before
    bank = getattr(model.encoder, "filterbank", None)
    if isinstance(bank, (FreeFB, AnalyticFreeFB)):
        assert args["n_filters"] == bank.filters().shape[0]
        cut = scope == "all" and name != "SuDORMRFNet"  # its mask has a kernel across filters
        assert (args["n_filters"] < before["n_filters"]) == cut
    assert json.dumps(asteroid_args(model)) and repr(model) != repr(dense)


@pytest.mark.parametrize("name", [n for n in SEPARATORS if not n.startswith("TDConvNetpp")])
def test_arguments_build_the_same_module_tree(name: str) -> None:
    model = oddly_pruned(name)
    args = json.loads(json.dumps(asteroid_args(model)))
    built = build_asteroid(type(model).__name__, args, "here")
    assert [n for n, _ in built.named_modules()] == [n for n, _ in model.named_modules()]


@every_name
def test_asteroid_separates_with_a_pruned_model(name: str) -> None:
    model = oddly_pruned(name)
    wav = mixture(*shape_of(name, 1, 613)) if name in MICROPHONES else mixture(1, 1, 613)
    found = model.separate(wav.squeeze(1) if name.startswith("TDConvNetpp") else wav)
    assert found.shape[0] == 1 and found.shape[-1] == 613 and bool(torch.isfinite(found).all())
    assert isinstance(model.separate(wav.squeeze(1).numpy()), np.ndarray)
