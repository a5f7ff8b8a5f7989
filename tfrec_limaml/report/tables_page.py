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
            f"{result['text']} {_averaging(result)}",
            page.figure(gains_chart(result), wide=True),
            page.items([ordering_sentence(ordering) for ordering in result["orderings"]]),
            page.table(_HEAD, [_cells(line, part) for line, part in _parts(result)], is_open=True),
        )
        for result in results
    ]
    return page.write(path, page.document(title, "", sections))


_HEAD = ("", "rows", "paper, %", "gain, %", "interval", "AUC", "validation AUC", "time, %")


def _averaging(result: Mapping[str, Any]) -> str:
    runs = "one seed" if result["seeds"] == 1 else f"mean of {result['seeds']} seeds (sd)"
    return (
        f"Gains are per cent of test AUC over {result['reference']!r}, {runs}, with the 95 % "
        "interval, paired by row and clustered by task."
    )


def _cells(line: Mapping[str, Any], part: Mapping[str, Any]) -> list[str]:
    def spread(name: str, spec: str, of: Mapping[str, Any]) -> str:
        deviation = of[f"{name}_sd"]
        return f" ({deviation:{spec}})" if deviation else ""

    is_all = part["slice"] == "all"
    return [
        _name(line, part),
        f"{part['rows']:,}",
        "" if part["paper"] is None else f"{part['paper']:+.2f}",
        "equal" if part["equal"] else f"{part['gain']:+.2f}{spread('gain', '.2f', part)}",
        "" if part["equal"] else f"{part['gain_low']:+.2f} to {part['gain_high']:+.2f}",
        f"{line['auc_mean']:.4f}{spread('auc', '.4f', line)}" if is_all else "",
        f"{line['val_auc_mean']:.4f}" if is_all else "",
        f"{line['time']:+.0f}" if is_all else "",
    ]


def ordering_sentence(ordering: Mapping[str, Any]) -> str:
    """Whether one of the paper's orderings holds, as a sentence of Markdown."""
    verb = "takes longer than" if ordering["time"] else "is above"
    rows_text = "" if ordering["slice"] == "all" else f" on {ordering['slice']} rows"
    statement = f"*{ordering['more']}* {verb} *{ordering['less']}*{rows_text}"
    if ordering["equal"]:
        return f"equal: *{ordering['more']}* and *{ordering['less']}*{rows_text}"
    if ordering["holds"] is None:
        return f"not measured: {statement}"
    verdict = "holds" if ordering["holds"] else "DOES NOT HOLD"
    return f"{verdict}: {statement} ({ordering['difference']:+.2f})"


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
