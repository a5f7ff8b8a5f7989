"""Guesses a first schema from a file, for the user to check."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import pandas as pd

from tfrec_limaml.datasets import columns
from tfrec_limaml.datasets.column_names import is_id, is_time, without_id
from tfrec_limaml.datasets.column_shapes import (
    is_vector,
    nested_type,
    time_unit,
)
from tfrec_limaml.datasets.date_split import split_by_quantile
from tfrec_limaml.datasets.guess_feature import (
    constant_within,
    guess_feature,
)
from tfrec_limaml.datasets.leaks import one_label_remark
from tfrec_limaml.datasets.text_remarks import whole_floats
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.schema import RESERVED_NAMES, Feature, Label, Schema

_LABEL_NAMES = r"^(label|target|y|clicked|is_click|click|liked|converted|rating)$"
_LABEL_PARTS = r"click|label|target|conver|like|purchase|view|response|outcome"
_TASK_PARTS = (
    "user|member|customer|client|account|person|visitor|session|student|learner|player|subscriber|"
    "listener|reader|viewer"
)


@dataclasses.dataclass(frozen=True)
class Guess:
    """A schema, and remarks on what to check."""

    schema: Schema
    checks: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """The columns that the user names; those that are None are guessed."""

    label: str | None = None
    timestamp: str | None = None
    task: str | None = None

    def check(self, frame: pd.DataFrame) -> None:
        """Raises `SchemaError` for a column that the file does not have."""
        for option, column in vars(self).items():
            if column is not None and column not in frame.columns:
                raise SchemaError(
                    f"--{option} {column!r} is no column of the file; there are "
                    f"{list(map(str, frame.columns))}"
                )


def guess_schema(frame: pd.DataFrame, name: str, known: Known | None = None) -> Guess:
    """Guesses label, timestamp, task key and the features' encodings.

    Args:
        frame: Interactions as read.
        name: Name of the schema.
        known: Columns that need not be guessed; None to guess all.

    Raises:
        SchemaError: No column looks like a label, a time or a task key; the message says which.
    """
    known = known or Known()
    known.check(frame)
    nested = {str(c): kind for c in frame if (kind := nested_type(frame[c])) is not None}
    frame = frame.drop(columns=list(nested))
    if len(frame.columns) == 1:
        raise SchemaError(
            f"the file has one column only, {str(frame.columns[0])[:200]!r}; if another character "
            "separates its cells, pass it as --delimiter"
        )
    label = _label(frame, known.label)
    times = _times(frame, label.name, known.timestamp)
    task = known.task or _task(frame, {label.name, *times})
    timestamp = _best_time(frame, list(times), task)
    unit = times.pop(timestamp)
    others = f" Other times: {', '.join(times)}" if times else ""
    checks = [
        f"label: {label.name} ({label.kind}) - is this the outcome to predict?{_advice(label)}",
        f"timestamp: {timestamp} (unit {unit}) - the time of the interaction, known before its "
        f"outcome?{others}",
        f"task key: {task} - adapt the model once per value?",
        "history: none - past rates and counts are strong features of any model; add "
        f"`history: [{{keys: [{task}], encoding: quantiles}}]`, and IDs of items in the same way",
    ]
    checks += [
        f"left out: {name} holds {kind}, which cannot be a feature" for name, kind in nested.items()
    ]
    features, remarks = _features(frame, label.name, timestamp, task)
    checks += [*remarks, *_remark_on_key(frame[task], task)]
    milliseconds, _ = columns.to_milliseconds(frame[timestamp], unit)
    schema = Schema(
        name=re.sub(r"\W+", "-", name).strip("-") or "own",
        label=label,
        timestamp=timestamp,
        timestamp_unit=unit,
        tasks={without_id(task): (task,)},
        features=tuple(features),
        split=split_by_quantile(milliseconds.dropna()),
    )
    return Guess(schema, tuple(checks))


def _features(
    frame: pd.DataFrame, label: str, timestamp: str, task: str
) -> tuple[list[Feature], list[str]]:
    """The other columns as features, at least one of them a meta feature; and remarks."""
    features: list[Feature] = []
    checks: list[str] = []
    for column in frame.columns:
        if column in RESERVED_NAMES - {label, timestamp, task}:
            checks.append(
                f"left out: {column} is a reserved name in records and requests; rename the column "
                "if it is a feature"
            )
        elif column not in (label, timestamp, task):
            feature, remark = guess_feature(frame, str(column), label, task)
            features += [feature] if feature is not None else []
            one_label = one_label_remark(frame[column], frame[label]) if feature is not None else ""
            checks += [text for text in (remark, one_label) if text]
    if not any(f.role == "meta" for f in features):
        features.insert(0, identity(task))
        checks.append(
            f"no column is constant within {task}, so the key itself became the only meta feature; "
            "columns that describe the task, if you have any, serve new tasks better"
        )
    return features, checks


def identity(task: str) -> Feature:
    """The task key itself as a meta feature."""
    return Feature(
        name=task, role="meta", dtype="string", encoding="hash", buckets=16384, embedding_width=16
    )


def _label(frame: pd.DataFrame, known: str | None) -> Label:
    numbers = {
        str(c): columns.to_float32(frame[c])[0]
        for c in frame.columns
        if not is_vector(frame[c]) and known in (None, c)
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
        is_rating = known == column or re.search(r"rating|score|stars", column.lower())
        if column not in binary and is_rating and values.notna().mean() > 0.9:
            return Label(
                name=column,
                kind="regression",
                minimum=float(values.min()),
                maximum=float(values.max()),
            )
    if binary:
        return Label(name=binary[0])
    if known is not None:
        raise SchemaError(
            f"the label {known!r} has values such as {_examples(frame[known])}: write 1 and 0, or "
            "numbers, in at least nine tenths of the rows"
        )
    raise SchemaError(
        f"no column looks like a label (0 and 1, or true and false, or a column named rating, "
        f"with at most a tenth of other or missing values) among {list(numbers)}; name it with "
        "--label, or add such a column"
    )


def _examples(series: pd.Series) -> str:
    """Some values of a column, for an error."""
    values = list(map(str, series.dropna().unique()[:3]))
    return ", ".join(map(repr, values)) or "none"


def _advice(label: Label) -> str:
    if label.kind == "binary":
        return ""
    return (
        " `limaml train`, diagnose and compare need a label of 0 and 1: add a column, such as "
        f"whether {label.name} is high"
    )


def _times(frame: pd.DataFrame, label: str, known: str | None) -> dict[str, str]:
    """The units of the columns that may be the timestamp, best first."""
    names = [str(c) for c in frame.columns if c != label and not is_vector(frame[c])]
    names = [column for column in names if known in (None, column)]
    units = {c: time_unit(frame[c]) for c in sorted(names, key=lambda c: not is_time(c))}
    times = {
        column: unit
        for column, unit in units.items()
        if unit is not None and (unit == "iso" or is_time(column) or column == known)
    }
    if not times and known is not None:
        raise SchemaError(
            f"the timestamp {known!r} has values such as {_examples(frame[known])}: write seconds "
            "to nanoseconds since 1970, or ISO 8601 text such as 2024-03-01T10:00:00Z"
        )
    if not times:
        raise SchemaError(
            "no column looks like a time (seconds to nanoseconds since 1970, or ISO 8601 text) "
            f"among {names}{_named_like_times(frame, names)}; name it with --timestamp, or convert "
            "it to one of these forms"
        )
    return times


def _named_like_times(frame: pd.DataFrame, names: Sequence[str]) -> str:
    """Values of the first column whose name says that it is a time; "" without one."""
    for name in filter(is_time, names):
        return f" ({name!r} has values such as {_examples(frame[name])})"
    return ""


def _remark_on_key(keys: pd.Series, task: str) -> list[str]:
    remark = whole_floats(keys)
    return [f"task key: {task} {remark}"] if remark else []


def _best_time(frame: pd.DataFrame, times: Sequence[str], task: str) -> str:
    """The first time that differs within tasks: others, such as a birthday, describe the task."""
    of_rows = [column for column in times if not constant_within(frame[column], frame[task])]
    return (of_rows or times)[0]


def _task(frame: pd.DataFrame, excluded: set[str]) -> str:
    candidates = [str(c) for c in frame.columns if c not in excluded and not is_vector(frame[c])]
    rules = (
        lambda c: re.search(rf"({_TASK_PARTS}).*(id|key)$", c, re.IGNORECASE),
        lambda c: re.search(rf"^({_TASK_PARTS})$", c, re.IGNORECASE),
        is_id,
        lambda c: c.lower().endswith("id"),
    )
    for rule in rules:
        for column in candidates:
            if rule(column) and 1 < frame[column].nunique() < len(frame):
                return column
    raise SchemaError(
        "no column looks like a task key (named user_id, member_id, ..., with several values that "
        f"occur in several rows) among {candidates}; name it with --task"
    )
