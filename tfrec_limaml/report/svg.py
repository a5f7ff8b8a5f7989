"""Functions that write SVG: elements, axes with round ticks, markers.

Colours are CSS classes, so that themes apply.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence

SERIES = 8  # colours and marker shapes in report.css and `marker`
_HALF = 3.6  # half a marker's size, in user units


def element(name: str, *children: str, **attributes: object) -> str:
    """``<name attributes>children</name>``.

    Underscores in attribute names become dashes, and ``class_`` is ``class``.

    Children are markup: escape text first (`text` does). Attributes are escaped here; floats are
    rounded.
    """
    parts = [name]
    for key, value in attributes.items():
        attribute = (
            f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        )
        parts.append(f'{key.rstrip("_").replace("_", "-")}="{html.escape(attribute)}"')
    return (
        f"<{' '.join(parts)}>{''.join(children)}</{name}>" if children else f"<{' '.join(parts)}/>"
    )


def text(content: str, x: float, y: float, **attributes: object) -> str:
    """A text element with its content escaped."""
    return element("text", html.escape(content), x=float(x), y=float(y), **attributes)


def marker(series: int, x: float, y: float, **attributes: object) -> str:
    """A data point whose shape and colour both show the series (0 to 7, then again)."""
    s, kind = _HALF, series % SERIES
    css = f"s{kind} mark"
    if kind == 0:
        return element("circle", class_=css, cx=float(x), cy=float(y), r=s, **attributes)
    shapes = {
        1: [(-s, -s), (s, -s), (s, s), (-s, s)],
        2: [(0, -1.2 * s), (1.2 * s, s), (-1.2 * s, s)],
        3: [(0, -1.35 * s), (1.35 * s, 0), (0, 1.35 * s), (-1.35 * s, 0)],
        4: [(0, 1.2 * s), (1.2 * s, -s), (-1.2 * s, -s)],
        5: [(-1.3 * s, -0.45 * s), (1.3 * s, -0.45 * s), (1.3 * s, 0.45 * s), (-1.3 * s, 0.45 * s)],
        6: [(-0.45 * s, -1.3 * s), (0.45 * s, -1.3 * s), (0.45 * s, 1.3 * s), (-0.45 * s, 1.3 * s)],
        7: [(-1.2 * s, 0), (-s / 2, -s), (s / 2, -s), (1.2 * s, 0), (s / 2, s), (-s / 2, s)],
    }
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in shapes[kind])
    return element("polygon", class_=css, points=points, **attributes)


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers that cover ``[low, high]``.

    They are 1, 2 or 5 times a power of ten apart.
    """
    size = max(abs(low), abs(high), 1e-3)
    if high - low <= 1e-6 * size:  # one value: an axis around it
        low, high = low - 0.5 * size, high + 0.5 * size
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_label(value: float, all_ticks: Sequence[float]) -> str:
    """The tick with as many decimals as its neighbours' distance needs."""
    step = all_ticks[1] - all_ticks[0] if len(all_ticks) > 1 else 1.0
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """A chart's box: maps data to user units and draws axes.

    Attributes:
        x_range, y_range: Data at the ends of the axes.
        width, height: Size in user units; CSS scales the whole.
        left, right, top, bottom: Margins.
    """

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: float = 420
    height: float = 300
    left: float = 52
    right: float = 12
    top: float = 34
    bottom: float = 44

    def x(self, value: float) -> float:
        """Horizontal position of a value."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Vertical position of a value."""
        low, high = self.y_range
        return (
            self.height
            - self.bottom
            - (value - low) / (high - low) * (self.height - self.top - self.bottom)
        )

    def y_axis(self, marks: Sequence[float], label: str) -> str:
        """Grid lines with their numbers and the name of the axis above."""
        right = self.width - self.right
        lines = [
            element("line", class_="grid", x1=self.left, x2=right, y1=self.y(m), y2=self.y(m))
            for m in marks
        ]
        numbers = [
            text(tick_label(m, marks), self.left - 7, self.y(m) + 4, text_anchor="end")
            for m in marks
        ]
        return "".join([*lines, *numbers, text(label, 4, 13, class_="axis")])

    def x_axis(self, marks: Sequence[tuple[float, str]], label: str) -> str:
        """Numbers or names below and the name of the axis below."""
        base = self.height - self.bottom
        line = element(
            "line", class_="base", x1=self.left, x2=self.width - self.right, y1=base, y2=base
        )
        names = [
            text(name, self.x(value), base + 17, text_anchor="middle") for value, name in marks
        ]
        middle = (self.left + self.width - self.right) / 2
        return "".join(
            [
                line,
                *names,
                text(label, middle, self.height - 7, class_="axis", text_anchor="middle"),
            ]
        )

    def line(self, series: int, points: Sequence[tuple[float, float]]) -> str:
        """A line through data points."""
        path = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in points)
        return element("polyline", class_=f"s{series % SERIES} line", points=path)

    def svg(self, title: str, description: str, *body: str) -> str:
        """The whole drawing, with a name and a description for screen readers."""
        head = [element("title", html.escape(title)), element("desc", html.escape(description))]
        return element(
            "svg",
            *head,
            *body,
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            role="img",
            aria_label=f"{title}. {description}",
        )
