"""Draws the report's charts, each as one SVG string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfrec_limaml.report import svg
from tfrec_limaml.report.contents import EmbeddingMap, MemberStory, algorithm_label, series_of
from tfrec_limaml.report.projection import largest_groups, principal_components
from tfrec_limaml.wording import counted

MAP_POINTS = 1200
STORY_ITEMS = 12
SLICE_ROWS = 100  # below that an interval is as wide as the chart
_NAME_LENGTH = 16  # of a candidate beside its line


def learning_curves(training: Sequence[Mapping[str, Any]], measure: str, label: str) -> str:
    """One measure over the epochs, a line per algorithm.

    Args:
        training: Contents of ``*.training.json`` files.
        measure: Key of the history, for example ``"val_auc"``.
        label: Name of the vertical axis.

    Returns:
        An SVG; empty if no history holds the measure.
    """
    curves = [
        (series_of(run["algorithm"]), run["algorithm"], list(run["history"][measure]))
        for run in training
        if run["history"].get(measure)
    ]
    values = [v for _, _, curve in curves for v in curve if np.isfinite(v)]
    if not values:
        return ""
    epochs = max(len(curve) for _, _, curve in curves)
    marks = svg.ticks(min(values), max(values))
    frame = svg.Frame(x_range=(0.5, epochs + 0.5), y_range=(marks[0], marks[-1]))
    step = max(1, -(-epochs // 8))
    body = [
        frame.y_axis(marks, label),
        frame.x_axis([(e, str(e)) for e in range(1, epochs + 1, step)], "epoch"),
    ]
    sentences = []
    for series, algorithm, curve in curves:
        points = [(epoch, value) for epoch, value in enumerate(curve, 1) if np.isfinite(value)]
        if not points:
            continue
        name = algorithm_label(algorithm)
        hover = (
            svg.element("title", f"{name}, epoch {epoch}: {value:.4f}") for epoch, value in points
        )
        body.append(frame.line(series, points))
        body += [
            _titled(svg.marker(series, frame.x(a), frame.y(b)), title)
            for (a, b), title in zip(points, hover, strict=True)
        ]
        sentences.append(
            f"{name} from {points[0][1]:.4f} to {points[-1][1]:.4f} in "
            f"{counted(len(curve), 'epoch')}"
        )
    return frame.svg(f"{label} per epoch", "; ".join(sentences) + ".", *body)


def auc_by_history(results: Sequence[Mapping[str, Any]]) -> str:
    """AUC with its confidence interval for each slice of history length, one marker per algorithm.

    Args:
        results: ``evaluation.json``'s ``results``.
    """
    cells = [
        (i, r, s)
        for i, r in enumerate(results)
        for s in r["slices"]
        if s["auc"] is not None and s["rows"] >= SLICE_ROWS and "note" not in s
    ]
    if not cells:
        return ""
    slices = list(dict.fromkeys(cell["slice"] for _, _, cell in cells))
    marks = svg.ticks(
        min(s["auc_low"] for _, _, s in cells), max(s["auc_high"] for _, _, s in cells)
    )
    frame = svg.Frame(x_range=(-0.5, len(slices) - 0.5), y_range=(marks[0], marks[-1]), bottom=60)
    body = [
        frame.y_axis(marks, "test AUC"),
        frame.x_axis(
            [(i, name) for i, name in enumerate(slices)], "earlier interactions of the member"
        ),
    ]
    rows = {s["slice"]: s["rows"] for _, _, s in cells}
    base = frame.height - frame.bottom
    body += [
        svg.text(f"{rows[n]:,} rows", frame.x(i), base + 33, class_="small", text_anchor="middle")
        for i, n in enumerate(slices)
    ]
    width = 0.7 / max(len(results), 1)
    for place, result, cell in cells:
        x = frame.x(slices.index(cell["slice"]) + (place - (len(results) - 1) / 2) * width)
        body.append(_interval(frame, x, result, cell))
    return frame.svg(
        "Test AUC by length of history",
        "Bars are 95 % confidence intervals. The table holds the numbers.",
        *body,
    )


def _interval(
    frame: svg.Frame, x: float, result: Mapping[str, Any], cell: Mapping[str, Any]
) -> str:
    """One slice's AUC as a marker, with its confidence interval as a line."""
    series = series_of(result["algorithm"], result["fine_tune"])
    low, high = frame.y(cell["auc_low"]), frame.y(cell["auc_high"])
    whisker = svg.element(
        "line", class_=f"s{series % svg.SERIES} line", x1=x, x2=x, y1=low, y2=high
    )
    name = algorithm_label(result["algorithm"], result["fine_tune"], result.get("served", False))
    title = (
        f"{name}, {cell['slice']} interactions: {cell['auc']:.4f} "
        f"({cell['auc_low']:.4f} to {cell['auc_high']:.4f})"
    )
    marker = svg.marker(series, x, frame.y(cell["auc"]))
    return _titled(whisker + marker, svg.element("title", title))


def _names_on_map(names: Sequence[str], positions: Sequence[tuple[float, float]]) -> list[str]:
    """The names for which there is room; the legend names the others."""
    texts: list[str] = []
    occupied: list[tuple[float, float]] = []
    for series, (name, (x, y)) in enumerate(zip(names, positions, strict=True)):
        if all(abs(x - a) > 9 * len(name) or abs(y - b) > 16 for a, b in occupied):
            occupied.append((x, y))
            texts.append(
                svg.text(name, x, y, class_=f"t{series % svg.SERIES} halo", text_anchor="middle")
            )
    return texts


def embedding_map(content: EmbeddingMap) -> tuple[str, list[str]]:
    """The embeddings in two dimensions, coloured by group.

    A group is named at its median if there is room.

    Returns:
        The SVG and the names of the groups, in the order of their colours.
    """
    coordinates, shares = principal_components(content.embeddings)
    groups, names = largest_groups(content.groups, svg.SERIES)
    x_marks, y_marks = (svg.ticks(float(c.min()), float(c.max())) for c in coordinates.T)
    frame = svg.Frame(
        x_range=(x_marks[0], x_marks[-1]), y_range=(y_marks[0], y_marks[-1]), height=360, left=44
    )
    body = [
        frame.y_axis(y_marks, f"second direction ({shares[1]:.0%} of the variance)"),
        frame.x_axis(
            [(m, svg.tick_label(m, x_marks)) for m in x_marks],
            f"first direction ({shares[0]:.0%} of the variance)",
        ),
    ]
    sample = np.random.default_rng(0).permutation(len(groups))[:MAP_POINTS]
    body += [
        svg.marker(
            names.index(groups[i]),
            frame.x(coordinates[i, 0]),
            frame.y(coordinates[i, 1]),
            opacity="0.6",
        )
        for i in sample
    ]
    medians = [np.median(coordinates[[g == name for g in groups]], axis=0) for name in names]
    body += _names_on_map(names, [(frame.x(m[0]), frame.y(m[1])) for m in medians])
    counts = ", ".join(f"{groups.count(name)} {name}" for name in names)
    return frame.svg(
        "Map of the meta embeddings",
        f"Two principal components of {counted(len(groups), 'embedding')}, {len(sample)} of them "
        f"drawn. Groups: {counts}.",
        *body,
    ), names


def rank_change(story: MemberStory) -> str:
    """Ranks before and after the clicks, joined by a line per candidate."""
    before = sorted(story.items, key=lambda item: -item.before)
    after = sorted(story.items, key=lambda item: -item.after)
    items = [
        item
        for item in after
        if after.index(item) < STORY_ITEMS or before.index(item) < STORY_ITEMS
    ]
    names = list(
        dict.fromkeys(item.group for item in sorted(story.items, key=lambda item: item.group))
    )
    count = len(story.items)
    frame = svg.Frame(
        x_range=(0, 1),
        y_range=(count + 0.5, 0.5),
        left=150,
        right=150,
        top=34,
        bottom=8,
        height=60.0 + 22 * count,
    )
    body = [
        svg.text("before", frame.left, 16, class_="axis", text_anchor="middle"),
        svg.text(
            "after the clicks", frame.width - frame.right, 16, class_="axis", text_anchor="middle"
        ),
    ]
    for item in items:
        ranks = before.index(item) + 1, after.index(item) + 1
        body += _rank_line(frame, names.index(item.group), item.name, *ranks)
    winner = max(story.items, key=lambda item: before.index(item) - after.index(item))
    summary = (
        f"{winner.name} moves from place {before.index(winner) + 1} to {after.index(winner) + 1}."
    )
    return frame.svg("Ranks before and after the clicks", summary, *body)


def _rank_line(frame: svg.Frame, series: int, name: str, first: int, last: int) -> list[str]:
    """A candidate's line from its first to its last rank, with its name at both ends."""
    right = frame.width - frame.right + 10
    return [
        frame.line(series, [(0, first), (1, last)]),
        svg.marker(series, frame.x(0), frame.y(first)),
        svg.marker(series, frame.x(1), frame.y(last)),
        svg.text(
            f"{first}. {_short(name)}", frame.left - 10, frame.y(first) + 4, text_anchor="end"
        ),
        svg.text(f"{last}. {_short(name)}", right, frame.y(last) + 4),
    ]


def _titled(mark: str, title: str) -> str:
    return svg.element("g", title, mark)


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"
