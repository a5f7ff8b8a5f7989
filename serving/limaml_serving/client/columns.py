"""Converts a member and candidates to checked columns, without Python code per numeric row."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from limaml_serving.client.feature_reader import Column, FeatureReader, all_finite
from limaml_serving.client.task_keys import TaskKeys, task_keys_of
from limaml_serving.errors import RequestError, quote
from tfrec_limaml.schema.schema import Feature

# Types that have a length, but are a single value.
_SINGLE = frozenset({str, bytes, np.str_, np.bytes_})

Candidates = Mapping[str, Any] | Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """One checked request: a member and N candidates.

    Attributes:
        count: Number of candidates ``N``.
        columns: One for each of the model's features, in their order, with 1 row (the member's) or
            N rows (the candidates').
        keys: The task keys under each of the model's task definitions, that of its records first.
        filled: Features with values that the schema's default value replaced.
    """

    count: int
    columns: Sequence[Column]
    keys: tuple[TaskKeys, ...]
    filled: tuple[str, ...]


class RowReader:
    """Checks requests against one model's inputs; made once per model version.

    Names that the schema does not know are ignored, so that candidates may carry their own
    identifiers.

    Args:
        features: The model's inputs.
        key_columns: The columns of the task key, for each task definition.
        prefixes: The prefix of the keys in the store, for each; empty by default.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        key_columns: Sequence[Sequence[str]],
        prefixes: Sequence[str] = (),
    ) -> None:
        self._readers = tuple(FeatureReader(feature) for feature in features)
        self._floats = tuple(
            index for index, feature in enumerate(features) if feature.dtype == "float32"
        )
        self._key_columns = tuple(map(tuple, key_columns))
        self._prefixes = tuple(prefixes) or ("",) * len(self._key_columns)
        self._names = frozenset(
            (
                *(name for names in key_columns for name in names),
                *(feature.name for feature in features),
            )
        )

    def example(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """A member and two candidates with an invented value of the right type for every name."""
        first, *later_key_columns = self._key_columns
        candidate_names = {name for names in later_key_columns for name in names}.difference(first)
        member: dict[str, Any] = dict.fromkeys(first, "1")
        candidate: dict[str, Any] = dict.fromkeys(sorted(candidate_names), "1")
        for reader in self._readers:
            feature = reader.feature
            is_member_value = feature.name in first or (
                feature.role == "meta" and feature.name not in candidate_names
            )
            (member if is_member_value else candidate)[feature.name] = reader.example()
        return member, [candidate, dict(candidate)]

    def check_known(self, candidates: Candidates) -> None:
        """Raises `RequestError` if the candidates have no column that the model knows.

        All of them would get the same score.
        """
        candidates = _without_frame(candidates)
        rows = (candidates,) if isinstance(candidates, Mapping) else candidates
        if all(self._names.isdisjoint(row) for row in rows):
            received = sorted({str(name) for row in rows for name in row})
            raise RequestError(
                f"the candidates have no column that the model knows: received {quote(received)}, "
                f"known are {quote(sorted(self._names))}"
            )

    def read(self, member: Mapping[str, Any], candidates: Candidates) -> Rows:
        """One checked request.

        Args:
            member: One value per name.
            candidates: Columns of equal length by name, a pandas DataFrame, or one mapping per
                candidate (slower: it is turned into columns).

        Raises:
            RequestError: A name is given twice or missing, columns differ in length, or a value
                does not fit its feature.
        """
        if not isinstance(member, Mapping):
            remedy = "; give member.to_dict()" if hasattr(member, "to_dict") else ""
            raise RequestError(
                f"member must be a mapping from names to values, received {quote(member)}{remedy}"
            )
        candidate_columns, count = _as_columns(candidates)
        if count == 0:
            return Rows(count=0, columns=(), keys=(), filled=())
        if not member.keys().isdisjoint(candidate_columns) and (
            duplicates := member.keys() & candidate_columns.keys() & self._names
        ):
            raise RequestError(
                f"{sorted(duplicates)[0]!r} is given for the member and for the candidates: give "
                "it once"
            )
        filled: list[str] = []
        columns = self._columns(member, candidate_columns, count, filled)
        keys = tuple(
            [
                task_keys_of(names, member, candidate_columns, count, prefix)
                for names, prefix in zip(self._key_columns, self._prefixes, strict=True)
            ]
        )
        return Rows(count=count, columns=columns, keys=keys, filled=tuple(filled))

    def _columns(
        self,
        member: Mapping[str, Any],
        candidate_columns: Mapping[str, Any],
        count: int,
        filled: list[str],
    ) -> list[Column]:
        """The column of each feature; adds features with replaced values to `filled`."""
        columns: list[Column] = []
        for reader in self._readers:
            name = reader.name
            if name in candidate_columns:
                columns.append(reader.of_candidates(candidate_columns[name], count, filled))
            elif name in member:
                columns.append(reader.of_member(member[name], filled))
            else:
                columns.append(reader.absent(filled))
        # Values are almost always finite: one check covers all columns, and each column is checked
        # only if that check fails.
        if not all_finite([columns[index][1] for index in self._floats]):
            for index in self._floats:
                columns[index] = self._readers[index].with_default(columns[index], filled)
        return columns


def _as_columns(candidates: Candidates) -> tuple[Mapping[str, Any], int]:
    """Columns and the number of candidates."""
    candidates = _without_frame(candidates)
    if isinstance(candidates, Mapping):
        return candidates, _common_length(candidates)
    is_list = hasattr(candidates, "__len__") and not isinstance(candidates, str | bytes)
    if not is_list or not all(isinstance(row, Mapping) for row in candidates):
        raise RequestError(
            "candidates must be a mapping from column names to columns, or a list with one "
            "mapping per candidate, "
            f"received {quote(candidates)}"
        )
    names: dict[str, None] = {}
    for row in candidates:
        names.update(dict.fromkeys(row))
    return {name: [row.get(name) for row in candidates] for name in names}, len(candidates)


def _without_frame(candidates: Any) -> Candidates:
    """The columns of a pandas DataFrame; other candidates unchanged."""
    names = getattr(candidates, "columns", None)
    if names is None or isinstance(candidates, Mapping) or not _are_names(names):
        result: Candidates = candidates
        return result
    if len(set(names)) < len(names):
        raise RequestError(f"the candidates have columns of the same name: {quote(list(names))}")
    return {str(name): candidates[name] for name in names}


def _are_names(columns: Any) -> bool:
    """Whether the `columns` of a table are names, as in pandas, and not arrays."""
    return all(isinstance(column, Hashable) for column in columns)


def _common_length(columns: Mapping[str, Any]) -> int:
    if _SINGLE.isdisjoint(map(type, columns.values())):
        try:
            lengths = set(map(len, columns.values()))
        except TypeError:
            lengths = set()
        if len(lengths) == 1:
            return lengths.pop()
    scalars = [name for name, values in columns.items() if _is_single(values)]
    if scalars:
        raise RequestError(
            "every column of candidates needs one value per candidate, received single values "
            f"for {scalars}"
        )
    if columns:
        lengths_by_name = {name: len(values) for name, values in columns.items()}
        raise RequestError(
            f"the columns of candidates must have equal lengths, received {lengths_by_name}"
        )
    return 0


def _is_single(values: Any) -> bool:
    return (
        isinstance(values, str | bytes)
        or getattr(values, "ndim", 1) == 0
        or not hasattr(values, "__len__")
    )
