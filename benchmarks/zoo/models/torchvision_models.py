"""torchvision: classification, detection, segmentation, video and optical flow."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.row import ZooRow, last_layers, noise

__all__ = ["ROWS"]

CLASSES = 10
_HEADS = ("fc", "classifier", "head", "heads", "backbone.head")


def _make(name: str, options: dict[str, Any]) -> Any:
    from torchvision import models

    offline: dict[str, Any] = {"weights": None, "num_classes": CLASSES}
    if "rcnn" in name or name in _DENSE or name.startswith(("fcn", "deeplab", "lraspp")):
        offline["weights_backbone"] = None
    return models.get_model(name, **{**offline, **options})


def _classifier(model: nn.Module) -> list[nn.Module]:
    found = [getattr(model, name, None) for name in _HEADS]
    return last_layers(*[layer for layer in found if isinstance(layer, nn.Module)])


def _row(name: str, pixels: int = 64, batch: int = 2, **options: Any) -> ZooRow:
    make = functools.partial(_make, name, options)
    inputs = noise(batch, 3, pixels, pixels)
    return ZooRow("torchvision", name, make, inputs, classifier=_classifier)


# -- detection ------------------------------------------------------------------------------------

_DENSE = (
    "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)


def _detector_heads(model: nn.Module) -> list[nn.Module]:
    """What torch-pruning's example for torchvision spares: all heads."""
    found = [getattr(model, name, None) for name in ("head", "rpn", "roi_heads")]
    return [layer for layer in found if isinstance(layer, nn.Module)]


def _images(pixels: int) -> Callable[[], Any]:
    return lambda: ([torch.rand(3, pixels, pixels)],)


def _detections(output: Any) -> list[Tensor]:
    """Boxes, scores and masks; labels are numbers of classes."""
    return [value for found in output for value in found.values() if value.is_floating_point()]


def _detector(name: str, pixels: int = 64, **options: Any) -> ZooRow:
    sizes = {"min_size": pixels, "max_size": pixels} if "ssd" not in name else {}
    few = {"detections_per_img": 8} if "rcnn" not in name else {"box_detections_per_img": 8}
    least = {"box_score_thresh": 0.0} if "rcnn" in name else {"score_thresh": 0.0}
    make = functools.partial(_make, name, {**sizes, **few, **least, **options})
    return ZooRow("torchvision", name, make, _images(pixels), _detections, _detector_heads)


# -- segmentation and video -----------------------------------------------------------------------


def _out(output: Any) -> Tensor:
    found: Tensor = output["out"]
    return found


def _segmenter(name: str) -> ZooRow:
    make = functools.partial(_make, name, {"aux_loss": None} if "lraspp" not in name else {})
    inputs = noise(1, 3, 64, 64)
    return ZooRow("torchvision", name, make, inputs, _out, _classifier)


def _make_video(name: str, options: dict[str, Any]) -> Any:
    from torchvision.models import video

    return getattr(video, name)(weights=None, num_classes=CLASSES, **options)


def _video(name: str, pixels: int = 32, frames: int = 4, **options: Any) -> ZooRow:
    make = functools.partial(_make_video, name, options)
    inputs = noise(1, 3, frames, pixels, pixels)
    return ZooRow("torchvision", name, make, inputs, classifier=_classifier)


def _vit() -> Any:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 3, 4, 48, 96, num_classes=CLASSES)


def _swin(version: int) -> Any:
    from torchvision.models import swin_transformer as swin

    blocks = {1: (swin.SwinTransformerBlock, swin.PatchMerging)}
    blocks[2] = (swin.SwinTransformerBlockV2, swin.PatchMergingV2)
    block, merging = blocks[version]
    return swin.SwinTransformer(
        [4, 4],
        24,
        [1, 2, 1],
        [2, 4, 4],
        [4, 4],
        num_classes=CLASSES,
        block=block,
        downsample_layer=merging,
    )


def _maxvit() -> Any:
    from torchvision.models import MaxVit

    return MaxVit((64, 64), 16, 2, [16, 32], [1, 1], 8, 0.0, num_classes=CLASSES)


def _convnext() -> Any:
    from torchvision.models import convnext

    setting = convnext.CNBlockConfig
    blocks = [setting(16, 32, 1), setting(32, 48, 2), setting(48, None, 1)]
    return convnext.ConvNeXt(blocks, num_classes=CLASSES)


def _densenet() -> Any:
    from torchvision.models import DenseNet

    return DenseNet(8, (2, 3, 2), 16, num_classes=CLASSES)


def _mvit() -> Any:
    from torchvision.models.video import mvit

    setting = mvit.MSBlockConfig
    three, one, two = [3, 3, 3], [1, 1, 1], [1, 2, 2]
    blocks = [
        setting(2, 24, 24, three, three, one, [1, 2, 2]),
        setting(2, 24, 48, three, three, two, one),
        setting(4, 48, 48, three, three, one, one),
    ]
    return mvit.MViT(
        (32, 32),
        4,
        blocks,
        residual_pool=False,
        residual_with_cls_embed=True,
        rel_pos_embed=False,
        proj_after_attn=False,
        num_classes=CLASSES,
    )


def _raft() -> Any:
    from torchvision.models.optical_flow import raft_small

    return raft_small(weights=None)


def _flow_inputs() -> Any:
    return torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128)


def _last_flow(output: Any) -> Tensor:
    found: Tensor = output[-1]
    return found


def _named(name: str, make: Callable[[], Any], pixels: int) -> ZooRow:
    return ZooRow("torchvision", name, make, noise(2, 3, pixels, pixels), classifier=_classifier)


_NO_AUX: dict[str, Any] = {"aux_logits": False, "init_weights": False}

ROWS: list[ZooRow] = [
    _row("alexnet"),
    _named("convnext (narrow)", _convnext, 64),
    _named("densenet (narrow)", _densenet, 64),
    _row("efficientnet_b0"),
    _row("efficientnet_v2_s"),
    _row("googlenet", **_NO_AUX),
    _row("inception_v3", 96, **_NO_AUX),
    _named("maxvit (narrow)", _maxvit, 64),
    _row("mnasnet0_5"),
    _row("mobilenet_v2"),
    _row("mobilenet_v3_small"),
    _row("regnet_x_400mf"),
    _row("regnet_y_400mf"),
    _row("resnet18"),
    _row("resnet50"),
    _row("resnext50_32x4d"),
    _row("shufflenet_v2_x0_5"),
    _row("squeezenet1_1"),
    _named("swin (narrow)", functools.partial(_swin, 1), 64),
    _named("swin v2 (narrow)", functools.partial(_swin, 2), 64),
    _named("vit (narrow)", _vit, 32),
    _detector("fasterrcnn_mobilenet_v3_large_320_fpn"),
    _detector("fasterrcnn_resnet50_fpn"),
    _detector("maskrcnn_resnet50_fpn"),
    _detector("keypointrcnn_resnet50_fpn"),
    _detector("retinanet_resnet50_fpn"),
    _detector("fcos_resnet50_fpn"),
    _detector("ssd300_vgg16", 300),
    _detector("ssdlite320_mobilenet_v3_large", 320),
    _segmenter("fcn_resnet50"),
    _segmenter("deeplabv3_mobilenet_v3_large"),
    _segmenter("deeplabv3_resnet50"),
    _segmenter("lraspp_mobilenet_v3_large"),
    _video("r3d_18"),
    _video("mc3_18"),
    _video("r2plus1d_18"),
    _video("s3d", 224, 16),
    ZooRow("torchvision", "mvit (narrow)", _mvit, noise(1, 3, 4, 32, 32), classifier=_classifier),
    _video("swin3d_t", 32, 4),
    ZooRow("torchvision", "raft_small", _raft, _flow_inputs, _last_flow),
]
