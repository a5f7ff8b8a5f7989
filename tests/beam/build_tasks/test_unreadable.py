"""Values that exist but cannot be read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from limaml_beam.build_tasks.unreadable import add_unreadable, is_present, unreadable_values
from tfrec_limaml.schema.schema import Feature, Label, Schema

DAY = 86_400_000
START = 19_000 * DAY  # 2022-01-08


@pytest.mark.parametrize(
    ("values", "present"),
    [
        (pa.array([0.5, float("nan"), None, float("inf")]), [True, False, False, True]),
        (pa.array(["0,5", " ", "", None]), [True, False, False, False]),
        (pa.array(["0,5", "", None]).dictionary_encode(), [True, False, False]),
        (pa.array([1, None]), [True, False]),
        (pa.array([[1.0], None]), [True, False]),
    ],
)
def test_null_nan_and_blank_text_are_missing_and_not_unreadable(values, present):
    assert is_present(pa.chunked_array([values])).tolist() == present


def test_unreadable_values_are_counted_by_day_in_used_rows_with_an_example():
    schema = Schema(
        name="s",
        tasks={"user": ("user",)},
        label=Label(name="click"),
        timestamp="time",
        timestamp_unit="ms",
        features=(
            Feature(name="x", dtype="float32", role="meta"),
            Feature(name="y", dtype="float32"),
        ),
    )
    raw = pa.table(
        {
            "time": [START, START + DAY, START + DAY, START + DAY, 5],
            "x": ["0,5", "z" * 100, "1.5", "b", "c"],
            "y": ["?", "1", "1", "1", "1"],
        }
    )
    used = np.array([True, True, True, False, True])
    found = unreadable_values(schema, raw, used, ["x"])
    assert found == {"x": {"by_day": {"2022-01-08": 1, "2022-01-09": 1}, "example": "0,5"}}
    later = unreadable_values(schema, raw.slice(1), used[1:], ["x"])
    assert later["x"]["example"] == "z" * 80
    assert add_unreadable([later, {}, found]) == {
        "x": {"by_day": {"2022-01-08": 1, "2022-01-09": 2}, "example": "0,5"}
    }
    assert add_unreadable([]) == {}
