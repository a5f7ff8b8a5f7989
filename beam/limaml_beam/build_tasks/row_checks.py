"""Checks every input row: valid rows go into a block, all others get a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.unreadable import is_present
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import LABEL, ORDER, TIME, WEIGHT, key_column
from limaml_beam.rows.feature_tables import Tables, owner
from tfrec_limaml.arrays import Mask
from tfrec_limaml.schema import arrow_keys, column_values
from tfrec_limaml.schema.column_numbers import as_floats
from tfrec_limaml.schema.column_times import as_milliseconds, future, implausible, offsets
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.store.erasure import Tombstones

#: Sets the reason why the rows of a mask are left out, unless they have a reason.
Reject: TypeAlias = Callable[[Mask, str], None]

ERROR = "error: "  # prefix of reasons that stop the run before anything is published
OUTSIDE = "outside_dates"
#: Rows of erased tasks, even if they have other defects.
ERASED = "erased"
DUPLICATE = "duplicate"
MALFORMED = "malformed_row"
#: Rows with an implausible time. Outside of the dates they are dead letters, because the time is
#: probably in another unit; otherwise they are used. The count includes times that cannot be read.
IMPLAUSIBLE = "implausible_time"
#: Rows whose time is in the future; they are used.
FUTURE = "future_time"
#: Rows whose time is a text with an offset from UTC, and those without one; they are used.
WITH_OFFSET, WITHOUT_OFFSET = "with_offset", "without_offset"
#: Rows of weight 0; they are used.
WITHOUT_WEIGHT = "weight_0"
#: Prefixes of counts by feature or table. `UNREADABLE` values exist, but are not valid; NaN and
#: blank text count as missing.
FILLED, UNREADABLE, UNKNOWN_KEY = "filled:", "unreadable:", "unknown_key:"


def key_columns(schema: Schema, definitions: tuple[str, ...]) -> tuple[str, ...]:
    """Every column that task definitions, history features or joins are keyed by."""
    columns = [
        *schema.tables.values(),
        *(c for d in definitions for c in schema.task_columns(d)),
        *(c for h in schema.history for c in h.keys),
    ]
    return tuple(dict.fromkeys(columns))


def interaction_columns(schema: Schema, definitions: tuple[str, ...]) -> tuple[str, ...]:
    """Columns that the interaction files must have."""
    keys = [c for c in key_columns(schema, definitions) if owner(schema, c) is None]
    features = [f.name for f in schema.features if f.table is None]
    weight = [] if schema.weight is None else [schema.weight]
    return tuple(
        dict.fromkeys(
            [
                schema.timestamp,
                schema.label.name,
                *weight,
                *schema.carry,
                *schema.tables.values(),
                *keys,
                *features,
            ]
        )
    )


def validate(
    schema: Schema, settings: TaskSettings, tables: Tables, raw: pa.Table
) -> tuple[pa.Table, npt.NDArray[np.object_], dict[str, int]]:
    """Checks every row of a raw table.

    Returns:
        The block of valid rows, the reason for each raw row (``""`` for valid ones), and counts by
        name: ``rows_read``, ``skipped:<reason>``, ``filled:<feature>``, ``unknown_key:<table>``.
    """
    reasons = np.full(raw.num_rows, "", object)
    counts = {"rows_read": raw.num_rows}
    columns: dict[str, pa.Array] = {}

    def reject(mask: Mask, reason: str) -> None:
        if mask.any():  # comparing objects is slow
            reasons[mask & (reasons == "")] = reason

    times = _read_times(schema, raw, columns, counts, reject)
    _read_labels(schema, raw, columns, counts, reject)
    for name in schema.carry:
        columns[name] = pa.array(as_floats(raw[name]), pa.float32())
    rows_by_table = _rows_in_tables(schema, tables, raw, counts)
    filled = _read_features(schema, tables, raw, rows_by_table, columns, counts, reject)
    derived = _read_keys(schema, settings, tables, raw, rows_by_table, columns, reject)
    outside = (times < settings.first) | (times >= settings.last)
    reject(outside & implausible(times), IMPLAUSIBLE)
    reject(outside, OUTSIDE)
    if settings.erased:
        reasons[_erased(schema, settings, columns)] = ERASED

    input_columns = [name for name in columns if name not in derived]
    columns[ORDER] = pa.array(_hashes({name: columns[name] for name in input_columns}, filled))
    distinct, numbers = np.unique(reasons[reasons != ""].astype(str), return_counts=True)
    counts.update(
        {f"skipped:{name}": int(number) for name, number in zip(distinct, numbers, strict=True)}
    )
    valid = pa.table(columns).filter(pa.array(reasons == ""))
    return valid, reasons, {name: count for name, count in counts.items() if count}


def _rows_in_tables(
    schema: Schema, tables: Tables, raw: pa.Table, counts: dict[str, int]
) -> dict[str, npt.NDArray[Any]]:
    """Each row's row in each feature table, -1 for unknown keys, which are counted."""
    rows_by_table = {}
    for name, table in tables.items():
        rows_by_table[name] = table.find(arrow_keys.as_keys(raw[schema.tables[name]]))
        counts[UNKNOWN_KEY + name] = int((rows_by_table[name] < 0).sum())
    return rows_by_table


def _read_times(
    schema: Schema,
    raw: pa.Table,
    columns: dict[str, pa.Array],
    counts: dict[str, int],
    reject: Reject,
) -> npt.NDArray[np.int64]:
    """Adds the times to `columns`, and numbers of odd ones to `counts`; returns them."""
    times, bad = as_milliseconds(raw[schema.timestamp], schema.timestamp_unit)
    reject(bad, "invalid_timestamp")
    counts[IMPLAUSIBLE] = int((bad | implausible(times)).sum())
    counts[FUTURE] = int((future(times) & ~bad).sum())
    counts[WITH_OFFSET], counts[WITHOUT_OFFSET] = offsets(
        raw[schema.timestamp], schema.timestamp_unit
    )
    columns[TIME] = pa.array(times)
    return times


def _read_labels(
    schema: Schema,
    raw: pa.Table,
    columns: dict[str, pa.Array],
    counts: dict[str, int],
    reject: Reject,
) -> None:
    """Adds the labels and weights to `columns`, and the number of zero weights to `counts`."""
    labels, bad = column_values.as_label(raw[schema.label.name], schema.label)
    reject(bad, (ERROR if schema.label.on_invalid == "error" else "") + "invalid_label")
    columns[LABEL] = pa.array(labels, pa.float32())
    if schema.weight is not None:
        with np.errstate(over="ignore"):
            weights = as_floats(raw[schema.weight]).astype(np.float32)
        reject(~((weights >= 0) & np.isfinite(weights)), "invalid_weight")
        columns[WEIGHT] = pa.array(weights, pa.float32())
        counts[WITHOUT_WEIGHT] = int((weights == 0).sum())


def _read_features(
    schema: Schema,
    tables: Tables,
    raw: pa.Table,
    rows_by_table: Mapping[str, npt.NDArray[Any]],
    columns: dict[str, pa.Array],
    counts: dict[str, int],
    reject: Reject,
) -> dict[str, Mask]:
    """Adds the features of the interactions to `columns`, and filled values to `counts`.

    Returns:
        The rows in which features of the interactions were filled.
    """
    filled = {}
    for feature in schema.features:
        if feature.table is None:
            columns[feature.name], bad = column_values.as_feature(raw[feature.name], feature)
        else:
            bad = tables[feature.table].invalid(feature, rows_by_table[feature.table])
        if feature.on_invalid == "fill":
            counts[FILLED + feature.name] = int(bad.sum())
            if feature.table is None and bad.any():
                filled[feature.name] = bad
                counts[UNREADABLE + feature.name] = int((bad & is_present(raw[feature.name])).sum())
        else:
            reject(
                bad,
                (ERROR if feature.on_invalid == "error" else "")
                + f"invalid_feature:{feature.name}",
            )
    return filled


def _hashes(columns: Mapping[str, pa.Array], filled: Mapping[str, Mask]) -> npt.NDArray[np.uint64]:
    """A hash of each row's values, in which a filled value differs from the same one given."""
    hashes = columnar.mix_hashes([columnar.stable_hash(values) for values in columns.values()])
    for name, mask in filled.items():
        (of_name,) = columnar.stable_hash(pa.array([name]))
        hashes = np.where(mask, hashes ^ of_name, hashes)
    return hashes


def _read_keys(
    schema: Schema,
    settings: TaskSettings,
    tables: Tables,
    raw: pa.Table,
    rows_by_table: Mapping[str, npt.NDArray[Any]],
    columns: dict[str, pa.Array],
    reject: Reject,
) -> set[str]:
    """Adds the columns of task keys to `columns`; returns those that come from a feature table."""
    joined = {f.name: (f, f.table) for f in schema.features if f.table is not None}
    separators = {f.name: f.separator for f in schema.features}
    for name in key_columns(schema, settings.definitions):
        if name in joined:
            feature, table = joined[name]
            text = arrow_keys.as_keys(tables[table].column(feature, rows_by_table[table]))
        else:
            text = arrow_keys.as_keys(column_values.join_lists(raw[name], separators.get(name)))
        if any(name in schema.task_columns(d) for d in settings.definitions):
            reject(np.asarray(pc.is_null(text)), f"missing_key:{name}")
        columns[key_column(name)] = pc.fill_null(text, "")
    for definition in settings.definitions:
        keys = arrow_keys.join_keys(
            [columns[key_column(name)] for name in schema.task_columns(definition)]
        )
        reject(~arrow_keys.fits(keys), f"key_too_long:{definition}")
    return set(map(key_column, joined))


def _erased(schema: Schema, settings: TaskSettings, columns: Mapping[str, pa.Array]) -> Mask:
    """Which rows belong to erased tasks of any definition; see `Schema.key_prefixes`."""
    tombstones = Tombstones(settings.erased)
    mask = np.zeros(len(columns[TIME]), np.bool_)
    for definition, prefix in schema.key_prefixes(settings.definitions).items():
        parts = [columns[key_column(name)] for name in schema.task_columns(definition)]
        codes, distinct = columnar.codes_of(arrow_keys.join_keys(parts))
        keys = [f"{prefix}{key}".encode() for key in distinct.to_pylist()]
        mask |= tombstones.matches(keys)[codes]
    return mask
