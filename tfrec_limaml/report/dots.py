"""A chart with one line per name: a value, its interval, and a second value to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tfrec_limaml.report import svg

_LINE = 26.0  # height of a line of the chart


class Dot(NamedTuple):
    """One line of the chart."""

    name: str
    value: float
    low: float
    high: float
    other: float | None = None


def dot_chart(title: str, explanation: str, axis: str, dots: Sequence[Dot]) -> str:
    """An SVG: circles with their intervals, diamonds for the other values; empty without dots."""
    if not dots:
        return ""
    values = [value for dot in dots for value in (dot.low, dot.high)]
    values += [dot.other for dot in dots if dot.other is not None]
    marks = svg.ticks(min(values), max(values))
    frame = svg.Frame(
        x_range=(marks[0], marks[-1]),
        y_range=(0.0, 1.0),
        width=760,
        height=60 + _LINE * len(dots),
        left=250,
        top=10,
    )
    body = [frame.x_axis([(mark, svg.tick_label(mark, marks)) for mark in marks], axis)]
    for number, dot in enumerate(dots):
        y = 22 + _LINE * number
        body.append(svg.text(dot.name, frame.left - 8, y + 4, text_anchor="end"))
        low, high = frame.x(dot.low), frame.x(dot.high)
        body.append(svg.element("line", class_="s0 line", x1=low, x2=high, y1=y, y2=y))
        body.append(svg.marker(0, frame.x(dot.value), y))
        if dot.other is not None:
            body.append(svg.marker(3, frame.x(dot.other), y))
    return frame.svg(title, explanation, *body)
