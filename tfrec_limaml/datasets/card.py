"""The data card: key figures of a data set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tfrec_limaml.datasets import card_warnings
from tfrec_limaml.datasets.date_split import parts_of_rows
from tfrec_limaml.datasets.raw import RawData
from tfrec_limaml.datasets.typed_columns import out_of_range
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.schema import Schema, parse_time
from tfrec_limaml.tasks.folder import DATA_CARD_FILE, PARTS
from tfrec_limaml.wording import utc_text

QUANTILES = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "q90": 0.9, "max": 1.0}


def data_card(
    raw: RawData, invalid: Mapping[str, Mapping[str, int]] | None = None
) -> dict[str, Any]:
    """Computes the card of a conformed data set.

    Args:
        raw: Canonical data, with a split in the schema.
        invalid: Column to kind to number of invalid values, as
            `tfrec_limaml.datasets.conform.conform` returns them.

    Returns:
        A mapping of JSON types. ``tasks``, ``samples_per_task`` and
        ``share_of_test_tasks_with_history`` are for the default task definition; ``definitions``
        has them for each.
    """
    schema, frame = raw.schema, raw.interactions
    label = frame[schema.label.name]
    label = label[~out_of_range(label, schema.label)]
    definitions = {name: _definition(schema, frame, name) for name in schema.tasks}
    card: dict[str, Any] = {
        "name": schema.name,
        "rows": len(frame),
        "duplicates_dropped": int(raw.dropped.get("exact duplicate", 0)),
        "dropped": dict(raw.dropped),
        "invalid": {column: dict(counts) for column, counts in (invalid or {}).items()},
        "label": schema.label.name,
        ("label_rate" if schema.label.kind == "binary" else "label_mean"): round(
            float(label.mean()), 6
        ),
        **definitions[schema.default_task],
        "definitions": definitions,
        "time_span": [utc_text(int(time)) for time in frame[schema.timestamp].agg(["min", "max"])],
        "split": {
            "rows": _split_rows(schema, frame),
            **_declared(schema),
        },
        "tables": {name: len(table) for name, table in raw.tables.items()},
        "source": dict(raw.source),
    }
    card["warnings"] = card_warnings.warnings(schema, frame, card)
    return card


def stored(folder: Path) -> dict[str, Any]:
    """The card of a prepared folder; empty if there is none."""
    path = folder / DATA_CARD_FILE
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise SchemaError(f"cannot read {path}: {error}; prepare the data set again") from error


def _definition(schema: Schema, frame: pd.DataFrame, name: str) -> dict[str, Any]:
    groups = frame.groupby(list(schema.tasks[name]), sort=False)[schema.timestamp]
    sizes = groups.size()
    quantiles = sizes.quantile(list(QUANTILES.values()), interpolation="lower")
    result: dict[str, Any] = {
        "tasks": len(sizes),
        "samples_per_task": {
            label: int(value) for label, value in zip(QUANTILES, quantiles, strict=True)
        },
    }
    if schema.split is not None and schema.split.per_task is None:
        test_start = parse_time(schema.split.starts()[1])
        tested = groups.max() >= test_start
        has_history = groups.min() < test_start
        result["test_tasks"] = int(tested.sum())
        result["share_of_test_tasks_with_history"] = round(
            float((tested & has_history).sum() / max(int(tested.sum()), 1)), 6
        )
    return result


def _split_rows(schema: Schema, frame: pd.DataFrame) -> dict[str, int]:
    if schema.split is None:
        return {}
    parts = parts_of_rows(schema, frame)
    return {name: int((parts == number).sum()) for number, name in enumerate(PARTS)}


def _declared(schema: Schema) -> dict[str, Any]:
    if schema.split is None:
        return {}
    if schema.split.per_task is not None:
        return {"per_task": list(schema.split.per_task)}
    return dict(zip(("validation_start", "test_start"), schema.split.starts(), strict=True))
