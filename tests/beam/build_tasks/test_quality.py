"""Input quality: what the data card says, and what is refused."""

from __future__ import annotations

import json
import time

import pandas as pd
import pyarrow as pa
import pytest
from toys import toy_schema

from limaml_beam.build_tasks import quality
from limaml_beam.build_tasks.settings import TaskSettings, date_fields
from limaml_beam.build_tasks.split_summary import SplitSummary
from tfrec_limaml.cli import main
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.schema.schema import Feature, parse_time

SCHEMA = toy_schema(
    Feature(name="x", role="meta"),
    Feature(name="kind", dtype="string", encoding="vocabulary"),
    label="y",
    timestamp="t",
    tasks={"user": ("u",)},
)


def test_quality_is_shares_of_the_rows_read_and_rows_per_day():
    counts = {"rows_read": 200, "filled:x": 50, "unknown_key:users": 20, "implausible_time": 1}
    first, last = (0, None, None), (4 * DAY_MS, None, None)
    summary = SplitSummary((100, 0, 0), (1.0, 0.0, 0.0), first, last, ((0, 60), (2, 30), (4, 10)))
    how = TaskSettings(
        definitions=("user",), validation_start=5 * DAY_MS, test_start=5 * DAY_MS, recent_only=True
    )
    found = quality.describe(counts, summary, how)
    assert found == {
        "filled": {"x": 0.25},
        "unknown_keys": {"users": 0.1},
        "implausible_times": 0.005,
        "rows_per_day": 25.0,
        "newest_row_age_days": 1.0,
        "rows_by_day": {"1970-01-01": 60, "1970-01-03": 30, "1970-01-05": 10},
    }
    filled = found | {"filled": {"x": 0.6, "note": 0.05}, "unknown_keys": {"users": 0.2}}
    schema = toy_schema(Feature(name="x", role="meta"), Feature(name="note", normalise="none"))
    assert quality.warnings(filled, schema) == [
        "60.0% of the rows have no readable value of the feature x: it became 0.0; choose another "
        "with fill_value, or leave the rows out with on_invalid: skip",
        "20.0% of the rows have a key that the table users lacks",
        "0.50% of the rows have a time before 1980 or after 2099, or none that can be read",
    ]


def test_rows_of_less_than_a_day_are_those_of_one_day():
    how = TaskSettings(definitions=("user",), validation_start=DAY_MS, test_start=DAY_MS)
    for last in (5, 5 + DAY_MS // 2):
        summary = SplitSummary((30, 0, 0), (1.0, 0.0, 0.0), (5, None, None), (last, None, None))
        assert quality.describe({"rows_read": 30}, summary, how)["rows_per_day"] == 30.0


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"implausible_time": 51}, "51 of 100 rows have a time .* `timestamp_unit: ms` right"),
        ({"filled:x": 100, "unreadable:x": 3}, "no row has a valid value of 'x' .* but 3 have"),
        ({"unknown_key:users": 100}, "no value of 'u' .* occurs in the table 'users'"),
        ({"implausible_time": 50}, None),
        ({"filled:x": 100}, None),
        ({"filled:x": 99, "unreadable:x": 99}, None),
        ({"unknown_key:users": 99}, None),
    ],
)
def test_input_that_cannot_be_meant_is_refused(counts, said):
    schema = SCHEMA.replace(tables={"users": "u"})
    if said is None:
        quality.check(schema, {"rows_read": 100, **counts})
        return
    with pytest.raises(LimamlError, match=said):
        quality.check(schema, {"rows_read": 100, **counts})


@pytest.fixture
def log(tmp_path, shop_schema, shop_frames, write_raw):
    """Writes a changed log and prepares it; returns the exit code and the data card."""

    def prepare(change, **schema):
        frames = shop_frames(rows=300)
        frames["interactions"] = change(frames["interactions"])
        raw = write_raw(tmp_path / "raw", shop_schema.replace(**schema), frames)
        code = main(["prepare", str(raw), "--output", f"{tmp_path}/tasks", "--overwrite"])
        card = tmp_path / "tasks" / "data_card.json"
        return code, json.loads(card.read_text()) if card.exists() else None

    return prepare


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.assign(time=f.time // 1000), "`timestamp_unit: ms` right"),
        (lambda f: f.assign(time=f.time * 1000), "`timestamp_unit: ms` right"),
        (lambda f: f.assign(time=0), "`timestamp_unit: ms` right"),
        (lambda f: f.assign(price="n/a"), "no row has a valid value of 'price'"),
        (lambda f: f.assign(price=[{"a": 1}] * len(f)), "column 'price' is of type struct"),
        (lambda f: f.assign(kind=[["x"]] * len(f)), "column 'kind' is of type list"),
        (lambda f: f.assign(member=f.member + 1000), "'members': do they use the same keys"),
    ],
)
def test_a_column_that_cannot_be_meant_stops_the_run_with_its_name(log, change, said, capsys):
    code, card = log(change)
    assert (code, card) == (2, None)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("limaml: error:")
    assert said in error


def test_single_odd_times_and_missing_values_are_on_the_card_and_in_the_statistics(
    log, tmp_path, capsys
):
    def change(frame):
        frame = frame.astype({"time": "int64"}).reset_index(drop=True)
        frame.loc[:1, "time"] = [0, parse_time("9998-01-01")]
        return frame.assign(price=frame.price.where(frame.index < 100))

    code, card = log(change)
    assert code == 0
    assert card["quality"]["filled"]["price"] == pytest.approx(2 / 3, abs=0.01)
    assert card["quality"]["implausible_times"] == pytest.approx(2 / 300)
    said = " / ".join(card["warnings"])
    assert "no readable value of the feature price" in said
    assert "have a time before 1980 or after 2099" in said
    assert "no readable value of the feature price" in capsys.readouterr().out
    statistics = json.loads((tmp_path / "tasks" / "statistics.json").read_text())
    assert statistics["quality"] == card["quality"]
    assert set(card["drift"]) >= {"price", "age", "look", "history_member_recency"}


@pytest.mark.parametrize(
    ("dates", "said"),
    [
        ({}, ["", "", ""]),
        ({"first": parse_time("2024-01-01")}, ["", "implausible_time", "outside_dates"]),
        ({"last": parse_time("1971-01-01")}, ["outside_dates", "", "outside_dates"]),
    ],
)
def test_a_time_in_another_unit_is_invalid_outside_the_dates_and_used_within(dates, said):
    from limaml_beam.build_tasks.row_checks import validate

    schema = toy_schema(
        Feature(name="x", role="meta"), label="y", timestamp="t", tasks={"user": ("u",)}
    )
    how = TaskSettings(definitions=("user",), **{**date_fields(schema, recent_only=True), **dates})
    times = [parse_time("2024-05-01"), parse_time("2024-05-01") // 1000, parse_time("2023-05-01")]
    raw = pa.table({"y": [1] * 3, "t": times, "u": ["a"] * 3, "x": [1.0] * 3})
    _, reasons, counts = validate(schema, how, {}, raw)
    assert reasons.tolist() == said
    assert counts["implausible_time"] == 1


def test_times_without_an_offset_beside_others_are_a_warning():
    from limaml_beam.build_tasks.row_checks import validate

    schema = SCHEMA.replace(timestamp_unit="iso")
    how = TaskSettings(definitions=("user",), **date_fields(schema, recent_only=True))
    times = ["2024-05-01T10:00:00+02:00", "2024-05-01T10:00:00", "2024-05-02 09:00:00", None]
    rows = {"y": [1] * 4, "u": ["a"] * 4, "x": [1.0] * 4, "kind": ["b"] * 4}
    counts = validate(schema, how, {}, pa.table({**rows, "t": times}))[2]
    found = quality.describe(counts, SplitSummary(), how)
    assert found["times_without_offset"] == 0.5
    (line,) = [w for w in quality.warnings(found, schema) if "offset" in w]
    assert line.startswith("50.00% of the rows have a time without an offset in column t, others")
    counts = validate(schema, how, {}, pa.table({**rows, "t": times[1:3] * 2}))[2]
    assert "times_without_offset" not in quality.describe(counts, SplitSummary(), how)


def test_rows_of_the_future_are_a_warning():
    from limaml_beam.build_tasks.row_checks import validate

    how = TaskSettings(definitions=("user",), **date_fields(SCHEMA, recent_only=True))
    now = int(time.time() * 1000)
    times = [now - DAY_MS, now + DAY_MS // 2, now + 2 * DAY_MS, 10**18]
    rows = {"y": [1] * 4, "u": ["a"] * 4, "x": [1.0] * 4, "kind": ["b"] * 4}
    counts = validate(SCHEMA, how, {}, pa.table({**rows, "t": times}))[2]
    found = quality.describe(counts, SplitSummary(), how)
    assert found["future_times"] == 0.25
    assert "25.00% of the rows lie in the future: correct column t" in str(
        quality.warnings(found, SCHEMA)
    )


def test_integers_that_floats_cannot_hold_stay_apart(tmp_path, shop_schema):
    from limaml_beam.build_tasks.row_checks import validate

    schema = toy_schema(
        Feature(name="x", role="meta"),
        Feature(name="i", dtype="int64", encoding="hash", buckets=8, fill_value=-1),
        label="y",
        timestamp="t",
        tasks={"user": ("u",)},
    )
    start, rows = parse_time("2024-01-01"), 60
    how = TaskSettings(definitions=("user",), **date_fields(schema, recent_only=True))
    for ids in (
        pa.array([*range(2**62, 2**62 + rows - 1), None], pa.int64()),
        pa.array([str(2**62 + n) for n in range(rows - 1)] + [None]),
        pa.array([*range(2**64 - rows + 1, 2**64), None], pa.uint64()),
    ):
        raw = pa.table(
            {"y": [1] * rows, "t": [start] * rows, "u": ids, "x": [1.0] * rows, "i": ids}
        )
        block, _, counts = validate(schema, how, {}, raw)
        assert len(set(block["__key:u"].to_pylist())) == rows - 1
        assert counts["skipped:missing_key:u"] == 1
        unsigned = ids.type == pa.uint64()
        assert len(set(block["i"].to_pylist())) == (1 if unsigned else rows - 1)
        assert counts["filled:i"] == (rows if unsigned else 1)


def test_a_history_keeps_only_the_values_that_are_wanted(log, shop_schema, tmp_path):
    history = tuple(
        type(h)(keys=h.keys, smoothing=h.smoothing, values=("count",)) for h in shop_schema.history
    )
    code, card = log(lambda frame: frame, history=history)
    assert code == 0
    assert card["history"]["member"]["without_rows"] == {"history_member_count": 0.0}
    online = pd.read_parquet(tmp_path / "tasks" / "history" / "member.parquet")
    assert [c for c in online.columns if c.startswith("history")] == ["history_member_count"]


def test_rows_that_all_have_weight_0_are_refused():
    weighted = SCHEMA.replace(weight="w")
    quality.check(weighted, {"rows_read": 9, "weight_0": 8})
    with pytest.raises(LimamlError, match="all 9 rows have weight 0 in column 'w'"):
        quality.check(weighted, {"rows_read": 9, "weight_0": 9})
