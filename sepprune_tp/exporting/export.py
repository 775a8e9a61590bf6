"""Export a model, compare what was written with the model, and only then let the file appear.

Letters: B batch, S sources, T time.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sepprune_tp.files import is_write_failure, written

from .._modes import device_of, eval_mode
from .._unwrap import eagerly, unwrapped
from ..errors import CheckpointError, InputError, SepPruneError
from ..quantisation import QuantisationReport, quantise
from .formats import WRITERS, Runner, format_of
from .obstacles import describe
from .operations import ExportableOperations
from .portable import portable_copy

__all__ = ["TOLERANCE", "Exported", "export_model"]

TOLERANCE = 1e-4
"""Largest deviation, by the largest output: float32 sums in another order."""
_INT8_TOLERANCE = 1e-2
"""The same with int8 weights: what is rounded to 8 bits may fall to the other side."""
_LENGTHS = (0.77, 1.41)
"""Other lengths that a file is compared on, by that of the example."""


@dataclass(frozen=True)
class Exported:
    """What came of an export.

    Attributes:
        path: The file.
        format: One of ``FORMATS``.
        difference: Largest deviation from the model, in units of its output, over ``shapes``.
        shapes: Shapes of the mixtures that the file was compared with the model on.
        any_length: Whether it takes mixtures of any length.
        quantisation: Which layers have int8 weights, where asked for.
    """

    path: Path
    format: str
    difference: float
    shapes: tuple[tuple[int, ...], ...]
    any_length: bool
    quantisation: QuantisationReport | None = None


def export_model(
    model: nn.Module,
    example: Tensor,
    path: str | os.PathLike[str],
    format: str = "",
    *,
    any_length: bool = True,
    int8: bool = False,
) -> Exported:
    """Trace a copy of a model, write it, read it back and compare it with the model.

    The file is compared on the example, on a shorter and on a longer mixture, and on a batch of
    two. In the copy, code that exporters do not follow is replaced by other code for the same.

    Args:
        model: Mixtures (B, T) or (B, M, T) in, estimates (B, S, T) out. It stays as it is.
        example: A mixture (1, T) or (1, M, T) to trace with.
        path: File to write; it appears only if its output is right.
        format: ``"torchscript"``, ``"onnx"`` or ``"pt2"`` (``torch.export``); empty: by the ending
            (``.onnx``, ``.pt2``, else TorchScript).
        any_length: False for a file that takes mixtures shaped like the example only.
        int8: Give linear and recurrent layers int8 weights (:func:`sepprune_tp.quantise`); the file
            is then compared with the model that has them. TorchScript only.

    Returns:
        The file, and how it compares with the model.

    Raises:
        InputError: If there is no such format, the model does not run on the example, or has no
            layer for int8.
        CheckpointError: If the model cannot be exported, or the file gives another output.
        WriteError: If ``path`` cannot be written.
        MissingExtraError: If ONNX is asked for and not installed.
    """
    target = Path(path)
    chosen, plain = format_of(target, format), unwrapped(model)
    example, report = example.detach().cpu(), None
    if int8:
        if chosen != "torchscript":
            raise InputError(
                f"int8 weights are written as TorchScript, not {chosen}. Leave --format out, or "
                "quantise the ONNX file with onnxruntime.quantization.quantize_dynamic."
            )
        with ExportableOperations():
            plain = quantise(portable_copy(plain), example)
        report = cast(QuantisationReport, plain.quantisation)
    expected = _expected(plain, example, any_length)
    tolerance = _INT8_TOLERANCE if int8 else TOLERANCE
    with written(target) as scratch, warnings.catch_warnings(), torch.no_grad(), eagerly():
        warnings.simplefilter("ignore")  # tracing warns of every shape that it fixes
        run = _write(plain, expected[0][0], str(scratch), chosen, any_length)
        difference = _compare(type(plain).__name__, run, expected, target, tolerance, any_length)
    shapes = tuple(tuple(mixture.shape) for mixture, _ in expected)
    return Exported(target, chosen, difference, shapes, any_length, report)


def _write(
    model: nn.Module, example: Tensor, scratch: str, format: str, any_length: bool
) -> Runner:
    """Write, and turn whatever the exporter raises into one message."""
    portable = portable_copy(model)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a kernel that no format knows
    try:
        with ExportableOperations():
            return WRITERS[format](portable, example, scratch, any_length)
    except SepPruneError:
        raise
    except Exception as error:  # exporters raise many kinds
        if is_write_failure(error, scratch):
            raise
        raise CheckpointError(describe(type(model).__name__, format, error)) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _expected(model: nn.Module, example: Tensor, any_length: bool) -> list[tuple[Tensor, Tensor]]:
    """Mixtures, the example first, and what the model gives for them, on the CPU."""
    time = example.shape[-1]
    twice = torch.cat([example, example.flip(-1)], -1)
    others = [twice[..., : max(1, round(share * time))] for share in _LENGTHS]
    others.append(torch.cat([twice[..., :time], 0.3 * twice[..., -time:]]))
    device, found = device_of(model), []
    with eagerly(), eval_mode(model), torch.no_grad():
        for index, mixture in enumerate([example, *others] if any_length else [example]):
            try:
                found.append((mixture, model(mixture.to(device)).cpu()))
            except Exception as error:
                if index == 0:
                    raise InputError(
                        f"{type(model).__name__} cannot run on a mixture of shape "
                        f"{tuple(example.shape)} ({type(error).__name__}: {error}). Give one that "
                        "it takes."
                    ) from error
    return found


def _compare(
    name: str,
    run: Runner,
    expected: list[tuple[Tensor, Tensor]],
    target: Path,
    tolerance: float,
    any_length: bool,
) -> float:
    """Largest deviation; an error if it is more than rounding on any of the mixtures."""
    worst, example = 0.0, expected[0][0]
    for mixture, wanted in expected:
        shape = tuple(mixture.shape)
        gap = _gap(run, mixture, wanted)
        if isinstance(gap, float) and gap <= tolerance * float(wanted.abs().max()):
            worst = max(worst, gap)
            continue
        what = f"differs by {gap:.1e}" if isinstance(gap, float) else f"fails ({gap})"
        if not any_length:
            raise CheckpointError(
                f"The exported {name} {what} from the model; {target} was not written. Its code "
                "depends on the values of its input."
            )
        raise CheckpointError(
            f"The exported {name} {what} on a mixture of shape {shape}; {target} was not written. "
            f"Its code takes sizes from the example {tuple(example.shape)}, or depends on the "
            "values of its input. Try another format, or pass any_length=False (--fixed-length) "
            "for a file that takes mixtures shaped like the example only."
        )
    return worst


def _gap(run: Runner, mixture: Tensor, wanted: Tensor) -> float | str:
    """Largest deviation of a file's output, or why there is none."""
    try:
        found: Any = run(mixture)
    except Exception as error:  # a traced shape that does not fit another length raises anything
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    if found.shape != wanted.shape:
        return f"it gives {tuple(found.shape)}, the model {tuple(wanted.shape)}"
    gap = float((found - wanted).abs().max())
    return gap if gap == gap else "it gives NaN"
