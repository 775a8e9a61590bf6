"""torchvision's families, small: torch-pruning's pruner on our graph, and gated = pruned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch_pruning as tp
from architectures import randomised
from networks import assert_exact
from torch import Tensor, nn

from sepprune_tp.graph import ChannelGraph, channel_graph

models = pytest.importorskip("torchvision.models", reason="needs the extra 'test'")


def small_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=10)


def small_transformer() -> nn.Module:
    return models.VisionTransformer(16, 4, 2, 2, 16, 24, num_classes=10)


def small_swin() -> nn.Module:
    return models.SwinTransformer([4, 4], 16, [1, 2], [2, 4], [2, 2], num_classes=10)


FAMILIES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet": (lambda: models.resnet18(num_classes=10), 32),
    "resnext": (
        lambda: models.ResNet(
            models.resnet.Bottleneck, [1, 1, 1, 1], 10, groups=4, width_per_group=4
        ),
        32,
    ),
    "densenet": (lambda: models.DenseNet(8, (2, 2), 8, num_classes=10), 32),
    "squeezenet": (lambda: models.squeezenet1_1(num_classes=10), 32),
    "mobilenet_v2": (lambda: models.mobilenet_v2(num_classes=10, width_mult=0.25), 32),
    "mobilenet_v3": (lambda: models.mobilenet_v3_small(num_classes=10, width_mult=0.5), 32),
    "mnasnet": (lambda: models.MNASNet(0.25, num_classes=10), 32),
    "shufflenet": (lambda: models.ShuffleNetV2([1, 1, 1], [8, 16, 16, 16, 32], 10), 32),
    "convnext": (small_convnext, 32),
    "vit": (small_transformer, 16),
    "swin": (small_swin, 32),
}


def built(name: str) -> tuple[nn.Module, Tensor]:
    build, pixels = FAMILIES[name]
    model = randomised(build, 0, torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # the heads of a VisionTransformer start at zero
                parameter.normal_()
    generator = torch.Generator().manual_seed(0)
    return model, torch.randn(2, 3, pixels, pixels, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", FAMILIES)
def test_gated_is_pruned(name: str) -> None:
    assert_exact(*built(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_torch_pruning_halves_it(name: str) -> None:
    model, x = built(name)
    before = sum(p.numel() for p in model.parameters())
    with channel_graph("all"):
        tp.pruner.MagnitudePruner(
            model,
            x,
            tp.importance.MagnitudeImportance(p=1),
            pruning_ratio=0.5,
            ignored_layers=[m for m in model.modules() if getattr(m, "out_features", 0) == 10],
        ).step()
    model(x).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    limit = 0.8 if name in ("swin", "shufflenet") else 0.45  # these protect more
    assert sum(p.numel() for p in model.parameters()) < limit * before


def test_swin_goes_whole() -> None:
    """It hands the weights of its attention to a function: these are found at the operation.

    The widths of heads are taken from the width of the stream (``C // heads``), so they go with it.
    """
    graph = ChannelGraph("all").build_dependency(*built("swin"))
    mlps = {f"features.{i}.{b}.mlp.0" for i, b in ((1, 0), (3, 0), (3, 1))}
    assert {n for n, _ in graph.named_groups()} == mlps | {"features.0.0", "features.2.reduction"}
    together = dict(graph.named_groups())["features.0.0"].channel_set
    assert {"features.1.0.attn.qkv"} <= {graph.name_of(site.owner) for site in together.sites}
    assert graph.protected == {"head": "it is an output of the model"}
