"""A page of reproduced tables: a chart of gains and the numbers of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrec_limaml.report import page
from tfrec_limaml.report.dots import Dot, dot_chart


def write_tables_page(path: str | Path, title: str, results: Sequence[Mapping[str, Any]]) -> Path:
    """Writes the page and returns its path.

    Args:
        path: The file.
        title: Heading of the page.
        results: As `tfrec_limaml.reproduction.run.run_table` returns them.
    """
    sections = [
        page.section(
            f"{result['name']}: {result['title']}",
            result["text"],
            page.figure(gains_chart(result), wide=True),
            page.table(_HEAD, [_cells(line, part) for line, part in _parts(result)], is_open=True),
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
    dots = [
        Dot(_name(line, part), part["gain"], part["gain_low"], part["gain_high"], part["paper"])
        for line, part in _parts(result)
    ]
    return dot_chart(
        f"{result['title']}: gains",
        "Circles are ours, diamonds the paper's figures.",
        "gain in per cent of AUC",
        dots,
    )
