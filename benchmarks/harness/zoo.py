"""The dense models of the benchmarks, by name, and how each is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .config import ConfigError

__all__ = ["MODELS", "build"]

_COMMON = {"n_src": 2, "kernel_size": 16, "stride": 8, "mask_act": "relu", "sample_rate": 8000}
MODELS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "ConvTasNet": (
        "asteroid:ConvTasNet",
        {
            **_COMMON,
            "n_filters": 128,
            "bn_chan": 64,
            "hid_chan": 128,
            "skip_chan": 64,
            "n_blocks": 6,
            "n_repeats": 2,
        },
    ),
    "SuDORMRFImprovedNet": (
        "asteroid:SuDORMRFImprovedNet",
        {**_COMMON, "n_filters": 128, "bn_chan": 64, "num_blocks": 6, "upsampling_depth": 4},
    ),
    "DPRNNTasNet": (
        "asteroid:DPRNNTasNet",
        {
            **_COMMON,
            "n_filters": 64,
            "bn_chan": 64,
            "hid_size": 64,
            "n_repeats": 2,
            "chunk_size": 64,
        },
    ),
    # For speakers never heard: about 1 M parameters and as long a step of training each.
    "ConvTasNet-medium": (
        "asteroid:ConvTasNet",
        {
            **_COMMON,
            "n_filters": 256,
            "bn_chan": 96,
            "hid_chan": 256,
            "skip_chan": 64,
            "n_blocks": 8,
            "n_repeats": 2,
        },
    ),
    "SuDORMRFImprovedNet-medium": (
        "asteroid:SuDORMRFImprovedNet",
        {**_COMMON, "n_filters": 256, "bn_chan": 128, "num_blocks": 8, "upsampling_depth": 4},
    ),
    "DPRNNTasNet-medium": (
        "asteroid:DPRNNTasNet",
        {
            **_COMMON,
            "n_filters": 64,
            "bn_chan": 64,
            "hid_size": 96,
            "n_repeats": 3,
            "chunk_size": 64,
        },
    ),
    # The paper's three at widths and depths that two cores train; 8 kHz.
    "afrcnn-small": (
        "afrcnn-12",
        {
            "kernel": 21,
            "basis": 128,
            "bottleneck": 64,
            "hidden": 64,
            "depth": 4,
            "iterations": 6,
        },
    ),
    "tdanet-small": (
        "tdanet",
        {"kernel": 32, "bottleneck": 64, "hidden": 64, "depth": 4, "iterations": 6, "heads": 4},
    ),
    "sudormrf-small": (
        "sudormrf",
        {
            "kernel": 21,
            "basis": 128,
            "bottleneck": 64,
            "hidden": 128,
            "depth": 4,
            "blocks": 6,
        },
    ),
    "afrcnn-12": ("afrcnn-12", {}),
    "tdanet": ("tdanet", {}),
    "sudormrf": ("sudormrf", {}),
}
"""Name to what it is (``asteroid:CLASS``, or a name of ``benchmarks.models``) and arguments."""


def build(name: str, seed: int = 0, **changed: Any) -> nn.Module:
    """An untrained model whose weights follow from the seed; global random state untouched.

    Args:
        name: One of ``MODELS``.
        seed: Of the weights.
        **changed: Arguments in the place of its own.

    Raises:
        ConfigError: If there is no such model.
    """
    if name not in MODELS:
        raise ConfigError(f"There is no model {name!r}; there are {', '.join(MODELS)}.")
    made, args = MODELS[name]
    library, _, cls = made.partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if library == "asteroid":
            from asteroid import models

            built: nn.Module = getattr(models, cls)(**{**args, **changed})
        else:
            from benchmarks.models import build as published

            built = published(made, **{**args, **changed})
    return built
