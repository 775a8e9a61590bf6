"""Pruned models on disk: tensors and a JSON header in one safetensors file, never a pickle.

A file holds every tensor once, and in its header the class and the arguments that build a model
with the same module tree, plus the plain sizes that pruning changed (``out_channels``,
``hidden_size``, ...). Loading builds that skeleton, sets the sizes, and puts the saved tensors in
place of the skeleton's, whatever their shapes.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sepprune_tp._optimised import rewritten_in
from sepprune_tp._unwrap import unwrapped
from sepprune_tp.architectures.bounded import Room
from sepprune_tp.checkpoint.fitting import check_kinds, check_shapes
from sepprune_tp.checkpoint.skeleton import build_skeleton, describe_class
from sepprune_tp.checkpoint.structure import (
    Sizes,
    apply_structure,
    check_content,
    expected_names,
    named_tensors,
    read_structure,
    set_tensors,
)
from sepprune_tp.errors import CheckpointError, InputError, WriteError, require
from sepprune_tp.files import write_bytes
from sepprune_tp.files.extent import is_bounded, short
from sepprune_tp.graph.lineage import Lineage, lineage_of, set_lineage
from sepprune_tp.version import __version__

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "Header",
    "load_pruned",
    "read_header",
    "read_lineage",
    "save_pruned",
]

FORMAT = "sepprune-tp"
FORMAT_VERSION = 1
HISTORY = "history"
"""Name of the string that holds the past of a pruned model; files of a dense one have none."""
PURPOSE = "Reading and writing pruned models"


@dataclass(frozen=True)
class Header:
    """What a file says about the model in it, all plain data.

    Attributes:
        versions: Package versions that wrote it, by package.
        architecture: ``family``, ``name`` and ``args`` of the class; see ``skeleton``.
        structure: Sizes by module name and attribute.
        aliases: Names of tensors that are another tensor: ``{name: stored name}``.
        frozen: Names of parameters that do not require a gradient.
        metadata: What the caller of ``save_pruned`` passed.
    """

    versions: dict[str, str]
    architecture: dict[str, Any]
    structure: dict[str, dict[str, Sizes]]
    aliases: dict[str, str] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)


def save_pruned(
    model: nn.Module, path: str | os.PathLike[str], *, metadata: dict[str, Any] | None = None
) -> Path:
    """Write a model, pruned or not, to a safetensors file.

    The file appears whole or not at all: it is written beside its target and then renamed.

    Args:
        model: The model, or a wrapper around it. Parameters and all buffers are stored, tied ones
            once.
        path: File to write; its folder has to exist.
        metadata: Plain JSON data to keep with it (figures, data set, date...).

    Returns:
        The path that was written.

    Raises:
        CheckpointError: If the model holds state that is not a tensor or was rewritten by
            ``optimize_for_inference``.
        WriteError: If ``path`` cannot be written; what was there stays as it was.
        InputError: If ``metadata`` is not JSON data.
    """
    safetensors = require("safetensors.torch", "files", PURPOSE)
    model = unwrapped(model)
    if rewritten := rewritten_in(model):
        raise CheckpointError(
            f"The model was rewritten by optimize_for_inference ({_listing(rewritten)}), for "
            "running only. Save the model that it was made from, and optimise after loading."
        )
    target = Path(path)
    if not target.parent.is_dir():
        raise WriteError(f"Cannot write {target}: its folder does not exist. Create it first.")
    stored, aliases = _unique_tensors(model)
    header = Header(
        versions=_versions(),
        architecture=describe_class(model),
        structure=read_structure(model),
        aliases=aliases,
        frozen=[name for name, p in model.named_parameters() if not p.requires_grad],
        metadata=metadata or {},
    )
    strings = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "header": _to_json(header),
    }
    if (lineage := lineage_of(model)) is not None:
        lineage.close(metadata)
        lineage.check(model)
        strings[HISTORY] = json.dumps(lineage.plain())
    return write_bytes(target, safetensors.save(stored, metadata=strings))


def load_pruned(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    device: str | torch.device | None = None,
) -> nn.Module:
    """Read a model that ``save_pruned`` wrote.

    Args:
        path: The file.
        model: For a class that is not Asteroid's: a freshly built dense instance. It is changed in
            place and returned.
        device: Where the tensors go; the CPU if None.

    Returns:
        The model in eval mode, with the saved shapes, dtypes and ``requires_grad`` flags.

    Raises:
        CheckpointError: If the file is missing, truncated, not ours or from a newer version, or
            does not fit ``model``.
    """
    header, tensors = _read(Path(path))
    where = str(path)
    if model is None:
        skeleton = build_skeleton(header.architecture, where, Room(tensors.values()))
    else:
        skeleton = unwrapped(model)
    _check_names(skeleton, header, set(tensors), where)
    check_kinds(skeleton, tensors, where)
    most = max((tensor.numel() for tensor in tensors.values()), default=0)
    apply_structure(skeleton, header.structure, most)
    try:
        set_tensors(skeleton, tensors, header.aliases, frozenset(header.frozen))
    except (TypeError, KeyError) as error:  # tied to a tensor that is none of the model's
        raise CheckpointError(_unlike(where, error)) from error
    check_shapes(skeleton, where)
    skeleton.eval()
    set_lineage(skeleton, read_lineage(path))
    if device is not None:
        skeleton.to(device)
    return skeleton


def read_lineage(path: str | os.PathLike[str]) -> Lineage | None:
    """Read what a file says about the past of its model, without its tensors.

    Args:
        path: A file that ``save_pruned`` wrote.

    Returns:
        The past; None if the file is of an older version, or of a model that was not pruned on a
        channel graph.

    Raises:
        CheckpointError: As ``load_pruned``.
    """
    text = _strings(Path(path))[0].get(HISTORY)
    if text is None:
        return None
    try:
        return Lineage.from_plain(json.loads(text), str(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"The history in {path} cannot be read ({error}); the file was changed after it was "
            "written."
        ) from error


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read what a file says about its model, without its tensors.

    Args:
        path: A file that ``save_pruned`` wrote.

    Raises:
        CheckpointError: As ``load_pruned``.
    """
    return _open(Path(path))[0]


def _read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Header and tensors by name, aliases included as the same tensor object."""
    header, file = _open(path)
    # Cloned: what safetensors hands out may be a view of the mapped file.
    try:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # of safetensors, and of torch for types that it lacks
        raise CheckpointError(_unlike(str(path), error)) from error
    unknown = {stored for stored in header.aliases.values() if stored not in tensors}
    if unknown:
        raise CheckpointError(
            f"{path} refers to tensors that it does not hold: {_listing(unknown)}. "
            "It was changed after it was written; write it again with save_pruned."
        )
    tensors.update({name: tensors[stored] for name, stored in header.aliases.items()})
    return header, tensors


def _open(path: Path) -> tuple[Header, Any]:
    """Header and the open safetensors file, or an error that says what the file looks like."""
    strings, file = _strings(path)
    return _parse(strings, path), file


def _strings(path: Path) -> tuple[dict[str, str], Any]:
    """The strings of a file of ours, and the open file."""
    safetensors = require("safetensors", "files", PURPOSE)
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {kind}; load_pruned needs a file that save_pruned wrote.")
    try:
        file = safetensors.safe_open(str(path), framework="pt", device="cpu")
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(_looks_like(path, str(error))) from error
    strings = file.metadata() or {}
    if strings.get("format") != FORMAT:
        told = short(strings.get("format", "not given"), 60)
        raise CheckpointError(
            f"{path} is a safetensors file, but not one of ours (its format is {told!r}, not "
            f"{FORMAT!r}): it holds tensors without the structure of the model. Load it where "
            "it came from, then use save_pruned."
        )
    return strings, file


def _parse(strings: dict[str, str], path: Path) -> Header:
    """The header out of the strings of a file of ours."""
    try:
        version = int(strings["format_version"][:20])
    except (KeyError, ValueError):
        raise CheckpointError(f"{path} gives no format version; write it again.") from None
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, and sepprune-tp {__version__} reads up to "
            f"{FORMAT_VERSION}. Upgrade: pip install -U sepprune-tp"
        )
    try:
        header = Header(**json.loads(strings["header"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(_unlike(str(path), error)) from error
    held = (header.versions, header.architecture, header.metadata)
    most = 100 + len(strings["header"])
    if not (all(isinstance(part, dict) for part in held) and is_bounded([*held], most)):
        raise CheckpointError(_unlike(str(path), "it is not plain data by name"))
    check_content(header.structure, header.aliases, header.frozen, str(path))
    return header


def _unlike(where: str, reason: object) -> str:
    """Message for a file of ours that says what we do not write."""
    return (
        f"The header of {where} cannot be read ({short(reason)}); the file was changed after it "
        "was written, or damaged. Write it again with save_pruned."
    )


def _looks_like(path: Path, reason: str) -> str:
    """Message for a file that is no whole safetensors file."""
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        return f"{path} is empty; it was probably never written to the end. Save the model again."
    if start[8:9] == b"{":
        return (
            f"{path} starts like a safetensors file but cannot be read ({short(reason)}): it is "
            "truncated or damaged. Copy or save it again."
        )
    if start.startswith(b"PK\x03\x04") or start[:1] == b"\x80":
        return (
            f"{path} looks like a file of torch.save or pickle, which load_pruned never opens. If "
            "it is an Asteroid checkpoint, use load_model; otherwise load it where it came from "
            "and use save_pruned."
        )
    return (
        f"{path} is not a safetensors file ({short(reason)}); give a file that save_pruned wrote."
    )


def _unique_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, on the CPU and contiguous, and the names of those that are tied."""
    if extra := [name for name in model.state_dict() if name.endswith("_extra_state")]:
        raise CheckpointError(
            f"The model keeps state that is not a tensor ({_listing(extra)}), which a file without "
            "pickle cannot hold. Drop get_extra_state from those modules or store it in metadata=."
        )
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in named_tensors(model):
        if id(tensor) in first:
            aliases[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
            stored[name] = tensor.detach().cpu().contiguous().clone()
    return stored, aliases


def _check_names(model: nn.Module, header: Header, saved: set[str], where: str) -> None:
    """Raise unless the model has exactly the tensors of the file."""
    present = expected_names(model, header.structure)
    if present == saved:
        return
    raise CheckpointError(
        f"The tensors of {where} and of {type(model).__name__} differ: the model lacks "
        f"{_listing(saved - present)}; the file lacks {_listing(present - saved)}. Build the model "
        "with the arguments that it had before it was pruned."
    )


def _listing(names: set[str] | list[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return (", ".join(short(name, 80) for name in ordered[:most]) or "none") + more


def _to_json(header: Header) -> str:
    try:
        return json.dumps(header.__dict__, allow_nan=True)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The metadata or the arguments of the model are not plain JSON data: {error}. Use "
            "numbers, strings, lists and dicts."
        ) from error


def _versions() -> dict[str, str]:
    """Versions of the packages that matter for reading the file again."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"sepprune-tp": __version__}
    for package in ("torch", "torch-pruning", "asteroid"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
