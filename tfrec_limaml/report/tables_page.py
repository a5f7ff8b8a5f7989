"""A page of reproduced tables: a chart of gains and the numbers of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrec_limaml.report import page, svg

_ROW = 26.0  # height of a line of the chart


def write_tables_page(path: str | Path, title: str, results: Sequence[Mapping[str, Any]]) -> Path:
    """Writes the page and returns its path.

    Args:
        path: The file.
        title: Its heading.
        results: As `tfrec_limaml.reproduction.run.run_table` returns them.
    """
    sections = [
        page.section(
            f"{result['name']}: {result['title']}",
            result["text"],
            page.figure(gains_chart(result), wide=True),
            page.table(_HEAD, [_cells(line, part) for line, part in _parts(result)], opened=True),
        )
        for result in results
    ]
    return page.write(path, page.document(title, "", sections))


_HEAD = ("", "rows", "paper, %", "gain, %", "interval")


def _cells(line: Mapping[str, Any], part: Mapping[str, Any]) -> list[str]:
    return [
        _name(line, part),
        f"{part['rows']:,}",
        "" if part["paper"] is None else f"{part['paper']:+.2f}",
        f"{part['gain']:+.2f} (sd {part['gain_sd']:.2f})",
        f"{part['gain_low']:+.2f} to {part['gain_high']:+.2f}",
    ]


def _name(line: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    if part["slice"] == "all":
        return str(line["label"])
    return f"{line['label']}: {part['slice']}"


def _parts(result: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    return [(line, part) for line in result["lines"] for part in line["slices"]]


def gains_chart(result: Mapping[str, Any]) -> str:
    """Gains in per cent with their intervals, a line per model; a diamond is the paper's figure."""
    parts = _parts(result)
    if not parts:
        return ""
    values = [p[k] for _, p in parts for k in ("gain_low", "gain_high")]
    values += [p["paper"] for _, p in parts if p["paper"] is not None]
    marks = svg.ticks(min(values), max(values))
    height = 60 + _ROW * len(parts)
    frame = svg.Frame(
        x_range=(marks[0], marks[-1]),
        y_range=(0.0, 1.0),
        width=760,
        height=height,
        left=250,
        top=10,
    )
    axis = frame.x_axis(
        [(mark, svg.tick_label(mark, marks)) for mark in marks], "gain in per cent of AUC"
    )
    body = [axis]
    for number, (line, part) in enumerate(parts):
        y = 22 + _ROW * number
        body.append(svg.text(_name(line, part), frame.left - 8, y + 4, text_anchor="end"))
        low, high = frame.x(part["gain_low"]), frame.x(part["gain_high"])
        body.append(svg.element("line", class_="s0 line", x1=low, x2=high, y1=y, y2=y))
        body.append(svg.marker(0, frame.x(part["gain"]), y))
        if part["paper"] is not None:
            body.append(svg.marker(3, frame.x(part["paper"]), y))
    return frame.svg(
        f"{result['title']}: gains", "Circles are ours, diamonds the paper's figures.", *body
    )
