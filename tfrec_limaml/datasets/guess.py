"""Draws a first schema from a file: a guess to be checked, never a verdict."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd
import pyarrow as pa

from tfrec_limaml.datasets import columns
from tfrec_limaml.datasets.conform import split_by_quantile
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema import column_values
from tfrec_limaml.schema.schema import DType, Feature, Label, Role, Schema

_LABEL_NAMES = r"^(label|target|y|clicked|is_click|click|liked|converted|rating)$"
_OUTCOME_PARTS = r"click|conver|like|purchase|view|follow|comment|forward|share|hate|stay|dwell|play_time|watch|response|outcome"  # noqa: E501
_LABEL_PARTS = r"click|label|target|conver|like|purchase|view|response|outcome"
_TIME_PARTS = r"time|date|(^|_)ts($|_)|moment|created|(^|_)at$"
_DATE = r"(^|_)date$|^date"
_TASK_PARTS = r"user|member|customer|client|account|person|visitor|session"
_ID_PARTS = r"(^|_)id$|[a-z]Id$"
#: A feature that alone ranks the label this well is almost surely known only afterwards.
_TOO_GOOD = 0.95
_FEW, _MANY = 50, 20_000  # distinct values: one-hot below, hashed above


@dataclasses.dataclass(frozen=True)
class Guess:
    """A schema and what to check about it."""

    schema: Schema
    checks: tuple[str, ...]


def guess_schema(frame: pd.DataFrame, name: str) -> Guess:
    """Guesses label, timestamp, task key and the features' encodings.

    Args:
        frame: Interactions as read.
        name: For the schema.

    Raises:
        SchemaError: No column looks like a label, a time or a task key; the message says which.
    """
    nested = {str(c): kind for c in frame if (kind := _nested_type(frame[c])) is not None}
    frame = frame.drop(columns=list(nested))
    label = _label(frame)
    timestamp, unit = _timestamp(frame, label.name)
    task = _task(frame, {label.name, timestamp})
    checks = [
        f"label: {label.name} ({label.kind}) - is this what is to be predicted?",
        f"timestamp: {timestamp} (unit {unit}) - the moment of the interaction, known before its "
        "outcome?",
        f"task key: {task} - one model adaptation per value of it?",
    ]
    checks += [
        f"left out: {name} holds {kind}, which is no feature" for name, kind in nested.items()
    ]
    features = []
    for column in frame.columns:
        if column not in (label.name, timestamp, task):
            feature, remark = _feature(frame, str(column), label.name, task)
            features += [feature] if feature is not None else []
            checks += [remark] if remark else []
    if not any(f.role == "meta" for f in features):
        features.insert(
            0,
            Feature(
                name=task,
                role="meta",
                dtype="string",
                encoding="hash",
                buckets=16384,
                embedding_width=16,
            ),
        )
        checks.append(
            f"no column is constant within {task}, so the key itself became the only meta feature "
            "(an ID embedding)"
        )
    times, _ = columns.to_milliseconds(frame[timestamp], unit)
    schema = Schema(
        name=re.sub(r"\W+", "-", name).strip("-") or "own",
        label=label,
        timestamp=timestamp,
        timestamp_unit=unit,
        tasks={re.sub(_ID_PARTS, "", task).strip("_") or task: (task,)},
        features=tuple(features),
        split=split_by_quantile(times.dropna()),
    )
    return Guess(schema, tuple(checks))


def _is_text(series: pd.Series) -> bool:
    return bool(pd.api.types.is_string_dtype(series.dtype) or series.dtype == object)


def _label(frame: pd.DataFrame) -> Label:
    numbers = {
        str(c): columns.to_float32(frame[c])[0] for c in frame.columns if not _is_vector(frame[c])
    }
    binary = [
        c
        for c, v in numbers.items()
        if v.notna().any() and v.notna().mean() > 0.9 and v.dropna().isin([0.0, 1.0]).all()
    ]
    for pattern in (_LABEL_NAMES, _LABEL_PARTS):
        for column in binary:
            if re.search(pattern, column.lower()):
                return Label(name=column)
    for column, values in numbers.items():
        if re.search(r"rating|score|stars", column.lower()) and values.notna().mean() > 0.9:
            return Label(
                name=column,
                kind="regression",
                minimum=float(values.min()),
                maximum=float(values.max()),
            )
    if binary:
        return Label(name=binary[0])
    raise SchemaError(
        f"no column looks like a label (values 0 and 1, or a rating) among {list(numbers)}; write "
        "the schema by hand"
    )


def _timestamp(frame: pd.DataFrame, label: str) -> tuple[str, str]:
    names = [str(c) for c in frame.columns if c != label and not _is_vector(frame[c])]
    for column in sorted(names, key=lambda c: re.search(_TIME_PARTS, c.lower()) is None):
        unit = _time_unit(frame[column])
        if unit is not None and (unit == "iso" or re.search(_TIME_PARTS, column.lower())):
            return column, unit
    raise SchemaError(
        "no column looks like a time (seconds to nanoseconds since 1970, or ISO 8601 text) among "
        f"{names}; write the schema by hand"
    )


def _time_unit(series: pd.Series) -> str | None:
    kind = columns.arrow(series.head(1)).type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "iso"
    numbers = pd.Series(column_values.as_floats(columns.arrow(series)))
    if numbers.notna().mean() > 0.9:
        middle = float(numbers.median())
        return next(
            (
                unit
                for unit, low in (("ns", 1e17), ("us", 1e14), ("ms", 1e11), ("s", 1e8))
                if middle > low
            ),
            None,
        )
    if not _is_text(series):
        return None
    moments, _ = columns.to_milliseconds(series, "iso")
    return "iso" if moments.notna().mean() > 0.9 else None


def _task(frame: pd.DataFrame, taken: set[str]) -> str:
    candidates = [str(c) for c in frame.columns if c not in taken and not _is_vector(frame[c])]
    for pattern in (rf"({_TASK_PARTS}).*(id|key)$", rf"^({_TASK_PARTS})$", _ID_PARTS):
        for column in candidates:
            if re.search(pattern, column, re.IGNORECASE) and 1 < frame[column].nunique() < len(
                frame
            ):
                return column
    raise SchemaError(
        f"no column looks like a task key (user_id, member_id, ...) among {candidates}; write the "
        "schema by hand"
    )


def _feature(frame: pd.DataFrame, column: str, label: str, task: str) -> tuple[Feature | None, str]:
    series = frame[column]
    mark = _list_separator(series)
    if mark is not None:
        series = columns.to_string(series, mark)[0]
    if _is_vector(series):
        width = int(series.dropna().map(len).mode().iloc[0])
        return Feature(name=column, width=width), ""
    distinct = series.nunique()
    if distinct <= 1:
        return None, f"left out: {column} is constant"
    role: Role = "meta" if _constant_within(series, frame[task]) else "other"
    if mark is not None:
        return _several(column, mark, role), ""
    numbers, counts = columns.to_float32(series)
    numeric = counts["unparsable"] == 0 and numbers.notna().any()
    if numeric and (rank := _ranking(numbers, columns.to_float32(frame[label])[0])) > _TOO_GOOD:
        return (
            None,
            f"left out: {column} alone ranks {label} with AUC {rank:.3f}; is it known only "
            "afterwards?",
        )
    if numeric and re.search(_OUTCOME_PARTS, column.lower()):
        return (
            None,
            f"left out: {column} looks like another outcome of the same event; add it if it is "
            "known beforehand",
        )
    if re.search(_DATE, column.lower()) or (not numeric and _time_unit(series) is not None):
        return (
            None,
            f"left out: {column} is a second time column; dates of the test period never occur in "
            "training",
        )
    whole = numeric and bool((numbers.dropna() % 1 == 0).all())
    if numeric and not (whole and (distinct <= 20 or re.search(_ID_PARTS, column))):
        skewed = bool((numbers.dropna() >= 0).all()) and float(numbers.quantile(0.99)) > 20 * max(
            float(numbers.median()), 1e-9
        )
        feature = Feature(name=column, role=role, encoding="quantiles")
        return dataclasses.replace(feature, normalise="log") if skewed else feature, ""
    return _category(
        series, column, role, distinct, "int64" if whole and not _is_text(series) else "string"
    ), ""


def _constant_within(series: pd.Series, task: pd.Series) -> bool:
    """Whether a column says something about the task itself: one value in each, but not nearly one
    value in all.
    """
    repeated = task.duplicated(keep=False)
    if not repeated.any() or series.value_counts(normalize=True).iloc[0] > 0.98:
        return False
    return bool(series[repeated].groupby(task[repeated]).nunique().le(1).mean() > 0.99)


def _category(series: pd.Series, column: str, role: Role, distinct: int, dtype: DType) -> Feature:
    separator = _separator(series, distinct) if dtype == "string" else None
    if separator is not None:
        return _several(column, separator, role)
    if distinct <= _FEW:
        return Feature(
            name=column, role=role, dtype=dtype, encoding="vocabulary", max_vocabulary=distinct
        )
    if distinct <= _MANY:
        return Feature(
            name=column,
            role=role,
            dtype=dtype,
            encoding="vocabulary",
            max_vocabulary=distinct,
            embedding_width=16,
        )
    return Feature(
        name=column, role=role, dtype=dtype, encoding="hash", buckets=1 << 16, embedding_width=16
    )


def _several(column: str, separator: str, role: Role) -> Feature:
    return Feature(
        name=column,
        role=role,
        dtype="string",
        encoding="vocabulary",
        max_vocabulary=1000,
        embedding_width=16,
        separator=separator,
    )


def _list_separator(series: pd.Series) -> str | None:
    """The separator for a column of lists of texts, or of integers of several lengths: one that no
    value holds; None for other columns, and where every candidate occurs.
    """
    kind = columns.arrow(series).type if series.dtype == object else pa.null()
    if not pa.types.is_list(kind) or not _is_several(kind.value_type, series):
        return None
    values = columns.to_string(series.explode().dropna())[0].dropna()
    marks = ("|", ",", ";", "\x1f")
    return next((m for m in marks if not values.str.contains(m, regex=False).any()), None)


def _is_several(kind: pa.DataType, series: pd.Series) -> bool:
    if pa.types.is_string(kind):
        return True
    return bool(pa.types.is_integer(kind) and series.dropna().map(len).nunique() > 1)


def _separator(series: pd.Series, distinct: int) -> str | None:
    text = series.dropna().astype(str)
    for mark in ("|", ";", ","):
        if (
            text.str.contains(mark, regex=False).mean() > 0.1
            and text.str.split(mark).explode().nunique() < distinct
        ):
            return mark
    return None


def _nested_type(series: pd.Series) -> str | None:
    """The type of a column whose values are neither single nor vectors of one width."""
    if series.dtype != object:
        return None
    kind = columns.arrow(series).type
    if not pa.types.is_nested(kind):
        return "values of several types" if _has_containers(series) else None
    if _list_separator(series) is not None:
        return None
    numbers = pa.types.is_list(kind) and (
        pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)
    )
    widths = series.dropna().map(len).nunique() if numbers else 0
    return None if widths == 1 else f"values of type {kind}"


def _has_containers(series: pd.Series) -> bool:
    return bool(series.map(lambda v: isinstance(v, list | tuple | dict | np.ndarray)).any())


def _is_vector(series: pd.Series) -> bool:
    return bool(series.dtype == object and _has_containers(series.dropna().head(100)))


def _ranking(values: pd.Series, label: pd.Series) -> float:
    """AUC of a single column, the better of both directions; 0.5 where the label is not binary."""
    known = (values.notna() & label.notna()).to_numpy()
    ranks = values[known].astype("float64").rank().to_numpy()
    positive = label[known].to_numpy(dtype=np.float64) == 1.0
    ups, downs = int(positive.sum()), int((~positive).sum())
    if not ups or not downs or label.dropna().nunique() > 2:
        return 0.5
    area = (ranks[positive].sum() - ups * (ups + 1) / 2) / (ups * downs)
    return float(max(area, 1 - area))
