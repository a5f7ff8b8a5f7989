"""The simulated world as a data set; see `tfrec_limaml.datasets.simulated_world`."""

from __future__ import annotations

import pandas as pd

from tfrec_limaml.datasets.raw import RawData
from tfrec_limaml.datasets.registry import Dataset, Request
from tfrec_limaml.datasets.simulated_interactions import START, simulate
from tfrec_limaml.datasets.simulated_schema import HISTORY, features
from tfrec_limaml.datasets.simulated_world import evaluation_days
from tfrec_limaml.schema.schema import Label, Schema, Split


def _schema(request: Request, days: int) -> Schema:
    tasks = DATASETS[0].task_columns(request)
    type_is_key = any("notification_type" in keys for keys in tasks.values())
    validation, test = ((START + pd.Timedelta(days=d)).isoformat() for d in evaluation_days(days))

    return Schema(
        name="simulated",
        label=Label(name="clicked"),
        timestamp="timestamp",
        tasks=tasks,
        features=features(type_is_key),
        tables={"members": "member_id"},
        history=HISTORY if request.history else (),
        carry=("bayes_probability",),
        split=Split(validation_start=validation, test_start=test),
    )


def _load(request: Request) -> RawData:
    settings = request.settings
    interactions, members = simulate(**settings)
    return RawData(
        schema=_schema(request, settings["days"]),
        interactions=interactions,
        tables={"members": members},
        source=DATASETS[0].source(**settings),
    )


DATASETS = (
    Dataset(
        name="simulated",
        summary="a simulated world of notifications with drifting tastes and a known best "
        "possible prediction; needs no files",
        homepage="made by this package",
        licence="Apache-2.0 (made by this package)",
        citation="none",
        labels=("clicked",),
        tasks={
            "member": ("member_id",),
            "member_type": ("member_id", "notification_type"),
            "item": ("item_id",),
        },
        load=_load,
        settings={"members": 4000, "seed": 0, "days": 42, "catalogue": 0},
    ),
)
