"""Writers of each format: each writes a file, reads it back, and returns what runs it.

Letters: B batch, T time.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, InputError, require

__all__ = ["FORMATS", "WRITERS", "Runner", "format_of", "read_exported"]

Runner = Callable[[Tensor], Tensor]
FORMATS = ("torchscript", "onnx", "pt2")
_OPSET = 17
_ENDINGS = {".onnx": "onnx", ".pt2": "pt2"}


def format_of(path: Path, format: str = "") -> str:
    """Which format a file is written in.

    Args:
        path: The file; its ending decides if no format is given.
        format: One of ``FORMATS``, or empty.

    Returns:
        One of ``FORMATS``; TorchScript for other endings than .onnx and .pt2.

    Raises:
        InputError: If there is no such format.
    """
    chosen = format or _ENDINGS.get(path.suffix.lower(), "torchscript")
    if chosen not in FORMATS:
        raise InputError(f"Unknown format {chosen!r}; the formats are {', '.join(FORMATS)}.")
    return chosen


def _write_torchscript(model: nn.Module, example: Tensor, path: str, any_length: bool) -> Runner:
    held = io.BytesIO()  # torch's own writer ends the process where the disk is full
    torch.jit.save(torch.jit.trace(model, example, check_trace=False), held)
    Path(path).write_bytes(held.getbuffer())
    return _read_torchscript(path)


def _read_torchscript(path: str) -> Runner:
    loaded: Any = torch.jit.load(path)
    return lambda mixture: loaded(mixture)


def _write_onnx(model: nn.Module, example: Tensor, path: str, any_length: bool) -> Runner:
    require("onnxruntime", "export", "Exporting to ONNX")
    require("onnx", "export", "Exporting to ONNX")
    axes = {"mixture": {0: "B", example.dim() - 1: "T"}, "estimates": {0: "B", 2: "T"}}
    with _no_graph_printed():
        torch.onnx.export(
            model,
            (example,),
            path,
            dynamo=False,  # the other exporter needs packages more
            opset_version=_OPSET,
            input_names=["mixture"],
            output_names=["estimates"],
            dynamic_axes=axes if any_length else None,
        )
    return _read_onnx(path)


def _read_onnx(path: str) -> Runner:
    runtime = require("onnxruntime", "export", "Running ONNX")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda mixture: torch.from_numpy(session.run(None, {"mixture": mixture.numpy()})[0])


@contextmanager
def _no_graph_printed() -> Iterator[None]:
    """When torch's exporter fails, it prints thousands of lines."""
    log = getattr(torch._C, "_jit_onnx_log", None)
    if log is None:
        yield
        return
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log


def _write_pt2(model: nn.Module, example: Tensor, path: str, any_length: bool) -> Runner:
    sizes = None
    if any_length:
        _refuse_recurrent(model)
        example = torch.cat([example, 0.5 * example])  # a batch of one would be taken as a constant
        auto = torch.export.Dim.AUTO
        sizes = ({0: auto, example.dim() - 1: auto},)
    program = torch.export.export(model, (example,), dynamic_shapes=sizes, strict=False)
    held = io.BytesIO()  # by name it insists on an ending
    torch.export.save(program, held)
    Path(path).write_bytes(held.getbuffer())
    return _read_pt2(path)


def _read_pt2(path: str) -> Runner:
    with open(path, "rb") as file:
        loaded: Any = torch.export.load(file).module()
    return lambda mixture: loaded(mixture)


def _refuse_recurrent(model: nn.Module) -> None:
    """torch.export writes a recurrent layer out step by step, for one number of steps."""
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase):
            raise CheckpointError(
                f"{type(model).__name__} cannot be exported as pt2 for any length: torch.export "
                f"unrolls the recurrent layer '{name}' ({type(module).__name__}) for one number of "
                "steps. Use TorchScript or ONNX (--format torchscript, --format onnx), or pass "
                "any_length=False (--fixed-length) for a file that takes mixtures of one length."
            )


WRITERS: dict[str, Callable[[nn.Module, Tensor, str, bool], Runner]] = {
    "torchscript": _write_torchscript,
    "onnx": _write_onnx,
    "pt2": _write_pt2,
}
_READERS: dict[str, Callable[[str], Runner]] = {
    "torchscript": _read_torchscript,
    "onnx": _read_onnx,
    "pt2": _read_pt2,
}


def read_exported(path: str | Path, format: str = "") -> Runner:
    """Open an exported file of one's own; TorchScript and ``.pt2`` files hold code.

    Args:
        path: What ``export_model`` wrote.
        format: As of :func:`format_of`.

    Returns:
        Mixtures (B, T) or (B, M, T) in, estimates (B, S, T) out; on one thread in onnxruntime, on
        torch's threads otherwise.
    """
    return _READERS[format_of(Path(path), format)](str(path))


"""For each format: from a model, an example (1, T), a path, and whether sizes should stay open."""
