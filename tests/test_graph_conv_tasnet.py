"""The groups of a Conv-TasNet: which channels go together, and what the scope protects."""

from __future__ import annotations

import pytest
import torch
from small_nets import coupled, graph_of, sizes
from torch import nn


@pytest.fixture(scope="module")
def conv_tasnet() -> nn.Module:
    pytest.importorskip("asteroid", reason="needs the extra 'asteroid'")
    from architectures import SEPARATORS, randomised

    return randomised(SEPARATORS["ConvTasNet-gLN"], 0, torch.float32)


INSIDE = {
    "masker.bottleneck.1": 8,
    "masker.TCN.0.shared_block.0": 10,
    "masker.TCN.0.skip_conv": 6,
    "masker.TCN.1.shared_block.0": 10,
    "masker.TCN.2.shared_block.0": 10,
    "masker.TCN.3.shared_block.0": 10,
}


def test_groups_of_conv_tasnet(conv_tasnet: nn.Module) -> None:
    assert sizes(graph_of(conv_tasnet, 1, 400, scope="separator")) == INSIDE
    assert sizes(graph_of(conv_tasnet, 1, 400)) == {"encoder": 12, **INSIDE}


def test_encoder_filters_of_conv_tasnet(conv_tasnet: nn.Module) -> None:
    """Encoder filter f, bottleneck input f, mask rows f and F + f, decoder filter f."""
    graph = graph_of(conv_tasnet, 1, 400)
    for f in (0, 5, 11):
        assert coupled(graph, "encoder", f) == {
            ("encoder", "out"): [f],
            ("masker.bottleneck.0", "out"): [f],  # the norm: gain and bias
            ("masker.bottleneck.1", "in"): [f],
            ("masker.mask_net.1", "out"): [f, 12 + f],
            ("decoder", "in"): [f],
        }


def test_residual_stream_of_conv_tasnet(conv_tasnet: nn.Module) -> None:
    found = coupled(graph_of(conv_tasnet, 1, 400), "masker.bottleneck.1", 3)
    expected = {("masker.bottleneck.1", "out"): [3]}
    for block in range(4):
        expected[f"masker.TCN.{block}.shared_block.0", "in"] = [3]
        expected[f"masker.TCN.{block}.res_conv", "out"] = [3]
    assert found == expected


def test_hidden_channels_of_conv_tasnet(conv_tasnet: nn.Module) -> None:
    found = coupled(graph_of(conv_tasnet, 1, 400), "masker.TCN.1.shared_block.0", 7)
    block = "masker.TCN.1"
    outs = [f"{block}.shared_block.{i}" for i in (0, 2, 3, 5)]  # conv, norm, depthwise, norm
    ins = [f"{block}.res_conv", f"{block}.skip_conv"]
    assert found == {**{(n, "out"): [7] for n in outs}, **{(n, "in"): [7] for n in ins}}


def test_scope_protects_what_couples_out_of_it(conv_tasnet: nn.Module) -> None:
    graph = graph_of(conv_tasnet, 1, 400, scope="separator")
    assert graph.protected["encoder"] == "it is tied to 'encoder', outside the scope"
    assert graph.protected["masker.mask_net.1"] == graph.protected["encoder"]
    assert graph_of(conv_tasnet, 1, 400).protected["decoder"] == "it is an output of the model"


def test_scope_of_modules(conv_tasnet: nn.Module) -> None:
    blocks = conv_tasnet.masker.TCN  # type: ignore[union-attr]
    graph = graph_of(conv_tasnet, 1, 400, scope=[blocks[1], blocks[3].shared_block])
    assert sizes(graph) == {n: s for n, s in INSIDE.items() if ".1.sh" in n or ".3.sh" in n}


def test_mask_rows_of_sudormrf_may_not_go() -> None:
    pytest.importorskip("asteroid", reason="needs the extra 'asteroid'")
    from architectures import SEPARATORS, randomised

    model = randomised(SEPARATORS["SuDORMRFNet"], 0, torch.float32)
    graph = graph_of(model, 1, 400)
    assert not {"encoder.encoder", "masker.reshape_before_masks"} & sizes(graph).keys()
    # its mask convolution runs over the filters as over pixels, with one kernel for all of them
    reason = graph.protected["masker.reshape_before_masks"]
    assert reason.startswith("layer 'masker.m' takes its channels for positions, in 'masker.m'")
    assert "convolutional.py:" in reason
    assert "takes its channels for positions" in graph.protected["encoder.encoder"]
