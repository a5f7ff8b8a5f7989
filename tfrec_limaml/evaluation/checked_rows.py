"""Checks scored rows before they are measured; errors name the column, the value and the remedy."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from tfrec_limaml.arrays import Array, Mask
from tfrec_limaml.errors import LimamlError

#: Columns that are needed, with what they hold.
_REQUIRED = {
    "label": "0 or 1",
    "probability": "a model's probability of the label 1",
    "task_key": "the key of the row's task",
    "history": "the number of samples in the task's support set; zeros if it is not known",
}
#: Columns that may be left out.
_TIMES = ("timestamp", "last_seen")


def checked_rows(rows: Mapping[str, Any], reference: Any, trained_keys: Any) -> dict[str, Array]:
    """The known columns of `rows` as arrays ``[N]``, with `reference` unless it is None.

    Args:
        rows: Columns, arrays or lists; see `tfrec_limaml.evaluation.measure`.
        reference: Another model's probabilities, or None.
        trained_keys: Task keys, or None.

    Raises:
        LimamlError: A column is missing, has another form or length or an impossible value, or keys
            are of several types.
    """
    _require_columns(rows)
    given = {name: rows[name] for name in (*_REQUIRED, *_TIMES) if name in rows}
    if reference is not None:
        given["reference"] = reference
    columns = {name: _one_dimensional(name, values) for name, values in given.items()}
    if not len(columns["label"]):
        raise LimamlError(
            "there are no query rows to evaluate; check the split dates of the schema"
        )
    _require_equal_lengths(columns)
    for name in columns.keys() - {"task_key"}:
        columns[name] = _numbers(name, columns[name])
    _check_values(columns)
    columns |= {name: columns[name].astype(np.int64) for name in _TIMES if name in columns}
    _require_one_type(columns["task_key"], trained_keys)
    return columns


def _require_columns(rows: Mapping[str, Any]) -> None:
    if "probability" not in rows:
        raise LimamlError(
            "evaluation needs the column 'probability' of a model for binary labels, received "
            f"{sorted(rows)}"
        )
    for name, meaning in _REQUIRED.items():
        if name not in rows:
            raise LimamlError(
                f"evaluation needs the column {name!r} ({meaning}), received {sorted(rows)}"
            )


def _one_dimensional(name: str, values: Any) -> Array:
    # Arrays of NumPy would cut zero bytes from the end of keys, so lists of keys stay objects.
    is_list = name == "task_key" and not isinstance(values, np.ndarray)
    array = np.asarray(values, object) if is_list else np.asarray(values)
    if array.ndim != 1:
        remedy = "; pass its [:, 0]" if array.ndim == 2 and array.shape[1] == 1 else ""
        raise LimamlError(
            f"column {name!r} must have the shape [N], one value per row, received "
            f"{list(array.shape)}{remedy}"
        )
    return array


def _require_equal_lengths(columns: Mapping[str, Array]) -> None:
    rows = len(columns["label"])
    for name, values in columns.items():
        if len(values) != rows:
            raise LimamlError(
                f"column {name!r} has {len(values)} values and 'label' has {rows}; pass one value "
                "per row, in the same order"
            )


def _numbers(name: str, values: Array) -> Array:
    """Numbers; those of an array of objects, and booleans, are converted. Times are in ms."""
    if values.dtype.kind in "iuf":
        return values
    if values.dtype.kind == "M" and name in _TIMES:
        milliseconds = values.astype("datetime64[ms]").astype(np.float64)
        return np.where(np.isnat(values), np.nan, milliseconds)
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError) as error:
        row = next(row for row, value in enumerate(values) if not _is_number(value))
        raise LimamlError(
            f"column {name!r} must hold numbers, received {str(values[row])!r} in row {row}; "
            "convert it"
        ) from error


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _check_values(columns: Mapping[str, Array]) -> None:
    label, history = columns["label"], columns["history"]
    _require("label", label, (label == 0) | (label == 1), "0 or 1", "convert the labels")
    for name in ("probability", "reference"):
        if name in columns:
            _check_probabilities(name, columns[name])
    _require("history", history, history >= 0, "numbers of samples", "pass zeros if not known")
    for name in _TIMES:
        if name in columns:
            times = columns[name]
            right = np.isfinite(times) & (times == np.floor(times))
            _require(name, times, right, "whole milliseconds", "convert them")


def _check_probabilities(name: str, values: Array) -> None:
    if missing := int(np.isnan(values).sum()):
        raise LimamlError(
            f"column {name!r}: {missing} of {len(values)} scores are not numbers (NaN): training "
            "has diverged, or features hold huge values; lower the learning rates, or check the "
            "features"
        )
    inside = (values >= 0) & (values <= 1)
    _require(name, values, inside, "probabilities from 0 to 1", "pass logits through a sigmoid")


def _require(name: str, values: Array, right: Mask, what: str, remedy: str) -> None:
    if not right.all():
        row = int(np.argmin(right))
        raise LimamlError(
            f"column {name!r} must hold {what}, received {values[row]!s} in row {row} "
            f"({int((~right).sum())} such values in {len(values)} rows); {remedy}"
        )


def _require_one_type(keys: Array, trained_keys: Collection[Any] | None) -> None:
    of_rows = _types(keys)
    if len(of_rows) > 1:
        raise LimamlError(
            f"column 'task_key' must hold keys of one type, received {_listed(of_rows)}; convert "
            "them all to one"
        )
    of_trained = {} if trained_keys is None else _types(trained_keys)
    if of_trained and of_trained.keys() != of_rows.keys():
        raise LimamlError(
            f"the keys of 'trained_keys' must be of the type of 'task_key', received "
            f"{_listed(of_trained)} and {_listed(of_rows)}; convert them (text to bytes: "
            "key.encode(), and task_keys reads them as bytes)"
        )


def _types(keys: Iterable[Any]) -> dict[str, Any]:
    """A key of each type; all numbers, and all texts, are of one."""
    families: dict[str, Any] = {}
    for kind, key in {type(key): key for key in keys}.items():
        family = next((f for f in (bytes, str) if issubclass(kind, f)), kind)
        is_number = issubclass(kind, int | float | np.number) and kind is not bool
        name = "number" if is_number else family.__name__
        families[name] = key.item() if isinstance(key, np.generic) else key
    return families


def _listed(types: Mapping[str, Any]) -> str:
    return " and ".join(f"{name} ({key!r})" for name, key in types.items())
