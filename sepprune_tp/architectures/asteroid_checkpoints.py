"""The checkpoints that Asteroid has written over the years, and those of its training.

- What ``serialize()`` gives, of every version: ``model_name``, ``model_args``, ``state_dict``; the
  first versions left the name out, and the sample rate came with version 0.4.
- What ``System`` and Lightning write while training: the weights under ``model.``, and the recipe's
  ``training_config``, whose ``filterbank`` and ``masknet`` are the arguments of the model.
- What ``serialize()`` of a pruned model gives here (see ``asteroid_serialized``) and what
  ``PruneCallback`` adds to a checkpoint of Lightning's: the form of the model beside its weights.

Where the class is not named, it is the one that takes the arguments and whose tensors are those of
the file.
"""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sepprune_tp.architectures.asteroid_models import REFUSED, build_asteroid, class_names
from sepprune_tp.architectures.bounded import Room
from sepprune_tp.checkpoint.fitting import check_kinds
from sepprune_tp.errors import CheckpointError
from sepprune_tp.files.extent import short
from sepprune_tp.files.torch_archives import read_plain

__all__ = ["PRUNED_KEY", "load_asteroid", "model_of"]

PRUNED_KEY = "sepprune_tp"
"""Key of what a checkpoint of a pruned model holds beside Asteroid's or Lightning's own keys."""
_PREFIXES = ("module.", "_orig_mod.")
_CONFIGS = ("training_config", "hyper_parameters", "conf", "config")


@dataclass(frozen=True)
class _Found:
    """What a checkpoint says: the class if it is named, its arguments, the weights."""

    name: str | None
    args: dict[str, Any]
    weights: dict[str, Tensor]


def load_asteroid(path: Path, sample_rate: float | None = None) -> nn.Module:
    """Read a checkpoint of Asteroid without executing anything in it.

    Args:
        path: The file.
        sample_rate: In Hz, of a model whose checkpoint does not say it.

    Returns:
        The model in eval mode, on the CPU. ``sample_rate`` is None if nothing says it.

    Raises:
        CheckpointError: If the file holds more than tensors and plain data, is not Asteroid's, or
            lacks what is needed to build the model.
    """
    return model_of(read_plain(path), str(path), sample_rate)


def model_of(conf: Any, where: str, sample_rate: float | None = None) -> nn.Module:
    """Build the model that a checkpoint describes.

    Args:
        conf: What the file holds, or what ``serialize()`` gave.
        where: The file, for messages.
        sample_rate: As for ``load_asteroid``.

    Raises:
        CheckpointError: As for ``load_asteroid``.
    """
    found = _read(conf, where)
    args, room = dict(found.args), Room(found.weights.values())
    if args.get("sample_rate") is None:
        args["sample_rate"] = _rate_in(conf) or sample_rate
    name = None if found.name is None else _class_name(found.name, where)
    content = _mapping(conf.get(PRUNED_KEY))
    if content:
        from sepprune_tp.architectures.asteroid_serialized import restore

        args = dict(_mapping(content.get("args")) or args)
        skeletons = (
            _candidates(args, where, room) if name is None else [_build(name, args, where, room)]
        )
        return restore(skeletons, found.weights, content, where)
    if name is None:
        return _by_trial(args, found.weights, where, room)
    model = _build(name, args, where, room)
    check_kinds(model, found.weights, where)
    try:
        model.load_state_dict(found.weights)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise CheckpointError(
            f"The weights in {where} do not fit the {type(model).__name__} that its arguments "
            f"build: {short(lines[-1], 600)} It was written by another version of the class, "
            "or pruned: a pruned model is kept by save_pruned(model, path), or by serialize() "
            "while sepprune_tp is imported."
        ) from error
    return model.eval()


def _read(conf: Any, where: str) -> _Found:
    """Weights, arguments and name in a checkpoint of any of the kinds."""
    if not isinstance(conf, Mapping):
        raise CheckpointError(
            f"{where} is not what Asteroid's serialize() gives: it holds a {type(conf).__name__}. "
            "Save model.serialize() with torch.save, or use save_pruned(model, path)."
        )
    holders = [conf, *(_mapping(conf.get(key)) for key in _CONFIGS)]
    names = (h.get("model_name") for h in holders)
    name = next((name for name in names if isinstance(name, str) and name), None)
    args = next((a for a in map(_args_in, holders) if a), None)
    weights = conf.get("state_dict")
    if not isinstance(weights, Mapping) or args is None:
        raise CheckpointError(_lacking(conf, where, isinstance(weights, Mapping), name))
    return _Found(name, args, _bare(weights))


def _lacking(conf: Mapping[str, Any], where: str, weights: bool, name: str | None) -> str:
    """What a file that is no checkpoint of Asteroid's lacks, and the way out."""
    missing = [] if name else ["model_name"]
    missing += ["model_args"] + ([] if weights else ["state_dict"])
    said = (
        f"{where} is not what Asteroid's serialize() gives: it lacks {', '.join(missing)} "
        f"(it holds {short(', '.join(map(str, itertools.islice(conf, 6)))) or 'nothing'})"
    )
    if conf and all(isinstance(value, Tensor) for value in conf.values()):
        said += ", only weights without the model that they belong to"
    elif "pytorch-lightning_version" in conf or "epoch" in conf:
        said += (
            ". It is a training checkpoint, whose 'training_config' or 'hyper_parameters' would "
            "have to hold the arguments of the model ('filterbank' and 'masknet', or 'model_args')"
        )
    return (
        f"{said}. Build the model as it was trained, load the 'state_dict' into it (its names "
        "without 'model.'), then use save_pruned(model, path)."
    )


def _args_in(holder: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a model: as ``serialize()`` keeps them, or as Asteroid's recipes do."""
    if kept := _mapping(holder.get("model_args")):
        return dict(kept)
    if not _mapping(holder.get("masknet")):
        return {}
    args = {**_mapping(holder.get("filterbank")), **_mapping(holder.get("masknet"))}
    data = _mapping(holder.get("data"))
    for key in ("n_src", "sample_rate"):
        if args.get(key) is None and data.get(key) is not None:
            args[key] = data[key]
    return args


def _rate_in(conf: Mapping[str, Any]) -> float | None:
    """The sample rate in the configuration of the training that a checkpoint tells of."""
    infos = _mapping(_mapping(conf.get("infos")).get("training_config"))
    for holder in (infos, *(_mapping(conf.get(key)) for key in _CONFIGS)):
        rate = _mapping(holder.get("data")).get("sample_rate")
        if isinstance(rate, (int, float)) and 0 < rate < 1e9:
            return float(rate)
    return None


def _bare(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights under the model's own names: without those of System, DataParallel or compile."""
    kept = {
        name: value
        for name, value in weights.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    inside = {name: value for name, value in kept.items() if name.startswith("model.")}
    if inside:  # beside them are those of the loss
        kept = {name.removeprefix("model."): value for name, value in inside.items()}
    for prefix in _PREFIXES:
        if kept and all(name.startswith(prefix) for name in kept):
            kept = {name.removeprefix(prefix): value for name, value in kept.items()}
    return kept


def _class_name(name: str, where: str) -> str:
    """The name of a class as it is today; Asteroid never minded its case."""
    bare = name.rpartition(".")[2]
    return class_names(where).get(bare.lower(), bare)


def _build(name: str, args: dict[str, Any], where: str, room: Room) -> nn.Module:
    """Build a model whose arguments may say no sample rate."""
    if args.get("sample_rate") is not None:
        return build_asteroid(name, args, where, room)
    try:
        return build_asteroid(name, args, where, room)
    except CheckpointError:
        # A filterbank that computes with it, or a class without it.
        return build_asteroid(name, _without_rate(args), where, room)


def _without_rate(args: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in args.items() if key != "sample_rate"}


def _by_trial(
    args: dict[str, Any], weights: dict[str, Tensor], where: str, room: Room
) -> nn.Module:
    """The model of the one class that takes these arguments and has these tensors."""
    fitting = [model for model in _candidates(args, where, room) if _takes(model, weights)]
    if len(fitting) == 1:
        check_kinds(fitting[0], weights, where)
        fitting[0].load_state_dict(weights)
        return fitting[0].eval()
    tried = ", ".join(sorted(set(class_names(where).values()) - set(REFUSED)))
    raise CheckpointError(
        f"{where} does not name the class of its model, and {len(fitting) or 'none'} of Asteroid's "
        f"models that take its arguments have its weights (tried: {tried}). Build the model as it "
        "was trained, load the 'state_dict' into it, then use save_pruned(model, path)."
    )


def _candidates(args: dict[str, Any], where: str, room: Room) -> Iterator[nn.Module]:
    for name in class_names(where).values():
        if name in REFUSED:
            continue
        try:
            yield _build(name, args, where, room)
        except CheckpointError:
            continue


def _takes(model: nn.Module, weights: dict[str, Tensor]) -> bool:
    own = {name: value.shape for name, value in model.state_dict().items()}
    return own == {name: value.shape for name, value in weights.items()}


def _mapping(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Namespace):
        return vars(value)
    return value if isinstance(value, Mapping) else {}
