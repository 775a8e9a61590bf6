"""``serialize()`` and ``from_pretrained`` of Asteroid, for models that were pruned.

Asteroid keeps the weights of a model and the arguments that build it, from which no pruned model
can be built. Once this package is imported, what ``serialize()`` gives for such a model holds its
sizes, too, and ``from_pretrained`` takes that and files of ``save_pruned``. Everything else goes to
Asteroid as ever.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from sepprune_tp.architectures.asteroid_checkpoints import PRUNED_KEY, model_of
from sepprune_tp.architectures.asteroid_models import asteroid_args, build_asteroid, is_asteroid
from sepprune_tp.checkpoint.fitting import check_kinds, check_shapes
from sepprune_tp.checkpoint.structure import (
    apply_structure,
    expected_names,
    named_tensors,
    read_structure,
    set_tensors,
)
from sepprune_tp.errors import CheckpointError, InputError
from sepprune_tp.files.extent import short

__all__ = ["mend_sharing", "restore"]


def mend_sharing(module: Any) -> None:
    """Let a module ``asteroid.models.base_models`` share pruned models, once."""
    base = module.BaseModel
    if getattr(base.serialize, "_sepprune", False):
        return
    _mend_serialize(base)
    _mend_from_pretrained(base)


def _mend_serialize(base: Any) -> None:
    original = base.serialize

    @functools.wraps(original)
    def serialize(self: Any) -> dict[str, Any]:
        conf: dict[str, Any] = original(self)
        if is_asteroid(self) and not _rebuilt_by(conf["model_args"], self):
            from sepprune_tp.checkpoint.form import form_of

            conf[PRUNED_KEY] = {"form": form_of(self), "args": asteroid_args(self)}
        return conf

    serialize._sepprune = True  # type: ignore[attr-defined]
    base.serialize = serialize


def _mend_from_pretrained(base: Any) -> None:
    original = base.from_pretrained.__func__

    @functools.wraps(original)
    def from_pretrained(cls: Any, pretrained_model_conf_or_path: Any, *a: Any, **k: Any) -> Any:
        source = pretrained_model_conf_or_path
        if isinstance(source, Mapping) and PRUNED_KEY in source:
            model = model_of(source, "The configuration")
        elif _is_ours(source):
            from sepprune_tp.checkpoint import load_pruned

            model = load_pruned(source)
        else:
            return original(cls, source, *a, **k)
        if a or k:
            raise InputError(
                f"{cls.__name__}.from_pretrained got arguments of the model beside a pruned one, "
                "whose sizes they cannot change. Leave them out."
            )
        if not isinstance(model, cls):
            raise CheckpointError(
                f"{source if not isinstance(source, Mapping) else 'The configuration'} holds a "
                f"{type(model).__name__}, not a {cls.__name__}. Use "
                f"{type(model).__name__}.from_pretrained or BaseModel.from_pretrained."
            )
        return model

    base.from_pretrained = classmethod(from_pretrained)


def restore(
    skeletons: Iterable[nn.Module],
    weights: Mapping[str, Tensor],
    content: Mapping[str, Any],
    where: str,
) -> nn.Module:
    """The pruned model that a checkpoint was made of.

    Args:
        skeletons: Models that it may have been before; one of them is changed in place.
        weights: Its state dict.
        content: What the checkpoint holds under ``PRUNED_KEY``, with the ``form`` of the model.
        where: The file, for messages.

    Raises:
        CheckpointError: If it comes from a newer version, or its parts do not fit each other.
    """
    from sepprune_tp.checkpoint.form import check_form

    form: Any = content.get("form")
    check_form(form, where)
    # Cloned: what serialize() hands out are the tensors of the model that it was called on.
    given = {**weights, **form["unsaved"]}
    tensors = {key: tensor.detach().clone() for key, tensor in given.items()}
    fitting = [m for m in skeletons if expected_names(m, form["structure"]) == set(tensors)]
    if len(fitting) != 1:
        raise CheckpointError(
            f"The weights in {where} are those of {len(fitting) or 'none'} of the models that its "
            "arguments build. Build the model as it was before pruning, and load the checkpoint "
            "where it came from (sepprune_tp.lightning.load_weights, for one of PruneCallback)."
        )
    check_kinds(fitting[0], tensors, where)
    most = max((tensor.numel() for tensor in tensors.values()), default=0)
    apply_structure(fitting[0], form["structure"], most)
    try:
        set_tensors(fitting[0], tensors, dict(form["aliases"]), frozenset(form["frozen"]))
    except (TypeError, KeyError) as error:
        raise CheckpointError(
            f"{where} ties tensors that its model has not ({short(error)}): it was damaged. Save "
            "it again."
        ) from error
    check_shapes(fitting[0], where)
    return fitting[0].eval()


def _rebuilt_by(args: Mapping[str, Any], model: Any) -> bool:
    """Whether the model's own arguments build all of its sizes and shapes."""
    try:
        fresh = build_asteroid(type(model).__name__, dict(args), "the model")
    except CheckpointError:
        return False
    return _shapes(fresh) == _shapes(model) and read_structure(fresh) == read_structure(model)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(model)}


def _is_ours(source: Any) -> bool:
    """Whether something names an existing file of ``save_pruned``."""
    if not isinstance(source, (str, os.PathLike)) or not os.path.isfile(source):
        return False
    with open(source, "rb") as file:
        start = file.read(9)
        return start[8:] == b"{" and b'"sepprune-tp"' in file.read(_header_size(start[:8]))


def _header_size(start: bytes) -> int:
    """Bytes of the JSON header of a safetensors file, bounded."""
    return min(int.from_bytes(start, "little"), 100_000_000)
