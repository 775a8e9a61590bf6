"""Asteroid's maskers: attributes that carry channel counts, kept true after pruning.

A constructor argument that was one number for all blocks (``hid_chan``, ``hid_size``) becomes a
list when pruning leaves blocks of different widths.
"""

from __future__ import annotations

from typing import Any

from asteroid.masknn.convolutional import Conv1DBlock, SuDORMRF, SuDORMRFImproved, TDConvNet
from asteroid.masknn.recurrent import DPRNN, LSTMMasker, MulCatRNN, SingleRNN
from torch import nn

from . import Adapter, register_adapter

__all__: list[str] = []


def _one_or_list(widths: list[int]) -> int | list[int]:
    return widths[0] if len(set(widths)) == 1 else widths


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


def _sync_dprnn(module: nn.Module) -> None:
    net: Any = module
    net.in_chan, net.bn_chan = net.bottleneck[1].in_channels, net.bottleneck[1].out_channels
    net.out_chan = net.mask_net.out_channels
    rnns = [m for m in net.net.modules() if isinstance(m, nn.RNNBase)]
    net.hid_size = _one_or_list([rnn.hidden_size for rnn in rnns])


def _ties_dprnn(module: nn.Module) -> list[tuple[nn.Module, nn.Module, int]]:
    """``DPRNN.forward`` reshapes residual stream and per-source maps with one ``bn_chan``."""
    net: Any = module
    return [(net.bottleneck[1], net.first_out[1], net.n_src)]


def _sync_lstm_masker(module: nn.Module) -> None:
    net: Any = module
    rnn, linear = net.masker[0].rnn, net.masker[1]
    net.in_chan, net.hid_size = rnn.input_size, rnn.hidden_size
    net.out_chan = linear.out_features // net.n_src


def _sync_rnn(module: nn.Module) -> None:
    block: Any = module
    rnn = block.rnn if isinstance(block, SingleRNN) else block.rnn1
    block.input_size, block.hidden_size = rnn.input_size, rnn.hidden_size


def _sync_sudormrf(module: nn.Module) -> None:
    net: Any = module
    first = net.bottleneck if isinstance(net, SuDORMRFImproved) else net.l1
    net.in_chan, net.bn_chan = first.in_channels, first.out_channels


register_adapter(TDConvNet, Adapter(_sync_tdconvnet))
register_adapter(Conv1DBlock, Adapter(_sync_block))
register_adapter(DPRNN, Adapter(_sync_dprnn, _ties_dprnn))
register_adapter(LSTMMasker, Adapter(_sync_lstm_masker))
register_adapter(SingleRNN, Adapter(_sync_rnn))
register_adapter(MulCatRNN, Adapter(_sync_rnn))
register_adapter(SuDORMRF, Adapter(_sync_sudormrf))
register_adapter(SuDORMRFImproved, Adapter(_sync_sudormrf))
