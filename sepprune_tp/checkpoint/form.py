"""The form of a model (sizes, ties, what is frozen) as plain data, and how to give it to another.

A form and the tensors of a state dict make a pruned model of a dense one, and the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sepprune_tp._modes import device_of
from sepprune_tp.checkpoint.fitting import check_kinds, check_shapes
from sepprune_tp.checkpoint.structure import (
    apply_structure,
    check_content,
    named_tensors,
    read_structure,
    set_tensors,
)
from sepprune_tp.errors import CheckpointError
from sepprune_tp.files.extent import short
from sepprune_tp.graph.lineage import Lineage, lineage_of, set_lineage

__all__ = ["Form", "check_form", "form_of", "give_form", "tensors_of"]

Form = dict[str, Any]
_PARTS = ("structure", "aliases", "frozen", "unsaved")


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
    check_form(form, "The checkpoint")
    if not _are_named(tensors):
        raise CheckpointError("The checkpoint does not hold tensors by name. Save it again.")
    given = {**tensors, **form["unsaved"]}
    wanted = {name: tuple(tensor.shape) for name, tensor in given.items()}
    present = {name: tuple(tensor.shape) for name, tensor in named_tensors(model)}
    past = form.get("lineage")  # None in older files
    set_lineage(model, None if past is None else Lineage.from_plain(past, "the checkpoint"))
    if all(wanted.get(name) == shape for name, shape in present.items()):
        return False
    device, dtype = device_of(model), _dtype_of(model)
    check_kinds(model, given, "The checkpoint")
    most = max((tensor.numel() for tensor in given.values()), default=0)
    try:
        apply_structure(model, form["structure"], most)
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
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"The checkpoint lacks the tensor {short(error)} of {type(model).__name__}. Build "
            "the model with the arguments that it had in the run that wrote the checkpoint."
        ) from error
    check_shapes(model, "The checkpoint")
    return True


def check_form(form: Any, where: str) -> None:
    """Refuse what is not a form, or one of another version.

    Args:
        form: What a checkpoint holds where one should be.
        where: The file, for messages.

    Raises:
        CheckpointError: If it is not what :func:`form_of` gives.
    """
    if not isinstance(form, Mapping) or not set(_PARTS) <= form.keys():
        raise CheckpointError(
            f"{where} holds a model that another version of sepprune-tp pruned. Upgrade: "
            "pip install -U sepprune-tp"
        )
    check_content(form["structure"], form["aliases"], form["frozen"], where)
    if not _are_named(form["unsaved"]):
        raise CheckpointError(f"{where} does not hold the buffers of its model. Save it again.")


def _are_named(tensors: Any) -> bool:
    return isinstance(tensors, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    )


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _dtype_of(model: nn.Module) -> torch.dtype:
    """Type of the first floating-point parameter."""
    found = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(found, torch.get_default_dtype())
