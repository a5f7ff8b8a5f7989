"""The demo's result as text: the summary table, one member's list, commands to try."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tfrec_limaml.report.contents import algorithm_label
from tfrec_limaml.wording import counted


def facts(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The summary table's lines."""
    tested = (
        "Test data",
        f"{counted(result['test_rows'], 'row', spec=',')} of "
        f"{counted(result['test_tasks'], 'member', spec=',')}",
    )
    lines = [tested] + [
        (
            f"Test AUC: {algorithm_label(r['algorithm'], r['fine_tune'], r.get('served', False))}",
            f"{r['auc']:.4f}  (95 %: {r['auc_low']:.4f} to {r['auc_high']:.4f})",
        )
        for r in result["auc"]
    ]
    served = next((r for r in result["auc"] if r.get("served") and r.get("gain_low")), None)
    if served is not None:
        lines.append(
            (
                "Gain of LiMAML, as served, over Vanilla",
                f"{served['gain']:+.4f}  (95 %, paired: {served['gain_low']:+.4f} to "
                f"{served['gain_high']:+.4f})",
            )
        )
    lines += [("Note", warning) for warning in result["warnings"]]
    if "best_possible_auc" in result:
        lines.append(("Best possible test AUC (known here)", f"{result['best_possible_auc']:.4f}"))
    embeddings = result["embeddings"]
    rate = embeddings["count"] / max(embeddings["seconds"], 1e-9)
    lines.append(
        (
            "Embeddings",
            f"{embeddings['count']:,} of width {embeddings['dimension']} in "
            f"{embeddings['seconds']:.1f} s ({rate:,.0f} per second, including the start of the "
            "job)",
        )
    )
    lines.append(("Time of the stages", f"{sum(result['seconds'].values()):.0f} s in all"))
    return lines


def next_steps(dataset: str, workspace: Path) -> list[str]:
    """Commands to try after the demo."""
    tasks, run = workspace / "tasks", workspace / "model"
    other = "kuairand-pure" if dataset == "simulated" else "simulated"
    return [
        f"make demo DATASET={other}",
        f"limaml train {tasks} --output {run} --algorithm maml && limaml evaluate {tasks} --run "
        f"{run} --overwrite",
        f"limaml serve {workspace / 'export' / 'ranker'} --port 8500",
        "limaml datasets describe your-clicks.csv",
    ]


def ranking_table(result: dict[str, Any]) -> list[str]:
    """The member's candidates, best first, with their ranks under the three embeddings."""
    rows = result["ranking"]["candidates"]
    ranks = {
        name: np.argsort(np.argsort([-row[name] for row in rows])) + 1
        for name in ("without", "before", "after")
    }
    width = max(len(row["name"]) for row in rows)
    lines = [
        f"{'candidate':{width}}  {'no embedding':>14}  {'embedding':>14}  {'after clicks':>14}"
    ]
    for i in np.argsort(ranks["before"]):
        cells = [f"{rows[i][name]:.3f} (no. {ranks[name][i]:2d})" for name in ranks]
        lines.append(f"{rows[i]['name']:{width}}  " + "  ".join(f"{cell:>14}" for cell in cells))
    return lines
