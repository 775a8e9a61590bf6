"""What an exporter stumbled over, in words: which operation, and what to do instead."""

from __future__ import annotations

import re

__all__ = ["describe", "operation_in"]

_OPERATION = re.compile(r"\baten(?:::|\.)(\w+)")
_COMPLEX = re.compile(r"complex|view_as_real|polar|stft", re.IGNORECASE)
_INSTEAD = {
    "onnx": "TorchScript (--format torchscript) takes it, and so may torch.export (--format pt2).",
    "pt2": "TorchScript (--format torchscript) takes more models.",
    "torchscript": "torch.export (--format pt2) may take it.",
}


def operation_in(error: BaseException) -> str | None:
    """Name of the operation that an exporter's message blames, e.g. ``"view_as_complex"``."""
    found = _OPERATION.search(str(error))
    return found.group(1) if found else None


def describe(model: str, format: str, error: BaseException) -> str:
    """Say why a model cannot be exported, and what can be done.

    Args:
        model: Its class.
        format: The format that was asked for.
        error: What the exporter raised.

    Returns:
        A message that names the operation where the exporter does.
    """
    operation = operation_in(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
    if format == "onnx" and _COMPLEX.search(f"{operation} {said}"):
        cause = (
            f"it computes with complex numbers ({operation or 'in its STFT'}), which ONNX does not "
            "have"
        )
    elif operation is not None:
        cause = f"the exporter cannot write the operation '{operation}'"
    else:
        cause = "the exporter cannot follow its code"
    return f"{model} cannot be exported as {format}: {cause} ({said}). {_INSTEAD[format]}"
