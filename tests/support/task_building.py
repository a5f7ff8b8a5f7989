"""Runs the task-building pipeline on the raw folders of the tests of the Beam jobs."""

from __future__ import annotations

from inspect import signature
from pathlib import Path

from limaml_beam.build_tasks.inputs import Inputs
from limaml_beam.build_tasks.job import build_tasks
from limaml_beam.build_tasks.settings import TaskSettings, date_fields
from limaml_beam.io.pipeline_options import local_by_default


def run(raw: Path, schema, output: Path, files=None, bad=0.05, **changes):
    tables = {name: str(raw / f"{name}.parquet") for name in schema.tables}
    inputs = Inputs.find(schema, files or str(raw / "interactions.parquet"), tables)
    dates = {k: changes.pop(k) for k in list(changes) if k in signature(date_fields).parameters}
    settings = {
        "definitions": tuple(schema.tasks),
        "shards": 2,
        "partitions": 3,
        "batch_rows": 64,
        **date_fields(schema, **dates),
        **changes,
    }
    return build_tasks(
        schema,
        inputs,
        str(output),
        TaskSettings(**settings),
        options=local_by_default([]),
        max_bad_fraction=bad,
    )
