"""Scored rows that users computed: what `measure` takes, and what it refuses with the remedy."""

from __future__ import annotations

import numpy as np
import pytest

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation import measure

TASKS = 40


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(TASKS), 4)
    return {
        "label": np.arange(len(task)) % 2,
        "probability": rng.random(len(task)),
        "task_key": np.array([b"m%d" % t for t in task], object),
        "history": task % 30,
    }


def _with_first(values, value):
    return np.array([value, *values[1:]], np.asarray([value]).dtype)


@pytest.mark.parametrize("name", ["label", "probability", "task_key", "history"])
def test_a_missing_column_is_named(rows, name):
    del rows[name]
    with pytest.raises(LimamlError, match=f"needs the column '{name}'.* received \\["):
        measure(rows)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("label", lambda v: v * 5, r"must hold 0 or 1, received 5 in row 1 \(80 such .* convert"),
        ("label", lambda v: v * 2 - 1, "must hold 0 or 1, received -1 in row 0"),
        ("label", lambda v: _with_first(v, np.nan), "must hold 0 or 1, received nan in row 0"),
        ("label", lambda v: [*v[:2], "yes", *v[3:]], "must hold numbers, received 'yes' in row 2"),
        ("probability", lambda v: 6 * v - 3, "from 0 to 1, received .*logits through a sigmoid"),
        ("probability", lambda v: _with_first(v, np.inf), "from 0 to 1, received inf in row 0"),
        ("probability", lambda v: _with_first(v, np.nan), "1 of 160 scores are not numbers"),
        ("probability", lambda v: v[:, None], r"shape \[N\], .* \[160, 1\]; pass its \[:, 0\]"),
        ("probability", lambda v: v[:10], "has 10 values and 'label' has 160; pass one value"),
        ("history", lambda v: v - 1, "must hold numbers of samples, received -1 in row 0"),
        (
            "task_key",
            lambda v: [1, *v[1:]],
            r"of one type, received number \(1\) and bytes \(b'm39'",
        ),
        ("timestamp", lambda v: np.full(160, 0.5), "must hold whole milliseconds, received 0.5"),
        ("last_seen", lambda v: np.full(160, np.inf), "must hold whole milliseconds, received inf"),
    ],
)
def test_a_column_with_what_cannot_be_is_named_with_the_value(rows, name, change, said):
    rows[name] = change(rows.get(name))
    with pytest.raises(LimamlError, match=f"^column '{name}'.*{said}"):
        measure(rows)


@pytest.mark.parametrize(
    ("reference", "said"),
    [(np.full(10, 0.5), "has 10 values"), (np.full(160, np.nan), "160 of 160 scores are not")],
)
def test_a_reference_of_other_rows_or_without_numbers_is_refused(rows, reference, said):
    with pytest.raises(LimamlError, match=f"^column 'reference'.*{said}"):
        measure(rows, reference=reference)


def test_trained_keys_of_another_type_are_refused_and_make_no_task_cold(rows):
    with pytest.raises(LimamlError, match=r"received str \('m1'\) and bytes \(b'm39'\); convert"):
        measure(rows, trained_keys=["m1"])
    cold = measure(rows, trained_keys=[b"m1"])["cohorts"][0]
    assert (cold["slice"], cold["tasks"]) == ("cold", TASKS - 1)
    rows["task_key"] = [int(key[1:]) for key in rows["task_key"]]
    cold = measure(rows, trained_keys=np.array([1, 2]))["cohorts"][0]
    assert (cold["slice"], cold["tasks"]) == ("cold", TASKS - 2)


def test_lists_and_other_types_of_numbers_give_the_same_result(rows):
    times = np.full(160, 100 * 86_400_000)
    expected = measure({**rows, "timestamp": times, "last_seen": times})
    lists = {name: list(values) for name, values in rows.items()}
    floats = {name: times.astype(float) for name in ("timestamp", "last_seen")}
    actual = measure({**lists, **floats, "label": rows["label"] > 0})
    np.testing.assert_equal(actual, expected)


def test_keys_that_end_in_a_zero_byte_stay_apart_in_a_list(rows):
    rows["task_key"] = [b"k" + b"\0" * (row % TASKS) for row in range(160)]
    assert measure(rows)["tasks"] == TASKS


def test_trained_keys_may_be_an_iterator_and_numbers_of_any_type(rows):
    rows["task_key"] = np.repeat(np.arange(float(TASKS)), 4)
    for keys in (range(10), [float(k) for k in range(10)], iter(np.arange(10))):
        cold = measure(rows, trained_keys=keys)["cohorts"][0]
        assert (cold["slice"], cold["rows"]) == ("cold", 4 * (TASKS - 10))


def test_times_may_be_datetimes(rows):
    day = 86_400_000
    rows["timestamp"] = np.full(160, 100 * day)
    rows["last_seen"] = np.where(np.arange(160) % 2, 99, 50) * day
    trained = set(rows["task_key"])
    expected = measure(rows, trained_keys=trained)["cohorts"]
    for unit in ("ns", "s"):
        for name in ("timestamp", "last_seen"):
            column = rows[name].astype("datetime64[ms]").astype(f"datetime64[{unit}]")
            changed = rows | {name: column}
            assert [c["rows"] for c in measure(changed, trained_keys=trained)["cohorts"]] == [
                c["rows"] for c in expected
            ]
