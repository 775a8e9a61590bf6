"""Puts ``ChannelGraph`` where torch-pruning's tests take its graph from.

A pytest plug-in (``-p _torch_pruning_plugin``) that also runs a test file that is a program
(``python _torch_pruning_plugin.py FILE``). The environment variable ``GRAPH`` says whose graph:
``torch-pruning`` or ``sepprune-tp``. Weights that the tests would download are random.
"""

from __future__ import annotations

import os
import runpy
import sys
from typing import Any

import torch
import torch_pruning as tp
from torch_pruning import dependency

__all__: list[str] = []


def _use_channel_graph() -> None:
    from sepprune_tp.graph import ChannelGraph

    class GraphOfTheTests(ChannelGraph):
        """Built without arguments, as the tests do."""

        def __init__(self) -> None:
            super().__init__(scope="all")

    tp.DependencyGraph = GraphOfTheTests
    dependency.DependencyGraph = GraphOfTheTests
    dependency.graph.DependencyGraph = GraphOfTheTests


def _random_weights(self: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
    from torchvision import models

    for name in models.list_models():
        if models.get_model_weights(name) is type(self):
            return dict(models.get_model(name).state_dict())
    raise RuntimeError(f"torchvision has no model for {type(self).__name__}")


def _no_downloads() -> None:
    from torchvision.models import WeightsEnum

    WeightsEnum.get_state_dict = _random_weights


torch.set_num_threads(1)
torch.manual_seed(0)
_no_downloads()
if os.environ.get("GRAPH") == "sepprune-tp":
    _use_channel_graph()
if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
