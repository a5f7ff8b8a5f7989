"""Rows that can be identified: row i of task t has the feature 100 t + i."""

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


def counted_rows(part):
    """The features of the rows with a positive weight, for each task of a batch."""
    ids, weights = part["features"]["meta"][..., 0], part["weight"]
    return [ids[t][weights[t] > 0].astype(int).tolist() for t in range(len(ids))]


def task_pairs(dataset):
    """The support rows and the query rows with a positive weight, for each task."""
    return [
        pair
        for batch in dataset.as_numpy_iterator()
        for pair in zip(counted_rows(batch["support"]), counted_rows(batch["query"]), strict=True)
    ]
