"""The form of a model (sizes, ties, what is frozen) as plain data, and how to give it to another.

A form and the tensors of a state dict make a pruned model of a dense one, and the other way round.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sepprune_tp._modes import device_of
from sepprune_tp.errors import CheckpointError
from sepprune_tp.graph.lineage import Lineage, lineage_of, set_lineage
from sepprune_tp.structure import apply_structure, named_tensors, read_structure, set_tensors

__all__ = ["Form", "form_of", "give_form", "tensors_of"]

Form = dict[str, Any]


def form_of(model: nn.Module) -> Form:
    """All of a model that its state dict does not hold, and that pruning changes.

    Returns:
        Plain data and tensors on the CPU: ``structure``, ``aliases``, ``frozen``, ``unsaved``
        (buffers that are not persistent) and ``lineage``, its past.
    """
    saved = model.state_dict()
    first: dict[int, str] = {}
    aliases = {}
    for name, tensor in named_tensors(model):
        if (root := first.setdefault(id(tensor), name)) != name:
            aliases[name] = root
    tensors = dict(named_tensors(model))
    return {
        "structure": read_structure(model),
        "aliases": aliases,
        "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
        "unsaved": {name: _copy(tensors[name]) for name in tensors if name not in saved},
        "lineage": None if (lineage := lineage_of(model)) is None else lineage.plain(),
    }


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies on the CPU of everything that :func:`give_form` needs beside the form."""
    return {name: _copy(tensor) for name, tensor in named_tensors(model)}


def give_form(model: nn.Module, form: Form, tensors: dict[str, Tensor]) -> bool:
    """Give a model the sizes and tensors of another; one that has the shapes stays as it is.

    Args:
        model: A model of the same modules. Changed in place; where it needs other shapes, all of
            its parameters are new objects.
        form: Of the other model.
        tensors: Of the other model, by name; those that the form holds may be missing.

    Returns:
        Whether the model has new parameters.

    Raises:
        CheckpointError: If the model has other modules, or a tensor is missing.
    """
    given = {**tensors, **form["unsaved"]}
    wanted = {name: tuple(tensor.shape) for name, tensor in given.items()}
    present = {name: tuple(tensor.shape) for name, tensor in named_tensors(model)}
    past = form.get("lineage")  # None in older files
    set_lineage(model, None if past is None else Lineage.from_plain(past, "the checkpoint"))
    if all(wanted.get(name) == shape for name, shape in present.items()):
        return False
    device, dtype = device_of(model), _dtype_of(model)
    try:
        apply_structure(model, form["structure"])
    except CheckpointError as error:
        raise CheckpointError(
            f"The checkpoint is of another model than this {type(model).__name__}. Build the model "
            f"with the arguments that it had in the run that wrote the checkpoint. ({error})"
        ) from error
    placed = {
        name: tensor.detach().to(device, dtype if tensor.is_floating_point() else None, copy=True)
        for name, tensor in given.items()
    }
    try:
        set_tensors(model, placed, form["aliases"], frozenset(form["frozen"]))
    except KeyError as error:
        raise CheckpointError(
            f"The checkpoint lacks the tensor {error} of {type(model).__name__}. Build the model "
            "with the arguments that it had in the run that wrote the checkpoint."
        ) from error
    return True


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _dtype_of(model: nn.Module) -> torch.dtype:
    """Type of the first floating-point parameter."""
    found = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(found, torch.get_default_dtype())
