"""Values that exist but cannot be read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from apache_beam.pvalue import TaggedOutput

from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.unreadable import add_unreadable, is_present, unreadable_values
from limaml_beam.build_tasks.validation import UNREADABLE_VALUES, ReadAndValidate
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


SCHEMA = Schema(
    name="s",
    tasks={"user": ("user",)},
    label=Label(name="click"),
    timestamp="time",
    timestamp_unit="ms",
    features=(
        Feature(name="x", dtype="float32", role="meta", on_invalid="fill"),
        Feature(name="y", dtype="float32", on_invalid="fill"),
    ),
)


def test_unreadable_values_are_counted_by_day_in_used_rows_with_an_example():
    raw = pa.table(
        {
            "time": [START, START + DAY, START + DAY, START + DAY, 5],
            "x": ["0,5", "z" * 100, "1.5", "b", "c"],
            "y": ["?", "1", "1", "1", "1"],
        }
    )
    used = np.array([True, True, True, False, True])
    found = unreadable_values(SCHEMA, raw, used, ["x"])
    assert found == {"x": {"by_day": {"2022-01-08": 1, "2022-01-09": 1}, "example": "0,5"}}
    later = unreadable_values(SCHEMA, raw.slice(1), used[1:], ["x"])
    assert later["x"]["example"] == "z" * 80
    assert add_unreadable([later, {}, found]) == {
        "x": {"by_day": {"2022-01-08": 1, "2022-01-09": 2}, "example": "0,5"}
    }
    assert add_unreadable([]) == {}


@pytest.mark.parametrize(
    ("x", "recent_only", "described"),
    [("0;5", True, ["x"]), ("0;5", False, []), ("", True, []), ("1", True, [])],
)
def test_unreadable_values_are_described_only_where_there_are_any_and_the_data_card_needs_them(
    tmp_path, x, recent_only, described
):
    file = tmp_path / "rows.csv"
    file.write_text(f"user,time,click,x,y\nu1,{START},1,{x},\n")
    settings = TaskSettings(
        definitions=("user",),
        validation_start=START + DAY,
        test_start=START + DAY,
        recent_only=recent_only,
    )
    read = ReadAndValidate(SCHEMA, settings, {})
    read.setup()
    tagged = [part for part in read.process((str(file), None)) if isinstance(part, TaggedOutput)]
    found = [name for part in tagged if part.tag == UNREADABLE_VALUES for name in part.value]
    assert found == described
