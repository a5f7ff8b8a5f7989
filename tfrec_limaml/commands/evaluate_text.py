"""The results of ``limaml evaluate`` as text."""

from __future__ import annotations

from typing import Any

from tfrec_limaml.wording import counted


def render(result: dict[str, Any]) -> str:
    """The contents of ``evaluation.json`` as tables."""
    lines = [
        f"{result['split']}: {counted(result['rows'], 'row')} of "
        f"{counted(result['tasks'], 'task')}",
        "",
    ]
    gain_title = f"gain over {result['gain_over']} (95 %)"
    lines.append(
        f"{'algorithm':10} {'fine-tuned':>15} {'AUC':>8} {'95 % interval':>17} {gain_title:>28} "
        f"{'log loss':>9} {'calibr.':>8} {'task AUC':>9}"
    )
    for row in result["results"]:
        adaptation = {"fine-tuned": "yes", "un-adapted": "no"}.get(form_of(row), form_of(row))
        lines.append(
            f"{row['algorithm']:10} {adaptation:>15} {_number(row['auc']):>8} {_interval(row):>17} "
            f"{_gain(row):>28} {_number(row['log_loss']):>9} "
            f"{_number(row['calibration'], '.3f'):>8} {_number(row['per_task_auc']):>9}"
        )
    if "bayes_auc" in result:
        lines.append(f"best possible AUC {result['bayes_auc']:.4f} (known for simulated data)")
    lines += _slices(result, gain_title)
    for row in result["results"]:
        if "support_loss_before" in row:
            lines.append(
                f"support loss of {row['algorithm']}: {_number(row['support_loss_before'])} "
                "before fine-tuning, "
                f"{_number(row['support_loss_after'])} after; it rose for "
                f"{_number(row['support_loss_rose'], '.1%')} of the tasks"
            )
    lines += [f"warning: {text}" for text in result.get("warnings", [])]
    return "\n".join(lines)


def _slices(result: dict[str, Any], gain_title: str) -> list[str]:
    """The lines of the best row's slices and cohorts."""
    best = max(result["results"], key=lambda row: row["auc"] or 0.0)
    return [
        *("", f"AUC of {best['algorithm']}, {form_of(best)}, by samples of history and by cohort"),
        f"  {'':44} {'AUC':>8} {'95 % interval':>17} {gain_title:>28}",
        *(_part(part) for part in (*best["slices"], *best["cohorts"])),
    ]


def form_of(row: dict[str, Any]) -> str:
    """Text for the weights that a row was scored with."""
    if "side" in row:
        return f"{row['side'][:9]} alone"
    return "as served" if row.get("served") else "fine-tuned" if row["fine_tune"] else "un-adapted"


def _part(part: dict[str, Any]) -> str:
    """The line of a slice; a note replaces the interval if it has too few tasks or one class."""
    line = f"  {part['slice']:16} {part['rows']:8} rows {part['tasks']:8} tasks  "
    if "note" in part:
        return f"{line} {_number(part['auc']):>8} {'-':>17} {'-':>28}  ({part['note']})"
    return f"{line} {_number(part['auc']):>8} {_interval(part):>17} {_gain(part):>28}"


def _interval(row: dict[str, Any]) -> str:
    return f"{_number(row['auc_low'])} - {_number(row['auc_high'])}"


def _gain(row: dict[str, Any]) -> str:
    value, low, high = (_number(row[n], "+.4f") for n in ("gain", "gain_low", "gain_high"))
    return f"{value} ({low} {high})"


def _number(value: float | None, form: str = ".4f") -> str:
    return "n/a" if value is None else format(value, form)
