"""The rows of the graph benchmark: architectures at their default size, and variants of them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness.randomised import randomise

__all__ = ["ROWS", "GraphRow", "extra_row"]


@dataclass(frozen=True)
class GraphRow:
    """One model in one scope.

    Attributes:
        model: Name of the architecture in the table.
        variant: What differs from the default configuration.
        factory: ``module:function`` or ``module:function:argument``.
        arguments: Keyword arguments of the factory.
        shape: Of the example input: one second at the model's sample rate.
        scope: ``separator`` or ``all``.
        alone: Whether torch-pruning's own graph is tried on it, too.
    """

    model: str
    variant: str
    factory: str
    arguments: dict[str, Any]
    shape: tuple[int, ...] = (1, 16000)
    scope: str = "all"
    alone: bool = False

    @property
    def name(self) -> str:
        """Unique name."""
        return f"{self.model} {self.variant} ({self.scope})"

    def build(self) -> nn.Module:
        """The model in eval mode: random weights, random biases, affines and running statistics."""
        module, function, *argument = self.factory.split(":")
        import sepprune_tp  # noqa: F401  (lets Asteroid's DCCRNet be built)

        torch.manual_seed(0)
        built = getattr(importlib.import_module(module), function)(*argument, **self.arguments)
        return randomise(built.eval(), 0.1)

    def example(self) -> Tensor:
        """Noise of the natural shape."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(1))


def _first(model: str, variant: str = "default", **options: Any) -> GraphRow:
    """The row of an architecture that torch-pruning's own graph is tried on."""
    return _asteroid(model, variant, alone=True, **options)


def _asteroid(model: str, variant: str = "default", **options: Any) -> GraphRow:
    kept = {key: options.pop(key) for key in ("shape", "scope", "alone") if key in options}
    sources = {} if model in ("DeMask", "DCCRNet", "DCUNet") else {"n_src": 2}
    return GraphRow(model, variant, f"asteroid.models:{model}", {**sources, **options}, **kept)


_DCUNET_20: dict[str, Any] = {"architecture": "DCUNet-20", "fix_length_mode": "pad"}

ROWS: list[GraphRow] = [
    _first("ConvTasNet", "gLN"),
    _asteroid("ConvTasNet", "gLN", scope="separator"),
    _asteroid("ConvTasNet", "cLN", norm_type="cLN"),
    _asteroid("ConvTasNet", "BN", norm_type="bN"),
    _asteroid("ConvTasNet", "causal cgLN", norm_type="cgLN", causal=True),
    _asteroid("ConvTasNet", "no skip", skip_chan=0),
    _asteroid("ConvTasNet", "3 sources, softmax", n_src=3, mask_act="softmax"),
    _first("DPRNNTasNet", "BLSTM"),
    _asteroid("DPRNNTasNet", "BLSTM", scope="separator"),
    _first("DPRNNTasNet", "BGRU", rnn_type="GRU"),
    _first("DPRNNTasNet", "BRNN", rnn_type="RNN"),
    _first("DPRNNTasNet", "LSTM (causal)", bidirectional=False, norm_type="cLN"),
    _first("DPRNNTasNet", "multiply-concat", use_mulcat=True),
    _first("DPTNet"),
    _asteroid("DPTNet", scope="separator"),
    _first("SuDORMRFNet"),
    _first("SuDORMRFImprovedNet"),
    _first("LSTMTasNet", "BLSTM"),
    _first("LSTMTasNet", "LSTM", bidirectional=False),
    _first("DeMask"),
    _first("DCCRNet", "DCCRN-CL", architecture="DCCRN-CL"),
    _first("DCUNet", "20", **_DCUNET_20),
    _asteroid("DCUNet", "20", **_DCUNET_20, scope="separator"),
    _asteroid("DCUNet", "20, large", **_DCUNET_20 | {"architecture": "Large-DCUNet-20"}),
    _asteroid("DCUNet", "10", **_DCUNET_20 | {"architecture": "DCUNet-10"}),
    _asteroid("DCUNet", "16", **_DCUNET_20 | {"architecture": "DCUNet-16"}),
    _first("FasNetTAC", "4 microphones", shape=(1, 4, 16000)),
    _asteroid("FasNetTAC", "4 microphones", shape=(1, 4, 16000), scope="separator"),
    _asteroid("FasNetTAC", "2 microphones, no TAC", shape=(1, 2, 16000), use_tac=False),
    _asteroid("ConvTasNet", "analytic filterbank", fb_name="analytic_free"),
    _asteroid("ConvTasNet", "STFT filterbank", fb_name="stft", n_filters=512, kernel_size=512),
    _asteroid("ConvTasNet", "sinc filterbank", fb_name="param_sinc", kernel_size=33),
    GraphRow("TDConvNet++", "default", "_graph_rows:td_convnet_pp", {}, alone=True),
    *(
        GraphRow(name, "paper", f"benchmarks.models:build:{build}", {}, alone=alone)
        for name, build, alone in (
            ("A-FRCNN-12", "afrcnn-12", True),
            ("A-FRCNN-16", "afrcnn-16", False),
            ("SuDoRM-RF 1.0x", "sudormrf", True),
            ("TDANet", "tdanet", True),
            ("TDANet Large", "tdanet-large", False),
        )
    ),
]
"""What the table holds without further ado."""


def td_convnet_pp() -> nn.Module:
    """TDCN++ with its default sizes between a free encoder and decoder."""
    from asteroid.masknn import TDConvNetpp
    from asteroid.models.base_models import BaseEncoderMaskerDecoder
    from asteroid_filterbanks import make_enc_dec

    class TDCNpp(BaseEncoderMaskerDecoder):
        def forward_masker(self, tf_rep: Tensor) -> Tensor:
            masks: Tensor = self.masker(tf_rep)[0]  # the second are weights of the sources
            return masks

    encoder, decoder = make_enc_dec("free", 512, 16, 8)
    return TDCNpp(encoder, TDConvNetpp(512, n_src=2), decoder)


def extra_row(factory: str, shape: tuple[int, ...], scope: str) -> GraphRow:
    """A row for any other model.

    Args:
        factory: ``module:function`` or ``module:function:argument``, such as
            ``benchmarks.models:build:tdanet`` or ``torchvision.models:resnet18``.
        shape: Of the example input.
        scope: ``separator`` or ``all``.

    Returns:
        The row, named after the function and its argument.
    """
    _, function, *argument = factory.split(":")
    return GraphRow(
        (argument or [function])[0], "default", factory, {}, shape, scope, scope == "all"
    )
