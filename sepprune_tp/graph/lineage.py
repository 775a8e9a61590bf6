"""Where the channels of a pruned model come from: kept with the model from its first cut on.

Every element of every tensor of a pruned model was an element of the dense model, and what is left
of a tensor is a grid: some indices along each axis. These indices always refer to the dense model,
however often it is cut.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from torch import nn

from ..errors import CheckpointError
from ..identity import fingerprint
from .numbering import Axis, Held, moved

__all__ = ["Held", "Kept", "Lineage", "lineage_of", "note", "set_lineage"]

_ATTRIBUTE = "_sepprune_lineage"  # of the model: it goes along when the model is copied
_FORMAT = 1


@dataclass
class Kept:
    """The channels that are left of a group, by those of its root layer.

    Attributes:
        size: Channels of the dense layer.
        channels: Those that are left.
        members: Layers whose outputs go with them.
    """

    size: int
    channels: list[int]
    members: list[str]


@dataclass
class Lineage:
    """What became of a dense model.

    Attributes:
        dense: ``sha256`` of the weights, ``class`` and ``params`` of the dense model.
        tensors: By name, those that lost something or have another name.
        groups: By the name of the root layer.
        pooling: Norms that lost channels and take statistics over several.
        events: What happened, one dict each: ``what`` (``cut``, ``recovered``, ...), ``date``, and
            facts; a cut holds ``kept``: the channels left of each group that has lost any.
        lost: Why the rest cannot be relied on; empty if it can.
    """

    dense: dict[str, Any]
    tensors: dict[str, Held] = field(default_factory=dict)
    groups: dict[str, Kept] = field(default_factory=dict)
    pooling: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    lost: str = ""
    cutting: bool = False

    @classmethod
    def begin(cls, model: nn.Module) -> Lineage:
        """Of a model that is dense as yet."""
        params = sum(p.numel() for p in model.parameters())
        dense = {"class": type(model).__qualname__, "params": params, "sha256": ""}
        if any(tensor.is_meta for tensor in model.state_dict().values()):
            return cls(dense, lost="it was pruned without its weights (on the meta device)")
        return cls({**dense, "sha256": fingerprint(model)})

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled models need no class of this package for it."""
        return dict, (self.plain(),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Lineage:
        """Of a copy of the model."""
        return Lineage.from_plain(copy.deepcopy(self.plain()), "the model")

    # -- cuts -------------------------------------------------------------------------------------

    def cut(
        self,
        owner: nn.Module | nn.Parameter,
        name: str,
        handler: Callable[..., Any],
        indices: Sequence[int],
        dim: int | None,
    ) -> None:
        """Follow a cut of one side of a layer; called before it is made.

        Args:
            owner: The layer, or a bare parameter.
            name: Its dotted name.
            handler: What is going to cut it.
            indices: Channels that go.
            dim: The axis of a bare parameter that is cut.
        """
        if self.lost:
            return
        try:
            parts = dict(moved(owner, name, handler, list(indices), dim))
        except Exception as error:  # a pruning function of a user's may do anything
            self.lost = f"how '{name}' was cut could not be followed ({error})"
            return
        before = {path: self.tensors.pop(path) for path in parts if path in self.tensors}
        for path, after in parts.items():
            for new, held in after.items():
                self._put(new, held, before.get(path))

    def _put(self, name: str, held: Held, before: Held | None) -> None:
        if before is not None:
            pairs = zip(before.axes, held.axes, strict=True)
            held = Held(before.source, [_compose(old, new) for old, new in pairs])
        if held.source != name or any(axis is not None for axis in held.axes):
            self.tensors[name] = held

    def group_cut(self, root: str, outputs: dict[str, tuple[int, list[int]]]) -> None:
        """Note which channels of a group go.

        Args:
            root: Name of its root layer.
            outputs: For each layer of the group that makes or carries its channels: number of
                channels before, and those that go.
        """
        if not any(root in (name, *kept.members) for name, kept in self.groups.items()):
            size = outputs[root][0]
            self.groups[root] = Kept(size, list(range(size)), sorted(set(outputs) - {root}))
        for name, (_, gone) in outputs.items():
            if name in self.groups:
                left, out = self.groups[name].channels, set(gone)
                self.groups[name].channels = [c for i, c in enumerate(left) if i not in out]
        if not self.cutting:
            self.events.append({"what": "cut", "date": _now()})
            self.cutting = True
        kept = {name: list(group.channels) for name, group in self.groups.items()}
        self.events[-1]["kept"] = kept

    def close(self, facts: dict[str, Any] | None = None) -> None:
        """End the cut that is under way; later ones are another.

        Args:
            facts: Of the last cut, if it has none of its own.
        """
        self.cutting = False
        cuts = [event for event in self.events if event["what"] == "cut"]
        if facts and cuts and "facts" not in cuts[-1]:
            cuts[-1]["facts"] = {key: value for key, value in facts.items() if key != "groups"}

    def check(self, model: nn.Module) -> None:
        """See that the model has the shapes that are known of; otherwise say so in ``lost``."""
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, held in self.tensors.items():
            found = tensors.get(name)
            wanted = [None if axis is None else len(axis) for axis in held.axes]
            if (
                found is None
                or len(wanted) != found.dim()
                or any(w not in (None, size) for w, size in zip(wanted, found.shape, strict=True))
            ):
                self.lost = self.lost or f"'{name}' was changed by something else than this package"

    # -- plain data -------------------------------------------------------------------------------

    def plain(self) -> dict[str, Any]:
        """JSON data; equal lists of indices are stored once."""
        sets: dict[tuple[int, ...], int] = {}

        def number(indices: Sequence[int]) -> int:
            return sets.setdefault(tuple(indices), len(sets))

        def axis(indices: Axis) -> int | None:
            return None if indices is None else number(indices)

        tensors = {
            name: [held.source, [axis(indices) for indices in held.axes]]
            for name, held in self.tensors.items()
        }
        groups = {
            name: {"size": kept.size, "kept": number(kept.channels), "members": kept.members}
            for name, kept in self.groups.items()
        }
        events = []
        for event in self.events:
            told = dict(event)
            if "kept" in told:
                told["kept"] = {name: number(left) for name, left in told["kept"].items()}
            events.append(told)
        return {
            "format": _FORMAT,
            "dense": self.dense,
            "events": events,
            "groups": groups,
            "tensors": tensors,
            "sets": [list(indices) for indices in sets],
            "pooling": self.pooling,
            "lost": self.lost,
        }

    @classmethod
    def from_plain(cls, data: dict[str, Any], where: str) -> Lineage:
        """Out of what :meth:`plain` gave.

        Args:
            data: The data.
            where: The file that they are from, for messages.

        Raises:
            CheckpointError: If they are malformed, or of a newer version.
        """
        try:
            if data["format"] > _FORMAT:
                raise CheckpointError(
                    f"The history in {where} is of a newer version of sepprune-tp. Upgrade: pip "
                    "install -U sepprune-tp"
                )
            sets: list[list[int]] = data["sets"]
            _check(data)
            return cls(
                dense=data["dense"],
                tensors={
                    name: Held(source, [None if n is None else sets[n] for n in axes])
                    for name, (source, axes) in data["tensors"].items()
                },
                groups={
                    name: Kept(group["size"], sets[group["kept"]], group["members"])
                    for name, group in data["groups"].items()
                },
                pooling=list(data["pooling"]),
                events=[_with_sets(event, sets) for event in data["events"]],
                lost=data["lost"],
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise CheckpointError(
                f"The history in {where} cannot be read ({type(error).__name__}: {error}); the "
                "file was changed after it was written."
            ) from error


def lineage_of(model: nn.Module) -> Lineage | None:
    """What is known of a pruned model's past; None if it was never cut on a channel graph."""
    found = model.__dict__.get(_ATTRIBUTE)
    if isinstance(found, dict):  # it was pickled
        set_lineage(model, Lineage.from_plain(found, "the model"))
        return lineage_of(model)
    return found


def set_lineage(model: nn.Module, lineage: Lineage | None) -> None:
    """Give a model a past, or take it away."""
    model.__dict__.pop(_ATTRIBUTE, None)
    if lineage is not None:
        model.__dict__[_ATTRIBUTE] = lineage


def note(model: nn.Module, what: str, **facts: Any) -> None:
    """Note what was done to a pruned model; of a dense one nothing is noted.

    Args:
        model: The model.
        what: One word: ``recovered``, ``reconstructed``...
        **facts: Plain data about it.
    """
    lineage = lineage_of(model)
    if lineage is not None:
        lineage.close()
        event = {"what": what, "date": _now()}
        lineage.events.append({**event, "facts": facts} if facts else event)


def _check(data: dict[str, Any]) -> None:
    """Refuse what :meth:`Lineage.plain` does not give.

    Raises:
        ValueError: If it is something else.
    """
    indices = all(type(i) is int and i >= 0 for line in data["sets"] for i in line)
    texts = [data["lost"], data["dense"]["sha256"], data["dense"]["class"], *data["pooling"]]
    texts += [event[key] for event in data["events"] for key in ("what", "date")]
    texts += [name for group in data["groups"].values() for name in group["members"]]
    texts += [source for source, _ in data["tensors"].values()]
    sizes = [data["dense"]["params"], *(group["size"] for group in data["groups"].values())]
    if not (
        indices
        and all(isinstance(text, str) for text in texts)
        and all(type(size) is int for size in sizes)
        and all(isinstance(event.get("facts", {}), dict) for event in data["events"])
    ):
        raise ValueError("it is not plain data of a history")


def _with_sets(event: dict[str, Any], sets: list[list[int]]) -> dict[str, Any]:
    if "kept" not in event:
        return event
    return {**event, "kept": {name: sets[n] for name, n in event["kept"].items()}}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _compose(old: Axis, new: Axis) -> Axis:
    if old is None or new is None:
        return new if old is None else old
    return [old[index] for index in new]
