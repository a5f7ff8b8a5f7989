"""A page of `limaml compare`: AUC, gains and AUC by length of history, as charts and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrec_limaml.report import page
from tfrec_limaml.report.dots import Dot, dot_chart
from tfrec_limaml.wording import counted

_HEAD = ("", "AUC", "sd", "un-adapted", "gain", "log loss", "calibration", "GAUC", "nDCG@10")


def write_comparison_page(path: str | Path, result: Mapping[str, Any]) -> Path:
    """Writes the page and returns its path.

    Args:
        path: The file.
        result: As `tfrec_limaml.comparison.run.compare` returns it.
    """
    rows = [row for row in result["results"] if "auc_mean" in row]
    introduction = (
        f"{counted(result['rows'], 'test row', spec=',')} of "
        f"{counted(result['tasks'], 'task', spec=',')}, "
        f"{mean_of_seeds(len(result['seeds']))}."
    )
    charts = [_slice_chart(rows, name) for name in slices(rows)]
    sections = [
        page.section(
            "Test AUC",
            " ".join([introduction, *seed_notes(result)]),
            page.figure(_auc_chart(rows), wide=True),
            page.table(_HEAD, [_cells(row) for row in rows], is_open=True),
        ),
        *_gains(rows, result["reference"]),
        page.section(
            "Test AUC by samples in the task's history",
            "",
            *[page.figure(chart, wide=True) for chart in charts if chart],
        ),
    ]
    return page.write(path, page.document("LiMAML and its rivals", "", sections))


def _gains(rows: Sequence[Mapping[str, Any]], reference: str) -> list[str]:
    """The section of the gains; none without a run of the reference."""
    if not any(row.get("gain_low") is not None for row in rows):
        return []
    text = "With its 95 % interval, paired by row and clustered by task."
    chart = page.figure(_gain_chart(rows, reference), wide=True)
    return [page.section(f"Gain over {reference}", text, chart)]


def slices(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Names of the slices by history, and the test rows of each; empty slices are left out."""
    return {s["slice"]: s["rows"] for row in rows for s in row["slices"] if s["rows"]}


def slice_auc(row: Mapping[str, Any], name: str) -> float | None:
    """A rival's AUC in one slice; None if the slice has too few tasks, or rows of a class."""
    (auc,) = (s["auc"] for s in row["slices"] if s["slice"] == name)
    return None if auc is None or auc != auc else float(auc)


def gain_text(row: Mapping[str, Any], between: str = " ") -> str:
    """A rival's gain with its interval, whose ends `between` separates; "" if it is not known."""
    if "gain" not in row:
        return ""
    if row["gain_low"] is None:
        return f"{row['gain']:+.4f} (too few tasks for an interval)"
    return f"{row['gain']:+.4f} ({row['gain_low']:+.4f}{between}{row['gain_high']:+.4f})"


def seed_notes(result: Mapping[str, Any]) -> list[str]:
    """A sentence for each rival whose numbers are not of all seeds."""
    reference, notes = result["reference"], []
    for row in result["results"]:
        if "used_seeds" not in row:
            continue
        used, diverged = row["used_seeds"], row.get("diverged", [])
        missing = [seed for seed in row["seeds"] if seed not in (*used, *diverged)]
        reasons = [f"seeds {diverged} diverged"] if diverged else []
        if missing:
            names = dict.fromkeys((row["name"], reference))
            reasons.append(f"no scores of {' or '.join(names)} of the seeds {missing}")
        notes.append(f"{row['name']}: all numbers are of the seeds {used} ({'; '.join(reasons)}).")
    return notes


def _auc_chart(rows: Sequence[Mapping[str, Any]]) -> str:
    dots = [
        Dot(
            row["name"],
            row["auc_mean"],
            row["auc_mean"] - (row["auc_sd"] or 0.0),
            row["auc_mean"] + (row["auc_sd"] or 0.0),
            row["auc_unadapted"],
        )
        for row in rows
    ]
    spread = any(row["auc_sd"] is not None for row in rows)
    explanation = (
        "Circles are means over the seeds"
        f"{', lines one standard deviation to each side' if spread else ''}, diamonds the same "
        "models un-adapted."
    )
    return dot_chart("Test AUC", explanation, "test AUC", dots)


def _gain_chart(rows: Sequence[Mapping[str, Any]], reference: str) -> str:
    dots = [
        Dot(row["name"], row["gain"], row["gain_low"], row["gain_high"])
        for row in rows
        if row.get("gain_low") is not None and row["name"] != reference
    ]
    return dot_chart("Gains", f"Test AUC minus that of {reference}.", "gain in AUC", dots)


def mean_of_seeds(count: int) -> str:
    """``one seed`` or ``mean of N seeds``, to say what a table's numbers are."""
    return "one seed" if count == 1 else f"mean of {count} seeds"


def _slice_chart(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [(row["name"], slice_auc(row, name)) for row in rows]
    dots = [Dot(rival, value, value, value) for rival, value in values if value is not None]
    title = f"{name} samples ({counted(slices(rows)[name], 'row', spec=',')})"
    return dot_chart(title, "Means over the seeds.", f"test AUC, {title}", dots)


def _cells(row: Mapping[str, Any]) -> list[str]:
    unadapted = row["auc_unadapted"]
    return [
        row["name"],
        f"{row['auc_mean']:.4f}",
        "" if row["auc_sd"] is None else f"{row['auc_sd']:.4f}",
        "" if unadapted is None else f"{unadapted:.4f}",
        gain_text(row, " to "),
        *(
            "" if row[name] is None else f"{row[name]:.4f}"
            for name in ("log_loss", "calibration", "gauc", "ndcg_10")
        ),
    ]
