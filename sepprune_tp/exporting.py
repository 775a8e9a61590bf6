"""Models as files that run without this package: TorchScript and ONNX, checked after writing.

Letters: B batch, S sources, T time.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sepprune_tp.errors import CheckpointError, InputError, require

__all__ = ["FORMATS", "Exported", "export_model"]

FORMATS = ("torchscript", "onnx")
TOLERANCE = 1e-4  # of the largest output; float32 sums in another order


@dataclass(frozen=True)
class Exported:
    """What came of an export.

    Attributes:
        path: The file.
        difference: Largest deviation from the model's own output on the example.
        any_length: Whether it also gave the right output for a mixture of another length.
    """

    path: Path
    difference: float
    any_length: bool


def export_model(
    model: nn.Module, example: Tensor, path: str | os.PathLike[str], format: str = "torchscript"
) -> Exported:
    """Trace a model, write it, read it back and compare.

    Args:
        model: Mixtures (B, T) in, estimates (B, S, T) out, on the CPU.
        example: A mixture (1, T) to trace with.
        path: File to write; it appears only if its output is right.
        format: ``"torchscript"`` or ``"onnx"``.

    Returns:
        The file, and how it compares with the model.

    Raises:
        InputError: If there is no such format.
        CheckpointError: If the model cannot be exported, or the file gives another output.
        MissingExtraError: If ONNX is asked for and not installed.
    """
    if format not in FORMATS:
        raise InputError(f"Unknown format {format!r}; the formats are {', '.join(FORMATS)}.")
    target, was_training = Path(path), model.training
    handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    model.eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing warns of every shape that it fixes
            write = _write_onnx if format == "onnx" else _write_torchscript
            run = _guarded(write, model, example, scratch, format)
            exported = _compare(model, run, example, target)
        os.replace(scratch, target)
    finally:
        model.train(was_training)
        Path(scratch).unlink(missing_ok=True)
    return exported


def _guarded(
    write: Callable[[nn.Module, Tensor, str], Callable[[Tensor], Tensor]],
    model: nn.Module,
    example: Tensor,
    scratch: str,
    format: str,
) -> Callable[[Tensor], Tensor]:
    """Write, and turn whatever the exporter raises into one message."""
    try:
        return write(model, example, scratch)
    except CheckpointError:
        raise
    except Exception as error:  # exporters raise many kinds
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        hint = " Use --format torchscript, which takes more models." if format == "onnx" else ""
        raise CheckpointError(
            f"{type(model).__name__} cannot be exported as {format} "
            f"({type(error).__name__}: {first}): it uses an operation that the exporter does not "
            f"know.{hint}"
        ) from error


def _write_torchscript(
    model: nn.Module, example: Tensor, scratch: str
) -> Callable[[Tensor], Tensor]:
    traced = torch.jit.trace(model, example, check_trace=False)
    torch.jit.save(traced, scratch)
    loaded: Any = torch.jit.load(scratch)
    return lambda mixture: loaded(mixture)


def _write_onnx(model: nn.Module, example: Tensor, scratch: str) -> Callable[[Tensor], Tensor]:
    runtime = require("onnxruntime", "export", "Exporting to ONNX")
    require("onnx", "export", "Exporting to ONNX")
    torch.onnx.export(
        model,
        (example,),
        scratch,
        dynamo=False,  # torch.export refuses global layer norm
        input_names=["mixture"],
        output_names=["estimates"],
        dynamic_axes={"mixture": {0: "B", 1: "T"}, "estimates": {0: "B", 2: "T"}},
    )
    session = runtime.InferenceSession(scratch, providers=["CPUExecutionProvider"])
    return lambda mixture: torch.from_numpy(session.run(None, {"mixture": mixture.numpy()})[0])


def _compare(
    model: nn.Module, run: Callable[[Tensor], Tensor], example: Tensor, target: Path
) -> Exported:
    """Largest deviation on the example, and whether another length works as well."""
    expected = model(example)
    difference = float((run(example) - expected).abs().max())
    if not difference <= TOLERANCE * float(expected.abs().max()):
        raise CheckpointError(
            f"The exported {type(model).__name__} differs from the model by {difference:.2e}; "
            f"{target} was not written. Its code depends on the values of its input."
        )
    other = example[..., : max(1, round(0.77 * example.shape[-1]))]
    try:
        wanted, found = model(other), run(other)
        gap = float((found - wanted).abs().max())
        any_length = found.shape == wanted.shape and gap <= TOLERANCE * float(wanted.abs().max())
    except Exception:  # a traced shape that does not fit another length raises anything
        any_length = False
    return Exported(target, difference, any_length)
