"""Line charts as SVG that takes its colours from the page, so that it follows light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .markup import Markup, element, join

__all__ = ["Line", "line_chart", "smoothed", "thinned", "ticks"]

Point = tuple[float, float]
Range = tuple[float, float]

# Size, and the margins that labels need, in units of the view box; a phone shows about one a pixel.
WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 12, 46
MOST_POINTS = 400  # of a line


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: For the legend.
        points: (x, y), in the order to draw.
        style: ``first``, ``second`` (dashed) or ``faint``.
        labels: Beside each point, which then gets a dot; none: no dots.
        dots: Whether points get dots without labels too.
    """

    name: str
    points: Sequence[Point]
    style: str = "first"
    labels: Sequence[str] = ()
    dots: bool = False


def line_chart(
    name: str,
    lines: Sequence[Line],
    *,
    title: str,
    summary: str,
    x_label: str,
    y_label: str,
    x_range: Range | None = None,
    y_range: Range | None = None,
) -> Markup:
    """Draw lines over two axes.

    Args:
        name: Prefix of the identifiers in it, different for each chart of a page.
        lines: To draw, the last on top.
        title: What it shows; read out, not drawn.
        summary: The same in figures, for those who do not see it.
        x_label: Of the horizontal axis, with its unit.
        y_label: Of the vertical axis, which stands above the chart.
        x_range: Of the horizontal axis; from the points when None.
        y_range: Likewise.

    Returns:
        A ``figure``, with a legend where there are several lines.
    """
    points = [point for line in lines for point in line.points]
    x_range = x_range or _around([x for x, _ in points], 0.0)
    y_range = y_range or _around([y for _, y in points], 0.06)

    def place(x: float, y: float) -> Point:
        across = (x - x_range[0]) / (x_range[1] - x_range[0])
        up = (y - y_range[0]) / (y_range[1] - y_range[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * _inner_height()

    parts: list[Markup] = [
        element("title", title, id=f"{name}-title"),
        element("desc", summary, id=f"{name}-desc"),
    ]
    for value, label in ticks(*x_range):
        x, _ = place(value, y_range[0])
        parts.append(_stroke("grid", (x, TOP), (x, HEIGHT - BOTTOM)))
        parts.append(_label(label, x, HEIGHT - BOTTOM + 18, "middle"))
    for value, label in ticks(*y_range):
        _, y = place(x_range[0], value)
        parts.append(_stroke("grid", (LEFT, y), (WIDTH - RIGHT, y)))
        parts.append(_label(label, LEFT - 6, y + 5, "end"))
    corner = (LEFT, HEIGHT - BOTTOM)
    parts.append(_stroke("axis", corner, (WIDTH - RIGHT, HEIGHT - BOTTOM)))
    parts.append(_stroke("axis", corner, (LEFT, TOP)))
    parts.append(_label(x_label, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "middle"))
    for line in lines:
        parts += _drawn(line, [place(*point) for point in line.points])
    drawing = element(
        "svg",
        join(parts, "\n"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )
    return element("figure", element("figcaption", y_label), drawing, _legend(lines))


def ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Two to seven round numbers between two, with their texts."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [(i * step, f"{i * step:.{digits}f}") for i in range(first, last + 1)]


def smoothed(points: Sequence[Point], window: int) -> list[Point]:
    """Running means over at most so many points that end at each."""
    means, total = [], 0.0
    for index, (x, y) in enumerate(points):
        total += y - (points[index - window][1] if index >= window else 0.0)
        means.append((x, total / min(index + 1, window)))
    return means


def thinned(points: Sequence[Point]) -> list[Point]:
    """Every so many points, and the last: what a screen can show."""
    stride = max(1, math.ceil(len(points) / MOST_POINTS))
    kept = list(points[::stride])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def _inner_height() -> float:
    return HEIGHT - TOP - BOTTOM


def _around(values: Sequence[float], margin: float) -> Range:
    """A range that holds all values, never an empty one."""
    low, high = min(values), max(values)
    room = (high - low) * margin if high > low else 0.5
    return low - room, high + room


def _stroke(style: str, start: Point, end: Point) -> Markup:
    (x1, y1), (x2, y2) = start, end
    places = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return element("line", class_=style, **{key: f"{at:.1f}" for key, at in places.items()})


def _label(content: str, x: float, y: float, anchor: str) -> Markup:
    return element("text", content, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _drawn(line: Line, places: Sequence[Point]) -> list[Markup]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [element("polyline", class_=f"line {line.style}", points=path)]
    if line.labels or line.dots:
        parts += [
            element("circle", class_="dot", cx=f"{x:.1f}", cy=f"{y:.1f}", r=5) for x, y in places
        ]
    for content, (x, y) in _merged(line.labels, places):
        if x > 0.7 * WIDTH:  # the line comes from below on the left
            parts.append(_label(content, x - 9, y - 7, "end"))
        else:
            parts.append(_label(content, x + 9, min(y + 13, HEIGHT - BOTTOM - 4), "start"))
    return parts


def _merged(labels: Sequence[str], places: Sequence[Point]) -> list[tuple[str, Point]]:
    """Labels and their points, one label for points that are too close for two."""
    merged: list[tuple[str, Point]] = []
    for content, (x, y) in zip(labels, places, strict=False):
        if merged and abs(merged[-1][1][0] - x) < 40 and abs(merged[-1][1][1] - y) < 14:
            merged[-1] = (f"{merged[-1][0]}, {content}", merged[-1][1])
        else:
            merged.append((content, (x, y)))
    return merged


def _legend(lines: Sequence[Line]) -> Markup:
    if len(lines) < 2:
        return Markup()
    keys = [
        element("span", element("span", class_=f"key {line.style}", aria_hidden="true"), line.name)
        for line in lines
    ]
    return element("div", *keys, class_="legend quiet")
