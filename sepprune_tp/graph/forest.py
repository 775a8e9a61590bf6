"""Where channels met in a trace: the unions that mattered, as a forest over labels."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .assembly import Site
from .labels import Place

if TYPE_CHECKING:
    from .channel_graph import ChannelGraph

__all__ = ["Forest", "Meeting", "Step", "counted"]


@dataclass(frozen=True)
class Meeting:
    """Channels of two layers that became one at some place in the code.

    Attributes:
        one: Name of the layer that makes the channels on one side.
        other: Likewise on the other side.
        place: Operation, module and line.
        channels: How many channels met there.
    """

    one: str
    other: str
    place: Place
    channels: int

    def __str__(self) -> str:
        if self.one == self.other:
            return f"'{self.one}' met itself in {self.place}: {counted(self.channels)}"
        return f"'{self.one}' met '{self.other}' in {self.place}: {counted(self.channels)}"


@dataclass(frozen=True)
class Step:
    """A channel on the way to what protects it.

    Attributes:
        layer: Name of the layer that holds the channel, or words where no layer does.
        channel: Its index there; None without a layer.
        place: Where it met the channel of the step before; None for the first step, and where the
            layer before reads what this one makes.
    """

    layer: str
    channel: int | None
    place: Place | None

    def __str__(self) -> str:
        return self.layer if self.channel is None else f"{self.layer}[{self.channel}]"


class Forest:
    """The unions of a trace as a forest over labels, and the layer that made each label."""

    def __init__(self, graph: ChannelGraph) -> None:
        self._channels, self._name_of = graph.channels, graph.name_of
        self._origin: dict[int, tuple[str, int]] = {}
        for site in graph.sites():
            if site.side == "out" and graph.makes(site.owner):
                name = graph.name_of(site.owner)
                for index, label in enumerate(site.labels.tolist()):
                    self._origin.setdefault(label, (name, index))
        met = graph.channels.meetings
        self._edges: list[tuple[int, int, int]] = list(
            zip(met.one, met.other, met.place, strict=True)
        )
        self._neighbours: dict[int, list[tuple[int, int]]] = {}
        for one, other, place in self._edges:
            self._neighbours.setdefault(one, []).append((other, place))
            self._neighbours.setdefault(other, []).append((one, place))

    def meetings(self, components: set[int]) -> list[Meeting]:
        """Where the layers of some components met, in the order of the trace."""
        counts: Counter[tuple[str, str, int]] = Counter()
        for one, other, place in self._edges:
            if self._channels.find(one) in components:
                counts[self._maker(one), self._maker(other), place] += 1
        return [
            Meeting(one, other, self._place(place), count)
            for (one, other, place), count in counts.items()
        ]

    def path(
        self, site: Site, component: int, target: int | None, end: Step | None = None
    ) -> tuple[Step, ...]:
        """The channels that link one of a layer to a label; empty without a target."""
        if target is None:
            return ()
        index = site.positions()[component][0]
        start = int(site.labels[index])
        steps = [Step(self._name_of(site.owner), index, None)]
        for label, place in self._walk(start, target):
            step = self._step(label, place)
            if (step.layer, step.channel) != (steps[-1].layer, steps[-1].channel):
                steps.append(step)
        if end is not None and (end.layer, end.channel) != (steps[-1].layer, steps[-1].channel):
            steps.append(end)
        return tuple(steps)

    def _walk(self, start: int, target: int) -> list[tuple[int, Place | None]]:
        """Labels from ``start`` to ``target``, each with where it met the one before."""
        before: dict[int, tuple[int, int]] = {start: (0, -1)}
        queue = deque([start])
        while queue and target not in before:
            label = queue.popleft()
            for other, place in self._neighbours.get(label, ()):
                if other not in before:
                    before[other] = (label, place)
                    queue.append(other)
        if target not in before:
            return [(start, None)]
        walked: list[tuple[int, Place | None]] = []
        label = target
        while label != start:
            previous, place = before[label]
            walked.append((label, self._place(place)))
            label = previous
        return [(start, None), *reversed(walked)]

    def _step(self, label: int, place: Place | None) -> Step:
        if label in self._origin:
            return Step(*self._origin[label], place)
        return Step(f"({self._channels.fixed_reasons.get(label, 'a value')})", None, place)

    def _maker(self, label: int) -> str:
        return self._origin[label][0] if label in self._origin else str(self._step(label, None))

    def _place(self, number: int) -> Place:
        return self._channels.places[number] if number >= 0 else Place("?")


def counted(channels: int) -> str:
    """A number of channels in words."""
    return f"{channels} channel" + ("s" if channels != 1 else "")
