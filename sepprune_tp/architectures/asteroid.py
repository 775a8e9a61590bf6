"""Asteroid's models: attributes that carry channel counts, and the layers that they tie.

A constructor argument that was one number for all blocks (``hid_chan``, ``hid_size``) becomes a
list when pruning leaves blocks of different widths.
"""

from __future__ import annotations

from typing import Any

from asteroid.masknn.attention import DPTransformer
from asteroid.masknn.convolutional import (
    Conv1DBlock,
    DCUNetComplexDecoderBlock,
    SuDORMRF,
    SuDORMRFImproved,
    TDConvNet,
    TDConvNetpp,
)
from asteroid.masknn.recurrent import DPRNN, DCCRMaskNet, LSTMMasker, MulCatRNN, SingleRNN
from asteroid.masknn.tac import TAC
from asteroid.models.demask import DeMask
from asteroid.models.fasnet import FasNetTAC
from torch import nn

from . import Adapter, Tie, register_adapter

__all__: list[str] = []


def _one_or_list(widths: list[int]) -> int | list[int]:
    return widths[0] if len(set(widths)) == 1 else widths


def _in_blocks(first: Any, second: Any) -> Tie:
    """``second`` makes the channels of ``first`` once for each source, one source after another."""
    width = first.out_channels
    return Tie(first, second, [j % width for j in range(second.out_channels)])


# -- convolutional --------------------------------------------------------------------------------


def _sync_tdconvnet(module: nn.Module) -> None:
    net: Any = module
    bottleneck, mask_conv = net.bottleneck[1], net.mask_net[1]
    net.in_chan, net.bn_chan = bottleneck.in_channels, bottleneck.out_channels
    net.out_chan = mask_conv.out_channels // net.n_src
    net.hid_chan = _one_or_list([block.res_conv.in_channels for block in net.TCN])
    if net.skip_chan:
        net.skip_chan = mask_conv.in_channels


def _sync_block(module: nn.Module) -> None:
    block: Any = module
    if block.skip_out_chan:
        block.skip_out_chan = block.skip_conv.out_channels


def _sync_sudormrf(module: nn.Module) -> None:
    net: Any = module
    first = net.bottleneck if isinstance(net, SuDORMRFImproved) else net.l1
    net.in_chan, net.bn_chan = first.in_channels, first.out_channels


def _sync_demask(module: nn.Module) -> None:
    model: Any = module
    convs = [layer for layer in model.masker if isinstance(layer, nn.Conv1d)]
    model.hidden_dims = tuple(conv.out_channels for conv in convs[:-1])


# -- recurrent and dual-path ----------------------------------------------------------------------


def _rnn_widths(module: nn.Module) -> int | list[int]:
    return _one_or_list([m.hidden_size for m in module.modules() if isinstance(m, nn.RNNBase)])


def _sync_dprnn(module: nn.Module) -> None:
    net: Any = module
    net.in_chan, net.bn_chan = net.bottleneck[1].in_channels, net.bottleneck[1].out_channels
    net.out_chan = net.mask_net.out_channels
    net.hid_size = _rnn_widths(net.net)


def _ties_dprnn(module: nn.Module) -> list[Tie]:
    """``DPRNN.forward`` reshapes residual stream and per-source maps with one ``bn_chan``."""
    net: Any = module
    return [_in_blocks(net.bottleneck[1], net.first_out[1])]


def _sync_lstm_masker(module: nn.Module) -> None:
    net: Any = module
    rnn, linear = net.masker[0].rnn, net.masker[1]
    net.in_chan, net.hid_size = rnn.input_size, rnn.hidden_size
    net.out_chan = linear.out_features // net.n_src


def _sync_rnn(module: nn.Module) -> None:
    block: Any = module
    rnn = block.rnn if isinstance(block, SingleRNN) else block.rnn1
    block.input_size, block.hidden_size = rnn.input_size, rnn.hidden_size


def _sync_dptransformer(module: nn.Module) -> None:
    net: Any = module
    blocks = [block for pair in net.layers for block in pair]
    net.in_chan, net.mha_in_dim = net.net_out[0].in_channels, net.first_out[1].in_channels
    net.n_heads = _one_or_list([block.mha.num_heads for block in blocks])
    net.ff_hid = _rnn_widths(net.layers)


def _ties_dptransformer(module: nn.Module) -> list[Tie]:
    """``DPTransformer.forward`` reshapes per-source maps and masks with one ``in_chan``."""
    net: Any = module
    return [_in_blocks(net.net_out[0], net.first_out[1])]


# -- complex --------------------------------------------------------------------------------------


def _sync_complex_decoder(module: nn.Module) -> None:
    block: Any = module
    deconv = block.deconv.re_module
    block.in_chan, block.out_chan = deconv.in_channels, deconv.out_channels


def _ties_dccrn(module: nn.Module) -> list[Tie]:
    """``DCCRMaskNetRNN.forward`` gives its (C * F) features the shape (C, F) of its input."""
    net: Any = module
    conv, linear = net.encoders[-2].conv.re_module, net.encoders[-1].linear.re_module
    bins = linear.out_features // conv.out_channels
    return [Tie(conv, linear, [j // bins for j in range(linear.out_features)])]


# -- several microphones --------------------------------------------------------------------------


def _sync_tac(module: nn.Module) -> None:
    block: Any = module
    block.hidden_dim = block.input_tf[0].out_features


def _ties_tac(module: nn.Module) -> list[Tie]:
    """``TAC.forward`` reshapes both the features and their mean with one ``hidden_dim``."""
    block: Any = module
    first, second = block.input_tf[0], block.avg_tf[0]
    return [Tie(first, second, list(range(second.out_features)))]


def _sync_fasnet(module: nn.Module) -> None:
    model: Any = module
    model.enc_dim, model.feature_dim = model.encoder.out_channels, model.bottleneck.out_channels
    model.hidden_dim = _rnn_widths(model.DPRNN_TAC)
    if model.use_tac:
        blocks = [pair[1] for pair in model.DPRNN_TAC]
        model.tac_hidden_dim = _one_or_list([b.input_tf[0].out_features for b in blocks])


def _ties_fasnet(module: nn.Module) -> list[Tie]:
    """``FasNetTAC.forward`` reshapes stream and per-source maps with one ``feature_dim``."""
    model: Any = module
    return [_in_blocks(model.bottleneck, model.conv_2D[1])]


_FASNET_PARTS = {"enc_LN": "encoder"} | dict.fromkeys(
    ("bottleneck", "DPRNN_TAC", "conv_2D", "tanh", "gate"), "separator"
)
"""FasNetTAC has no masker: what makes the beamforming filters from features is its separator."""

register_adapter(TDConvNet, Adapter(_sync_tdconvnet))
register_adapter(TDConvNetpp, Adapter(_sync_tdconvnet))
register_adapter(Conv1DBlock, Adapter(_sync_block))
register_adapter(SuDORMRF, Adapter(_sync_sudormrf))
register_adapter(SuDORMRFImproved, Adapter(_sync_sudormrf))
register_adapter(DeMask, Adapter(_sync_demask))
register_adapter(DPRNN, Adapter(_sync_dprnn, _ties_dprnn))
register_adapter(LSTMMasker, Adapter(_sync_lstm_masker))
register_adapter(SingleRNN, Adapter(_sync_rnn))
register_adapter(MulCatRNN, Adapter(_sync_rnn))
register_adapter(DPTransformer, Adapter(_sync_dptransformer, _ties_dptransformer))
register_adapter(DCUNetComplexDecoderBlock, Adapter(_sync_complex_decoder))
register_adapter(DCCRMaskNet, Adapter(lambda module: None, _ties_dccrn))
register_adapter(TAC, Adapter(_sync_tac, _ties_tac))
register_adapter(FasNetTAC, Adapter(_sync_fasnet, _ties_fasnet, _FASNET_PARTS))
