"""The sizes of a model as plain data, and how to give a model other sizes and tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from sepprune_tp.errors import CheckpointError
from sepprune_tp.files.extent import short
from sepprune_tp.layers.composite import composite_of

__all__ = [
    "Sizes",
    "apply_structure",
    "check_content",
    "expected_names",
    "named_tensors",
    "read_structure",
    "set_tensors",
]

Sizes = int | bool | None | list[int]
_LONGEST = 10_000
"""Sizes in a list; models have one a block."""


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer under every name that it has, non-persistent buffers included."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def read_structure(model: nn.Module) -> dict[str, dict[str, Sizes]]:
    """Every public attribute of every module that is an integer or a tuple of integers.

    These are the attributes that sizes live in (``out_channels``, ``groups``, ``hidden_size``,
    ``normalized_shape``, ``n_filters``...), whatever a module calls them.

    Args:
        model: Any model.

    Returns:
        Sizes by module name and attribute, plain JSON data.
    """
    structure = {}
    for name, module in model.named_modules(remove_duplicate=False):
        sizes = {
            key: _plain(value)
            for key, value in module.__dict__.items()
            if not key.startswith("_") and key != "training" and _is_size(value)
        }
        if sizes:
            structure[name] = sizes
    return structure


def expected_names(model: nn.Module, structure: dict[str, dict[str, Sizes]]) -> set[str]:
    """Names of the tensors that a model will have once it has taken a saved structure."""
    names = {name for name, _ in named_tensors(model)}
    for path, module in model.named_modules(remove_duplicate=False):
        composite = composite_of(module)
        if composite is not None:
            prefix = f"{path}." if path else ""
            names -= {n for n in names if n.rpartition(".")[0] == path}
            wanted = composite.tensor_names(module, structure.get(path, {}))
            names |= {f"{prefix}{name}" for name in wanted}
    return names


def check_content(structure: Any, aliases: Any, frozen: Any, where: str) -> None:
    """Refuse what a file says of a model's form unless it has the form that we write.

    Args:
        structure: Sizes by module name and attribute.
        aliases: Names of tensors by the names of tensors that are the same.
        frozen: Names.
        where: The file, for messages.

    Raises:
        CheckpointError: If one is something else; no attribute that we do not write is accepted.
    """
    sized = isinstance(structure, Mapping) and all(
        isinstance(name, str)
        and isinstance(sizes, Mapping)
        and all(_is_written(key) and _is_stored_size(size) for key, size in sizes.items())
        for name, sizes in structure.items()
    )
    named = isinstance(aliases, Mapping) and all(
        isinstance(name, str) for pair in aliases.items() for name in pair
    )
    listed = isinstance(frozen, (list, tuple)) and all(isinstance(name, str) for name in frozen)
    if not (sized and named and listed):
        raise CheckpointError(
            f"{where} does not describe its model as sepprune-tp does: it was changed after it was "
            "written, or damaged. Write it again with save_pruned."
        )


def apply_structure(
    model: nn.Module, structure: dict[str, dict[str, Sizes]], most: int | None = None
) -> None:
    """Set the attributes that differ from those saved; never adds one that a module lacks.

    Args:
        model: A model with the module tree that ``read_structure`` saw. Changed in place.
        structure: What ``read_structure`` returned.
        most: Largest size that the tensors of the file give reason to; None for one of our own.

    Raises:
        CheckpointError: If a module or an attribute is missing, or is no size in ``model``, or a
            size is out of all proportion.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, sizes in structure.items():
        if name not in modules:
            raise CheckpointError(
                f"The saved model has a module '{short(name)}' that {type(model).__name__} lacks. "
                "Build the model with the arguments that it had before it was pruned."
            )
        module = modules[name]
        composite = composite_of(module)
        if composite is not None:
            composite.adopt(module, sizes)
        for key, saved in sizes.items():
            _check_size(module, name, key, saved, most)
            _set_size(module, name, key, saved)


def set_tensors(
    model: nn.Module, tensors: dict[str, Tensor], aliases: dict[str, str], frozen: frozenset[str]
) -> None:
    """Put tensors in place of a model's parameters and buffers, whatever their shapes.

    Args:
        model: Changed in place.
        tensors: By name, for every name of ``named_tensors(model)``.
        aliases: Names that share the tensor of another name; they get the same object.
        frozen: Names of parameters that do not require a gradient.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    placed: dict[str, Tensor] = {}
    for name, old in list(named_tensors(model)):
        root = aliases.get(name, name)
        if root not in placed:
            new = tensors[root]
            if isinstance(old, nn.Parameter):
                new = nn.Parameter(new, requires_grad=_trains(new, root, frozen))
            placed[root] = new
        owner, _, key = name.rpartition(".")
        # Plain setattr lets nn.RNNBase refresh the list of weights that its kernels read.
        setattr(modules[owner], key, placed[root])
    for module in modules.values():
        if isinstance(module, nn.RNNBase) and any(p.is_cuda for p in module.parameters()):
            module.flatten_parameters()


def _trains(tensor: Tensor, name: str, frozen: frozenset[str]) -> bool:
    return name not in frozen and (tensor.is_floating_point() or tensor.is_complex())


def _is_size(value: Any) -> bool:
    """Whether a value is None, an integer (NumPy's too), a bool or a sequence of integers."""
    if value is None or isinstance(value, Integral):
        return True
    return (
        isinstance(value, (tuple, list, torch.Size))
        and len(value) > 0
        and all(isinstance(item, Integral) for item in value)
    )


def _plain(value: Any) -> Sizes:
    """A size as JSON data."""
    if value is None or isinstance(value, bool):
        return value
    return int(value) if isinstance(value, Integral) else [int(item) for item in value]


def _is_written(key: Any) -> bool:
    """Whether ``read_structure`` writes an attribute of that name."""
    return isinstance(key, str) and not key.startswith("_") and key != "training"


def _is_stored_size(value: Any) -> bool:
    listed = isinstance(value, (list, tuple)) and 0 < len(value) <= _LONGEST
    return (
        value is None
        or isinstance(value, int)
        or (listed and all(isinstance(item, int) for item in value))
    )


def _check_size(module: nn.Module, name: str, key: str, saved: Sizes, most: int | None) -> None:
    """Refuse a size that neither the model has nor its tensors give reason to."""
    if most is None or (present := module.__dict__.get(key)) == saved:
        return
    for size in saved if isinstance(saved, (list, tuple)) else [saved]:
        usual = _plain(present) if _is_size(present) else None
        own = usual if isinstance(usual, list) else [usual]
        if size is not None and size not in own and not 0 <= size <= most:
            raise CheckpointError(
                f"The saved model has {short(key, 60)}={short(size, 40)} on module "
                f"'{short(name)}', for which its tensors give no reason: the file was damaged. "
                "Write it again with save_pruned."
            )


def _set_size(module: nn.Module, name: str, key: str, saved: Sizes) -> None:
    """Set one attribute if it differs, keeping the container type that the module uses."""
    if key not in module.__dict__ or not _is_size(module.__dict__[key]):
        raise CheckpointError(
            f"The saved model has a size '{short(key)}' on module '{short(name)}' "
            f"({type(module).__name__}) that this one lacks: another version of the class? Install "
            "the versions that read_header(path).versions lists, or pass model= built with them."
        )
    present = module.__dict__[key]
    if _plain(present) == saved and isinstance(present, bool) == isinstance(saved, bool):
        return
    if isinstance(saved, (list, tuple)):
        setattr(module, key, tuple(saved) if isinstance(present, tuple) else list(saved))
    else:
        setattr(module, key, saved)
