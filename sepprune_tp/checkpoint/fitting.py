"""Whether tensors that come from a file are of the types and shapes that a model's layers have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sepprune_tp.errors import CheckpointError
from sepprune_tp.files.extent import short

__all__ = ["check_kinds", "check_shapes"]

_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COMPLEX = (torch.complex64, torch.complex128)
_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_KINDS = {
    **dict.fromkeys(_REAL, "real"),
    **dict.fromkeys(_COMPLEX, "complex"),
    **dict.fromkeys(_WHOLE, "whole"),
}
_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d)

Shapes = dict[str, tuple[int, ...]]


def check_kinds(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors of another kind of number than a model's: any width of real ones will do.

    Args:
        model: The model; tensors that it lacks are not looked at.
        tensors: By name.
        where: The file, for messages.

    Raises:
        CheckpointError: If a tensor is whole where the model's is real, or the like.
    """
    for name, own in (*model.named_parameters(remove_duplicate=False), *model.named_buffers()):
        given = tensors.get(name)
        if given is not None and _KINDS.get(given.dtype) != _KINDS.get(own.dtype):
            raise CheckpointError(
                f"'{short(name)}' in {where} is of the type {given.dtype}, and that of "
                f"{type(model).__name__} of {own.dtype}: the file was damaged or is of another "
                "model. Save it again where it was made."
            )


def check_shapes(model: nn.Module, where: str) -> None:
    """Refuse a model whose layers say other sizes than their tensors have.

    Args:
        model: With its sizes and tensors; of torch's own layers, those with channels are checked.
        where: The file that both came from, for messages.

    Raises:
        CheckpointError: If a tensor has another shape than the layer's sizes give it.
    """
    for path, module in model.named_modules():
        for name, shape in _expected(module).items():
            found = getattr(module, name, None) if _holds(module, name) else None
            if found is not None and tuple(found.shape) != shape:
                raise CheckpointError(
                    f"{where} gives '{short(path)}' ({type(module).__name__}) sizes for a {name} "
                    f"of the shape {shape}, and a {name} of the shape {tuple(found.shape)}: it was "
                    "changed after it was written, or is of another model. Save it again."
                )


def _holds(module: nn.Module, name: str) -> bool:
    return name in module._parameters or name in module._buffers


def _expected(module: nn.Module) -> Shapes:
    """Shapes of the tensors of a layer, by what it says of itself."""
    try:
        return dict(_shapes(module))
    except (TypeError, ZeroDivisionError) as error:  # a size that is None, or a list
        raise CheckpointError(
            f"A {type(module).__name__} of the file has sizes that no such layer has ({error})."
        ) from error


def _shapes(module: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    kind = type(module)
    if kind in _CONVS or kind in _TRANSPOSED:
        wide, narrow = module.out_channels, module.in_channels
        if kind in _TRANSPOSED:
            wide, narrow = narrow, wide
        yield "weight", (wide, narrow // module.groups, *module.kernel_size)
        yield "bias", (module.out_channels,)
    elif kind is nn.Linear:
        yield "weight", (module.out_features, module.in_features)
        yield "bias", (module.out_features,)
    elif kind in _NORMS:
        for name in ("weight", "bias", "running_mean", "running_var"):
            yield name, (module.num_features,)
    elif kind is nn.GroupNorm:
        yield from (("weight", (module.num_channels,)), ("bias", (module.num_channels,)))
    elif kind is nn.LayerNorm:
        shape = tuple(module.normalized_shape)
        yield from (("weight", shape), ("bias", shape))
    elif kind is nn.PReLU:
        yield "weight", (module.num_parameters,)
    elif kind is nn.Embedding:
        yield "weight", (module.num_embeddings, module.embedding_dim)
    elif kind in (nn.LSTM, nn.GRU, nn.RNN) and not module.proj_size:
        yield from _recurrent(module)


def _recurrent(module: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    rows, sides = _GATES[module.mode] * module.hidden_size, 1 + bool(module.bidirectional)
    for name in module._parameters:
        kind, _, rest = name.partition("_l")
        first = rest.partition("_")[0] == "0"
        read = module.input_size if first else sides * module.hidden_size
        if kind == "weight_ih":
            yield name, (rows, read)
        elif kind == "weight_hh":
            yield name, (rows, module.hidden_size)
        elif kind in ("bias_ih", "bias_hh"):
            yield name, (rows,)
