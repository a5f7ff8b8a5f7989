"""The data card of a user's own files: its numbers and its warnings."""

from __future__ import annotations

import time

import pandas as pd
import pytest

from tfrec_limaml.datasets.card import data_card
from tfrec_limaml.datasets.limits import MIN_TEST_TASKS
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.evaluation.evaluate import MIN_TASKS


def test_the_mean_label_is_that_of_valid_labels(checked, own_frame):
    frame = own_frame.copy()
    frame.loc[[1, 3], "bought"] = "7"
    data, invalid = checked(frame=frame)
    assert data_card(data, invalid)["label_rate"] == pytest.approx(18 / 38, abs=1e-6)


def test_the_card_counts_tested_tasks_with_history(checked, own_frame):
    frame = own_frame.copy()
    frame.loc[frame.index[-2:], "user_id"] = (
        "new"  # rows 38 and 39 test; users 000 and 001 are tested in rows 32 to 37
    )
    raw, _ = checked(frame=frame)
    card = data_card(raw)
    assert card["tasks"] == 5
    assert card["test_tasks"] == 5
    assert card["share_of_test_tasks_with_history"] == 0.8
    assert card["samples_per_task"] == {
        "min": 2,
        "q25": 9,
        "median": 9,
        "q75": 10,
        "q90": 10,
        "max": 10,
    }
    assert card["label_rate"] == 0.5
    assert card["time_span"] == ["2024-01-01T00:00:00+00:00", "2024-01-10T18:00:00+00:00"]


def test_tasks_without_history_are_pointed_out(checked, own_frame):
    raw, _ = checked(
        frame=own_frame.assign(user_id=[f"u{n}" for n in range(40)]),
        tables={},
        features=[{"name": "price", "role": "meta"}],
    )
    warnings = data_card(raw)["warnings"]
    assert [line[:45] for line in warnings if "history" in line] == [
        "few validation tasks have a history (0 of 4),",
        "few test tasks have a history (0 of 8), so ad",
    ]
    assert any(
        "test_start = 2024-01-09, and the rows lie from 2024-01-01T00:00:00+00:00 to "
        "2024-01-10T18:00:00+00:00; choose later dates as `split` in the schema, or by "
        "--test-start of `limaml prepare`, or use coarser tasks" in line
        for line in warnings
    )


@pytest.mark.parametrize(("known", "warned"), [(1, True), (2, False)])
def test_a_fifth_of_the_test_tasks_with_a_history_is_enough(checked, own_frame, known, warned):
    """Eight test rows, each of a task; `known` of these have an earlier row."""
    names = [f"u{n}" for n in range(32)] + [f"u{n}" if n < known else f"v{n}" for n in range(8)]
    raw, _ = checked(
        frame=own_frame.assign(user_id=names),
        tables={},
        features=[{"name": "price", "role": "meta"}],
    )
    lines = [line for line in data_card(raw)["warnings"] if line.startswith("few test tasks")]
    assert [f"({known} of 8)" in line for line in lines] == [True] * warned


@pytest.mark.parametrize(
    ("split", "part", "dates"),
    [
        (
            {"train_start": "2024-01-07", "validation_start": "2024-01-07T03:00"},
            "training",
            "train_start = 2024-01-07 and validation_start = 2024-01-07T03:00",
        ),
        (
            {"validation_start": "2024-01-08T01:00", "test_start": "2024-01-08T05:00"},
            "validation",
            "validation_start = 2024-01-08T01:00 and test_start = 2024-01-08T05:00",
        ),
        (
            {"test_start": "2024-01-09T01:00", "test_end": "2024-01-09T05:00"},
            "test",
            "test_start = 2024-01-09T01:00 and test_end = 2024-01-09T05:00",
        ),
    ],
)
def test_a_part_of_the_split_without_rows_is_pointed_out_with_its_dates(
    checked, own_frame, split, part, dates
):
    days = own_frame["at"].astype(int) // 86400
    frame = own_frame[days != days.max() - 3] if part == "training" else own_frame
    declared = {"validation_start": "2024-01-08", "test_start": "2024-01-09", **split}
    warnings = data_card(*checked(frame=frame, split=declared))["warnings"]
    (line,) = [line for line in warnings if line.startswith("no row is")]
    assert line.startswith(
        f"no row is a {part} row: {dates}, and the rows lie from 2024-01-01T00:00:00+00:00 to "
        "2024-01-10T18:00:00+00:00; choose other dates as `split` in the schema, or by --"
    )
    assert all(f"--{name.replace('_', '-')}" in line for name in split)
    assert not any("few validation" in line for line in warnings)


@pytest.mark.parametrize(
    ("users", "missing"),
    [(40, ["validation", "test"]), (20, ["test"]), (8, [])],
)
def test_tasks_too_short_for_the_shares_of_a_split_within_tasks_are_pointed_out(
    checked, own_frame, users, missing
):
    raw, invalid = checked(
        frame=own_frame.assign(user_id=[f"u{n % users}" for n in range(40)]),
        tables={},
        features=[{"name": "price", "role": "meta"}],
        split={"per_task": [0.6, 0.2, 0.2]},
    )
    lines = [line for line in data_card(raw, invalid)["warnings"] if line.startswith("no row is")]
    assert [line.split()[4] for line in lines] == missing
    rows = "1 row" if users == 40 else "2 rows"
    for line in lines:
        assert line.endswith(
            "the shares of the split within tasks are 0.6, 0.2, 0.2, and the largest task has "
            f"{rows}; choose other shares, or a split by date"
        )


def test_single_odd_times_and_mostly_missing_columns_are_on_the_card(checked, own_frame):
    frame = own_frame.copy()
    frame["at"] = frame["at"].astype(object)
    frame.loc[0, "at"] = "0"
    frame.loc[1, "at"] = "253370764800"  # the year 9999
    frame.loc[2, "at"] = "1e30"
    frame.loc[5:, "price"] = None
    raw, invalid = checked(frame=frame, split=None)
    assert raw.dropped == {"no usable timestamp": 2}
    card = data_card(raw, invalid)
    assert "1 row has a time before 1980 or after 2099" in card["warnings"]
    assert "column price has no value that can be used in 92% of the rows" in card["warnings"]
    assert card["time_span"][0] == "1970-01-01T00:00:00+00:00"


def test_the_share_of_missing_values_is_one_of_the_rows_that_are_kept(checked, own_frame):
    frame = own_frame.assign(category=[None, *own_frame.category[1:-5], *[None] * 5])
    raw, invalid = checked(frame=pd.concat([frame, *[frame.iloc[:1]] * 50]))
    card = data_card(raw, invalid)
    assert (card["rows"], card["invalid"]["category"]) == (40, {"missing": 56})
    assert "column category has no value that can be used in 15% of the rows" in card["warnings"]


@pytest.mark.parametrize("offset", ["Z", "+01:00", "-0300", "+01"])
def test_times_with_and_without_an_offset_in_one_column_are_pointed_out(checked, own_frame, offset):
    times = pd.to_datetime(own_frame["at"].astype(int), unit="s").dt.strftime("%Y-%m-%dT%H:%M:%S")
    iso = {"timestamp_unit": "iso", "split": None}
    mixed = times.where(times.index % 4 > 0, times + offset)
    raw, invalid = checked(frame=own_frame.assign(at=mixed), **iso)
    assert invalid["at"] == {"without_offset": 30}
    assert raw.interactions["at"].iloc[1] == 1_704_067_200_000 + 6 * 3_600_000, "read as UTC"
    (line,) = [w for w in data_card(raw, invalid)["warnings"] if "offset" in w]
    assert line.startswith("30 rows have a time without an offset in column at, the others have")
    for same in (times, times + offset, times.str[:10]):
        assert "at" not in checked(frame=own_frame.assign(at=same), **iso)[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bought": "2"}, "the label bought has a value other than 0 and 1, or none, in 20% of"),
        ({"bought": None}, "the label bought has a value other than 0 and 1, or none, in 20% of"),
        ({"w": "none"}, "the weight w has no number of at least 0 in 20% of the rows"),
        ({"price": "inf"}, "the feature price (on_invalid: skip) has no value that can be used in"),
    ],
)
def test_rows_that_the_next_command_refuses_are_pointed_out(
    checked, own_frame, own_schema, change, said
):
    ((column, value),) = change.items()
    frame = own_frame.assign(w="1")
    features = [dict(own_schema["features"][0], on_invalid="skip"), *own_schema["features"][1:]]

    def lines(rows):
        odd = frame.copy()
        odd.loc[odd.index < rows, column] = value
        warnings = data_card(*checked(frame=odd, weight="w", features=features))["warnings"]
        return [line for line in warnings if "`limaml prepare`" in line]

    (line,) = lines(8)
    assert line.startswith(said)
    assert "stops if they are more than 5% (--max-bad-fraction)" in line
    assert lines(2) == []


def test_a_weight_that_is_a_feature_too_must_be_a_number(checked):
    with pytest.raises(SchemaError, match="'category': none of its 40 values is a number"):
        checked(weight="category")


def test_rows_of_the_future_are_pointed_out(checked, own_frame):
    def lines(hours):
        at = own_frame["at"].copy()
        at.iloc[-2:] = str(int(time.time()) + 3600 * hours)
        warnings = data_card(*checked(frame=own_frame.assign(at=at), split=None))["warnings"]
        return [line for line in warnings if "future" in line]

    (line,) = lines(48)
    assert line.startswith("2 rows lie in the future, the last at 20")
    assert lines(20) == [], "a local time without an offset may look ahead of UTC"


def test_few_tested_tasks_and_a_task_with_most_rows_are_pointed_out(checked, own_frame):
    frame = own_frame.assign(user_id=["000"] * 21 + [f"00{1 + n % 3}" for n in range(19)])
    warnings = data_card(*checked(frame=frame))["warnings"]
    assert any(line.startswith("3 tasks are tested, and results of fewer") for line in warnings)
    (line,) = [line for line in warnings if "of the rows, so most" in line]
    assert line.startswith("one task has 52% of the rows")
    frame = own_frame.assign(user_id=["000"] * 20 + [f"00{1 + n % 3}" for n in range(20)])
    assert not any("so most of" in w for w in data_card(*checked(frame=frame))["warnings"])


def test_enough_tested_tasks_are_as_many_as_have_intervals(checked, own_frame):
    assert MIN_TEST_TASKS == MIN_TASKS
    frame = own_frame.assign(
        user_id=[f"u{n}" for n in range(40)], at=own_frame["at"].iloc[[0, 4] + [39] * 38].tolist()
    )
    changes = {"tables": {}, "features": [{"name": "price", "role": "meta"}]}
    changes["split"] = {"validation_start": "2024-01-02", "test_start": "2024-01-05"}
    warnings = data_card(*checked(frame=frame, **changes))["warnings"]
    assert not any("tested" in line for line in warnings)
