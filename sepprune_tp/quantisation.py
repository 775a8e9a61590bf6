"""int8 weights for the layers that are matrix products: linear and recurrent ones.

Dynamic quantisation: weights become 8-bit integers with one scale a layer, activations are scaled
to 8 bits as they come, sums are exact integers. Convolutions stay as they are, for torch has no
such kernel for them. CPU only.
"""

from __future__ import annotations

import copy
import io
import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ._modes import eval_mode
from ._unwrap import eagerly, unwrapped
from .errors import InputError

__all__ = ["QuantisationReport", "quantise"]

_KINDS = (nn.Linear, nn.LSTM, nn.GRU)


@dataclass(frozen=True)
class QuantisationReport:
    """What became int8, and what that does.

    Attributes:
        layers: Names of the quantised layers, with their classes.
        share: Of the model's parameters that is in them, before.
        bytes_before: Size of the model's state as a file.
        bytes_after: The same afterwards.
        agreement: Level of the float model's output above the difference, in dB, on the example;
            None without one.
    """

    layers: tuple[tuple[str, str], ...]
    share: float
    bytes_before: int
    bytes_after: int
    agreement: float | None

    def __str__(self) -> str:
        """Two lines."""
        kinds: dict[str, int] = {}
        for _, kind in self.layers:
            kinds[kind] = kinds.get(kind, 0) + 1
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        sizes = f"{self.bytes_before / 1e6:.2f} MB to {self.bytes_after / 1e6:.2f} MB"
        heard = "" if self.agreement is None else f"; {self.agreement:.1f} dB above the difference"
        return f"int8: {counted}, {self.share:.0%} of the parameters\n{sizes}{heard}"


def quantise(model: nn.Module, example: Tensor | None = None) -> nn.Module:
    """Give the linear and recurrent layers of a copy of a model int8 weights.

    Args:
        model: Dense or pruned, in float32. It stays as it is.
        example: Mixture (B, T) to compare both models on.

    Returns:
        A copy on the CPU in eval mode, for running only: it cannot be trained, pruned or saved
        (save the model itself, or export the copy as TorchScript). Its ``quantisation`` is the
        report.

    Raises:
        InputError: If there is no layer to quantise (a network of convolutions gains nothing), the
            model is not in float32, or this torch cannot quantise.
    """
    plain = unwrapped(model)
    name = type(plain).__name__
    found = _layers(plain)
    if not found:
        raise InputError(
            f"{name} has no linear or recurrent layer (torch.nn.Linear, LSTM, GRU), the only ones "
            "that dynamic int8 quantisation takes: a network of convolutions gains nothing by it. "
            "Prune it further, or use optimize_for_inference."
        )
    wrong = {p.dtype for p in plain.parameters() if p.dtype != torch.float32}
    if wrong:
        raise InputError(
            f"{name} has parameters of {', '.join(sorted(map(str, wrong)))}; int8 quantisation "
            "takes float32. Call model.float() first."
        )
    original = copy.deepcopy(plain).cpu().eval()
    held = sum(p.numel() for layer in found.values() for p in layer.parameters())
    before = _size(original)
    quantised = _quantised(copy.deepcopy(original), list(found))
    agreement = None if example is None else _agreement(original, quantised, example.cpu())
    quantised.quantisation = QuantisationReport(  # type: ignore[assignment]
        tuple((name, type(layer).__name__) for name, layer in found.items()),
        held / sum(p.numel() for p in plain.parameters()),
        before,
        _size(quantised),
        agreement,
    )
    return quantised


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """What can be quantised, by name: exactly these classes, nothing that a caller changed."""
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) in _KINDS
        and name
        and not hasattr(module, "parametrizations")
        and not getattr(module, "proj_size", 0)
    }


def _quantised(model: nn.Module, names: list[str]) -> nn.Module:
    tools: Any = getattr(getattr(torch, "ao", None), "quantization", None)
    convert = getattr(tools, "quantize_dynamic", None)
    engines = [e for e in torch.backends.quantized.supported_engines if e != "none"]
    if convert is None or not engines:
        raise InputError(
            f"torch {torch.__version__} on this machine has no dynamic quantisation "
            "(torch.ao.quantization.quantize_dynamic). Use torch 2.14 or older."
        )
    spec = dict.fromkeys(names, tools.default_dynamic_qconfig)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in favour of a package that has no LSTM
        found: nn.Module = convert(model, spec, inplace=True)
    for module in found.modules():
        if type(module).__module__.startswith("torch.ao.nn.quantized") and not hasattr(
            module, "flatten_parameters"
        ):
            module.flatten_parameters = _nothing  # type: ignore[assignment]
    return found


def _nothing() -> None:
    """What callers of ``nn.LSTM.flatten_parameters`` find on an int8 layer."""


def _size(model: nn.Module) -> int:
    """Bytes of the state as a file."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getbuffer().nbytes


def _agreement(model: nn.Module, other: nn.Module, example: Tensor) -> float:
    """Energy of a model's output by that of the difference, in dB."""
    with eagerly(), eval_mode(model), torch.no_grad():
        expected = model(example)
        difference = expected - other(example)
    energies = float(expected.double().square().sum()), float(difference.double().square().sum())
    return math.inf if not energies[1] else 10 * math.log10(max(energies[0], 1e-300) / energies[1])
