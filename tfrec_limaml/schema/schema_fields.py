"""The fields of a schema, from the plain types of its file."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from tfrec_limaml.schema.columns import HISTORY_VALUES, Feature, History, Label
from tfrec_limaml.schema.declarations import build, items, mapping, names, text_name
from tfrec_limaml.schema.split import Split


def fields_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with their types; raises `SchemaError` naming unknown or missing ones."""
    fields = dict(content)
    if "label" in fields:
        label = fields["label"]
        fields["label"] = build(
            Label, {"name": label} if isinstance(label, str) else label, "label"
        )
    fields["features"] = tuple(
        build(Feature, f, "feature") for f in items(fields.get("features", ()), "features")
    )
    history = items(fields.get("history", ()), "history")
    fields["history"] = tuple(
        build(
            History,
            {
                **h,
                "keys": names(h.get("keys"), "history keys"),
                "values": names(h.get("values", HISTORY_VALUES), "history values"),
            },
            "history",
        )
        for h in history
    )
    fields["carry"] = names(fields.get("carry", ()), "carry")
    fields["tasks"] = {
        text_name(name, "a task definition's name"): names(keys, f"task {name!r}")
        for name, keys in mapping(fields.get("tasks", {}), "tasks").items()
    }
    fields["tables"] = {
        text_name(name, "a table's name"): text_name(key, f"the key of table {name!r}")
        for name, key in mapping(fields.get("tables", {}), "tables").items()
    }
    if fields.get("split") is not None:
        # YAML reads an unquoted date as a date
        marks = {
            name: str(mark) if isinstance(mark, dt.date) else mark
            for name, mark in mapping(fields["split"], "split").items()
        }
        fields["split"] = build(Split, marks, "split")
    return fields
