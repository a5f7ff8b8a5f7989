"""The data card: rows that were read and left out, the reasons, and the sizes of the tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from limaml_beam.build_tasks import card_warnings, drift, quality
from limaml_beam.build_tasks.history import DIRECTORY
from limaml_beam.build_tasks.key_history import stem
from limaml_beam.build_tasks.row_checks import (
    DUPLICATE,
    ERASED,
    ERROR,
    FILLED,
    OUTSIDE,
    UNKNOWN_KEY,
)
from limaml_beam.build_tasks.settings import FAR_FUTURE, FAR_PAST, TaskSettings
from limaml_beam.build_tasks.split_summary import SplitSummary
from limaml_beam.build_tasks.validation import UNREADABLE_VALUES
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks.folder import PARTS

_QUANTILES = (0, 10, 25, 50, 75, 90, 99, 100)


def describe_sizes(summaries: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Tasks, rows and quantiles of rows per task, by definition and split.

    `summaries` are the counted sizes that `WriteShard` yields.
    """
    sizes_by_definition: dict[str, dict[str, list[Any]]] = {}
    for definition, by_split in summaries:
        for split, pairs in by_split.items():
            sizes_by_definition.setdefault(definition, {}).setdefault(split, []).append(pairs)
    return {
        d: {s: _describe(np.concatenate(p)) for s, p in by_split.items()}
        for d, by_split in sorted(sizes_by_definition.items())
    }


def _describe(size_counts: Any) -> dict[str, Any]:
    support, query, tasks = size_counts.T
    card: dict[str, Any] = {
        "tasks": int(tasks.sum()),
        "support_rows": int(support @ tasks),
        "query_rows": int(query @ tasks),
    }
    if len(size_counts):
        card["support_quantiles"] = _quantiles(support, tasks)
        if query.any():
            known = support > 0
            card["query_quantiles"] = _quantiles(query, tasks)
            card["share_of_tasks_with_history"] = float(tasks[known].sum() / tasks.sum())
            card["share_of_query_rows_with_history"] = float(
                (query @ (tasks * known)) / (query @ tasks)
            )
    return card


def _quantiles(values: Any, counts: Any) -> dict[str, float]:
    """Percentiles of the values, each repeated as often as it is counted (as `np.percentile`)."""
    order = np.argsort(values, kind="stable")
    ends = np.cumsum(counts[order])

    def value_at(position: Any) -> Any:
        return values[order][np.searchsorted(ends, position, side="right")]

    positions = np.array(_QUANTILES) / 100 * (ends[-1] - 1)
    low, high = value_at(np.floor(positions)), value_at(np.ceil(positions))
    return {
        str(q): float(v)
        for q, v in zip(
            _QUANTILES, low + (high - low) * (positions - np.floor(positions)), strict=True
        )
    }


def check_counts(
    counts: dict[str, int],
    max_bad_fraction: float,
    settings: TaskSettings,
    explain: Callable[[Mapping[str, int]], str] = lambda invalid: "",
    interactions: Sequence[str] = (),
) -> dict[str, Any]:
    """Checks the counts of rows.

    Args:
        counts: Counts by name.
        max_bad_fraction: Largest share of invalid rows.
        settings: The settings of the run.
        explain: Text that explains the reasons of invalid rows, for errors.
        interactions: The files that were read, for errors.

    Returns:
        ``{"read", "used", "skipped": {reason: rows}}``.

    Raises:
        LimamlError: The run must not be published.
    """
    skipped = quality.counts_under(counts, "skipped:")
    read, used = counts.get("rows_read", 0), counts.get("rows_used", 0)
    invalid = {name: n for name, n in skipped.items() if name not in (DUPLICATE, OUTSIDE, ERASED)}
    errors = quality.counts_under(invalid, ERROR)
    if errors:
        raise LimamlError(
            f"{sum(errors.values())} of {read} rows have invalid values for which the schema says "
            f"on_invalid: error: {errors}"
            f"{explain(errors)}"
        )
    if sum(invalid.values()) > max_bad_fraction * read:
        raise LimamlError(
            f"{sum(invalid.values())} of {read} rows are invalid, more than the allowed share "
            f"{max_bad_fraction} (--max-bad-fraction of limaml prepare, --max-bad-rows of limaml "
            f"refresh): {invalid}{explain(invalid)}"
        )
    if not read:
        raise LimamlError(
            f"the files of interactions have no rows{_files(interactions)}; give files with rows"
        )
    if not used:
        raise LimamlError(
            f"no usable row among the {read} read (skipped: {skipped}){_dates(settings)}; check "
            "the files, the split dates or the window"
        )
    if read != used + sum(skipped.values()):
        raise LimamlError(
            f"rows do not add up: read {read}, used {used}, skipped {skipped}; this is a defect, "
            "please report it"
        )
    return {"read": read, "used": used, "skipped": skipped}


def _files(paths: Sequence[str]) -> str:
    """Text with the first of some files; "" without any."""
    others = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f": {paths[0]}{others}" if paths else ""


def _dates(settings: TaskSettings) -> str:
    """Text for the dates that rows must lie within; empty if all dates are allowed."""
    limits = []
    if settings.first != FAR_PAST:
        limits.append(f"from {np.datetime64(settings.first, 'ms')}")
    if settings.last != FAR_FUTURE:
        limits.append(f"before {np.datetime64(settings.last, 'ms')}")
    return f"; rows are used {' and '.join(limits)}" if limits else ""


def check_splits(summary: SplitSummary, settings: TaskSettings) -> None:
    """Raises `LimamlError` if a split is empty: its dates are outside the data, or tasks short.

    Without validation rows there may be no test rows either.
    """
    required = PARTS if settings.has_validation else PARTS[:1]
    empty = [name for name, rows in zip(required, summary.rows, strict=False) if not rows]
    if empty and not settings.recent_only:
        spans = {
            name: (part["first"], part["last"])
            for name, part in summary.describe().items()
            if part["rows"]
        }
        remedy = "correct the split dates"
        if settings.task_shares is not None:
            shares = ",".join(f"{share:g}" for share in settings.task_shares)
            remedy = f"choose other shares than {shares} (--split-per-task), or a split by date"
        raise LimamlError(
            f"no rows in {' and '.join(empty)}; the data hold {spans}: {remedy}, or give "
            "--recent-only"
        )


def check_label(schema: Schema, summary: SplitSummary, settings: TaskSettings) -> None:
    """Raises `LimamlError` if a binary label has one value in all rows.

    A daily job may have one class only: it does not train.
    """
    rates = {part["label_rate"] for part in summary.describe().values() if part["rows"]}
    if schema.label.kind == "binary" and not settings.recent_only and rates in ({0.0}, {1.0}):
        raise LimamlError(
            f"label {schema.label.name!r} has one value only ({rates.pop():g} in all "
            f"{sum(summary.rows)} rows): there is nothing to learn; is it the right column?"
        )


def make_card(
    schema: Schema,
    settings: TaskSettings,
    rows: dict[str, Any],
    summary: SplitSummary,
    report: Mapping[str, Any],
) -> dict[str, Any]:
    """The contents of data_card.json; `report` is what the pipeline has counted and measured."""
    counts, sizes, feature_drift = (report[name] for name in ("counts", "sizes", "drift"))
    splits = summary.describe()
    input_quality = quality.describe(counts, summary, settings)
    if settings.recent_only:
        input_quality[UNREADABLE_VALUES] = report[UNREADABLE_VALUES]
    return {
        "name": schema.name,
        "schema_fingerprint": schema.fingerprint(),
        "rows": rows,
        "filled": quality.counts_under(counts, FILLED),
        "unknown_keys": quality.counts_under(counts, UNKNOWN_KEY),
        "quality": input_quality,
        "drift": feature_drift,
        "warnings": [
            *quality.warnings(input_quality, schema),
            *drift.warnings(feature_drift),
            *card_warnings.unused_rows(splits, sizes, settings.max_samples),
            *card_warnings.few_tested(sizes),
            *card_warnings.one_class(schema, splits),
            *card_warnings.low_coverage(schema, report["statistics"]),
        ],
        "splits": splits,
        "tasks": sizes,
        "history": _history_files(schema, settings, summary),
        "settings": {
            **dataclasses.asdict(settings),
            "prior": summary.prior(settings),  # updates smooth towards the same
            "erased": len(settings.erased),
        },
    }


def _history_files(
    schema: Schema, settings: TaskSettings, summary: SplitSummary
) -> dict[str, dict[str, Any]]:
    """The online copies of history features: paths, and the values of keys without rows."""
    empty = {"rate": summary.prior(settings), "count": 0.0, "recency": -1.0}
    return {
        stem(h): {
            "path": f"{DIRECTORY}/{stem(h)}.parquet",
            "keys": list(h.keys),
            "as_of": summary.history_end(settings),
            "without_rows": {name: empty[value] for value, name in h.names().items()},
        }
        for h in schema.history
    }
