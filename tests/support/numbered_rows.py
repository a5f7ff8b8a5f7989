"""Rows that say who they are: row i of task t has the feature 100 t + i."""

from __future__ import annotations

from toys import toy_statistics

from tfrec_limaml.schema.schema import Feature, Label, Schema
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder

SCHEMA = Schema(
    name="rows",
    label=Label(name="y"),
    timestamp="t",
    tasks={"u": ("u",)},
    carry=("row",),
    features=(
        Feature(name="row_id", role="meta", normalise="none"),
        Feature(name="kind", dtype="int64", normalise="none"),
    ),
)
ENCODER = FeatureEncoder(SCHEMA, toy_statistics())


def task_rows(task, count):
    """`count` rows of a task."""
    return [
        {
            "row_id": 100 * task + i,
            "kind": i,
            "row": 100 * task + i,
            "label": float(i % 2),
            "timestamp": 10 * i + task,
        }
        for i in range(count)
    ]
