"""Warnings of the data card about splits, tasks and vocabularies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfrec_limaml.datasets.limits import FEW_TESTED, MIN_TEST_TASKS
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks.folder import PARTS
from tfrec_limaml.wording import counted

#: Share of training rows in no record, or outside a vocabulary, above which there is a warning.
UNUSED = 0.2


def unused_rows(splits: dict[str, Any], sizes: dict[str, Any], max_samples: int) -> list[str]:
    """One warning per task definition whose records leave out more than `UNUSED` of the rows."""
    rows = splits.get("train", {}).get("rows", 0)
    lines = []
    for definition, parts in sizes.items():
        part = parts.get("train", {})
        used = part.get("support_rows", 0) + part.get("query_rows", 0)
        if rows and used and 1 - used / rows > UNUSED:
            lines.append(
                f"{1 - used / rows:.0%} of the training rows are in no record of {definition!r}: a "
                f"task keeps its latest {max_samples}; raise --max-samples "
                "(and --max-query, which must be at least as large) to train on more"
            )
    return lines


def low_coverage(schema: Schema, statistics: Mapping[str, Any]) -> list[str]:
    """One warning per vocabulary that lacks the values of more than `UNUSED` of the training rows.

    Values of multi-valued features are not counted by row, so they are left out.
    """
    lines = []
    for feature in schema.all_features:
        counts = statistics["features"].get(feature.name, {}).get("counts")
        if counts and feature.separator is None:
            lacking = 1 - sum(counts) / statistics["rows"]
            if lacking > UNUSED:
                lines.append(
                    f"{lacking:.0%} of the training rows have a value of {feature.name} that is "
                    f"not in its vocabulary of {len(counts)}, and all of them count as one: raise "
                    "max_vocabulary, or choose encoding: hash"
                )
    return lines


def few_tested(sizes: Mapping[str, Any]) -> list[str]:
    """One warning per task definition of which too few tasks are tested for intervals."""
    tested = {name: parts["test"]["tasks"] for name, parts in sizes.items() if "test" in parts}
    return [
        f"{counted(number, 'task', 'tasks')} of {name!r} {'is' if number == 1 else 'are'} tested, "
        f"and {FEW_TESTED}"
        for name, number in tested.items()
        if 0 < number < MIN_TEST_TASKS  # none: there are no test rows at all
    ]


def one_class(schema: Schema, splits: Mapping[str, Any]) -> list[str]:
    """One warning per split whose binary labels are all equal, if there are evaluation rows."""
    if schema.label.kind != "binary" or not any(splits[n]["rows"] for n in PARTS[1:]):
        return []
    return [
        f"{_all_rows(splits[name]['rows'], name)} the label {splits[name]['label_rate']:g}: AUC "
        "needs both classes; choose other split dates"
        for name in PARTS
        if splits[name]["rows"] and splits[name]["label_rate"] in (0.0, 1.0)
    ]


def _all_rows(number: int, split: str) -> str:
    if number == 1:
        return f"the only row of the {split} split has"
    return f"all {number} rows of the {split} split have"
