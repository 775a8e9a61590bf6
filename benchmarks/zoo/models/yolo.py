"""ultralytics: YOLO of four generations, built from their YAML files, without weights."""

from __future__ import annotations

import functools
import os
from typing import Any

from torch import nn

from benchmarks.zoo.row import ZooRow, noise

__all__ = ["ROWS"]


def _make(kind: str, config: str) -> Any:
    os.environ.update(YOLO_VERBOSE="false", YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
    from ultralytics.nn import tasks

    return getattr(tasks, kind)(config, verbose=False)


def _head(model: Any) -> list[nn.Module]:
    """The last block, which torch-pruning's example for YOLOv8 spares."""
    return [model.model[-1]]


def _first(output: Any) -> Any:
    """The predictions; what follows are the features they were made of, for the loss."""
    return output[0]


def _row(config: str, kind: str = "DetectionModel", pixels: int = 64) -> ZooRow:
    make = functools.partial(_make, kind, config)
    name = config.removesuffix(".yaml")
    return ZooRow("ultralytics", name, make, noise(1, 3, pixels, pixels), _first, _head)


ROWS: list[ZooRow] = [
    _row("yolov3-tiny.yaml"),
    _row("yolov5n.yaml"),
    _row("yolov6n.yaml"),
    _row("yolov8n.yaml"),
    _row("yolov8n-seg.yaml", "SegmentationModel"),
    _row("yolov8n-pose.yaml", "PoseModel"),
    _row("yolov8n-cls.yaml", "ClassificationModel"),
    _row("yolov8n-obb.yaml", "OBBModel"),
    _row("yolov9t.yaml"),
    _row("yolov10n.yaml"),
    _row("yolo11n.yaml"),
    _row("yolo11n-seg.yaml", "SegmentationModel"),
    _row("yolo12n.yaml"),
    _row("yolo12n-seg.yaml", "SegmentationModel"),
    _row("rtdetr-l.yaml", "RTDETRDetectionModel"),
]
