"""Columns: what a caller may pass, and the keys that are looked up."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sent_requests import number, sent_column, text

from limaml_serving import RequestError
from limaml_serving.client.columns import RowReader
from tfrec_limaml.schema.column_values import as_feature
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.schema.task_keys import fits, task_key


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.5],
        np.array([1, 2.5]),
        np.array([1, 2.5], np.float16),
        pd.Series([1, 2.5]),
        (1, np.float32(2.5)),
    ],
)
def test_numbers_may_come_in_any_container(values):
    column = sent_column(number(), values)
    assert column.dtype == np.float32
    assert column.tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    "values",
    [[1, -2], np.array([1, -2], np.int8), np.array([1.0, -2.0]), [True, -2], pd.Series([1, -2])],
)
def test_whole_numbers_may_come_as_any_exact_type(values):
    column = sent_column(number("int64"), values)
    assert column.dtype == np.int64
    assert column.tolist() == [1, -2]


@pytest.mark.parametrize(
    "values",
    [
        ["a", "é"],
        np.array(["a", "é"]),
        np.array(["a", "é"], object),
        ["a", "é".encode()],
        pd.Series(["a", "é"]),
    ],
)
def test_text_may_come_in_any_container(values):
    assert sent_column(text(), values).tolist() == [b"a", "é".encode()]


@pytest.mark.parametrize(
    "values",
    [
        [["new", "sale"], [], ["a|b", "c"], [None, "", "x"], None],
        [["new"]],
        [[1, 7], [3]],
    ],
)
def test_lists_of_a_multi_valued_feature_become_what_task_records_hold(values):
    feature = dataclasses.replace(text(fill_value="none"), separator="|")
    records = as_feature(pa.array(values), feature)[0].to_pylist()
    assert [value.decode() for value in sent_column(feature, values)] == records


def test_a_list_is_refused_where_the_feature_has_one_value_and_in_a_list():
    with pytest.raises(RequestError, match=r"needs text .string., received"):
        sent_column(text(), [["a", "b"]])
    feature = dataclasses.replace(text(), separator="|")
    with pytest.raises(RequestError, match=r"needs text .string., received"):
        sent_column(feature, [[["a"], "b"]])


def test_bytes_that_are_no_text_arrive_as_they_are():
    assert sent_column(text(), [b"\xff", "a"]).tolist() == [b"\xff", b"a"]


@pytest.mark.parametrize(
    "values", [[7, -1], [7.0, 7.5, float("inf")], np.array([0.1], np.float32), [True, False]]
)
def test_numbers_given_for_text_become_what_task_records_hold(values):
    feature = text(fill_value="none")
    records = as_feature(pa.array(values), feature)[0].to_pylist()
    assert [value.decode() for value in sent_column(feature, values)] == records


@pytest.mark.parametrize("bad", [[1.0, "a"], ["1"], [b"1"], [{}], [[1.0]], [1j], [[1], [2, 3]]])
def test_what_is_not_a_number_is_refused_by_the_features_name(bad):
    with pytest.raises(RequestError, match="feature 'x' needs"):
        sent_column(number(), bad)


@pytest.mark.parametrize(
    "bad",
    [[2.5], [None, 2.5], [2**63], [2**70], np.array([2**63], np.uint64), [1e30], ["1"], [[1]]],
)
def test_what_is_not_a_whole_number_of_64_bits_is_refused(bad):
    with pytest.raises(RequestError, match="feature 'x' needs"):
        sent_column(number("int64"), bad)


@pytest.mark.parametrize("bad", [[["a"]], [{}], ["\ud800"], [object()]])
def test_what_is_not_text_is_refused(bad):
    with pytest.raises(RequestError, match="feature 'x'"):
        sent_column(text(), bad)


@pytest.mark.parametrize(
    ("feature", "values", "expected"),
    [
        (number(fill_value=9.0), [1.0, None, np.nan, np.inf, 1e300], [1, 9, 9, 9, 9]),
        (number(fill_value=9.0), np.array([1.0, np.nan], np.float32), [1, 9]),
        (number(width=2, fill_value=9.0), [[1.0, None], [np.nan, 2.0]], [[1, 9], [9, 2]]),
        (number("int64", fill_value=9), [1, None], [1, 9]),
        (number("int64", fill_value=9), np.array([1.0, np.nan]), [1, 9]),
        (text(fill_value="?"), ["a", None, float("nan")], [b"a", b"?", b"?"]),
        (text(fill_value="?"), ["a", pd.NA, pd.NaT], [b"a", b"?", b"?"]),
        (text(fill_value="?"), pd.Series(["a", None], dtype="string"), [b"a", b"?"]),
        (number(fill_value=9.0), [1.0, pd.NA], [1, 9]),
        (number("int64", fill_value=9), pd.Series([1, None], dtype="Int64"), [1, 9]),
    ],
)
def test_invalid_values_are_filled_and_reported_where_the_schema_says_so(feature, values, expected):
    rows = RowReader([feature], [["k"]]).read({"k": 1}, {"x": values})
    assert sent_column(feature, values).tolist() == expected
    assert rows.filled == ("x",)


@pytest.mark.parametrize("on_invalid", ["error", "skip"])
@pytest.mark.parametrize(
    "feature",
    [number(on_invalid="error"), number("int64", on_invalid="error"), text(on_invalid="error")],
)
def test_without_a_filler_invalid_and_missing_values_are_errors_that_name_the_feature(
    feature, on_invalid
):
    feature = dataclasses.replace(feature, on_invalid=on_invalid)
    good = "a" if feature.dtype == "string" else 1
    with pytest.raises(RequestError, match=f"feature 'x' has a missing.*on_invalid: {on_invalid}"):
        sent_column(feature, [good, None])
    with pytest.raises(RequestError, match="feature 'x' is missing"):
        RowReader([feature], [["k"]]).read({"k": 1}, {"other": [1]})


def test_the_callers_own_arrays_are_never_written_to():
    values = np.array([1.0, np.nan], np.float32)
    sent_column(number(), values)
    assert np.isnan(values[1])


def test_an_absent_feature_is_filled_once_for_all_candidates():
    rows = RowReader([number(width=2, fill_value=3.0), Feature(name="y")], [["k"]]).read(
        {"k": 1}, {"y": [1, 2]}
    )
    assert np.frombuffer(rows.columns[0][1], np.float32).tolist() == [3.0, 3.0]
    assert rows.filled == ("x",)


@pytest.mark.parametrize(
    ("member", "candidates", "message"),
    [
        ({"x": 1}, {"x": [1]}, "'x' is given for the member and for the candidates"),
        ({}, {"x": [1, 2], "y": [1]}, "equal lengths"),
        ({}, {"x": 1}, "single values for"),
        ({}, {"x": "ab"}, "single values for"),
        ({}, {"x": np.str_("ab")}, "single values for"),
        ({}, {"x": np.array(1.0)}, "single values for"),
        ({}, "ab", "candidates must be a mapping"),
        ({}, [1, 2], "candidates must be a mapping"),
        ({}, None, "candidates must be a mapping"),
        ({}, ({"x": 1} for _ in "ab"), "candidates must be a mapping"),
        ({}, pa.table({"x": [1]}), "candidates must be a mapping"),
        ({"k": [1]}, {"x": [1]}, "key columns"),
        ({}, {"x": [1]}, "key column 'k' is missing"),
    ],
)
def test_malformed_requests_are_refused_with_the_reason(member, candidates, message):
    with pytest.raises(RequestError, match=message):
        RowReader([number()], [["k"]]).read(
            {"k": 1, **member} if "missing" not in message else member, candidates
        )


@pytest.mark.parametrize("member", [None, "7", [("k", 1)], pd.Series({"k": 1})])
def test_a_member_that_is_no_mapping_is_refused(member):
    with pytest.raises(
        RequestError, match="member must be a mapping from names to values, rec"
    ) as caught:
        RowReader([number()], [["k"]]).read(member, {"x": [1]})
    assert str(caught.value).endswith("; give member.to_dict()") == isinstance(member, pd.Series)


def test_a_data_frame_of_candidates_is_read_as_its_columns():
    frame = pd.DataFrame({"x": pd.array([1, None], "Int64"), "k": ["a", pd.NA], "id": [7, 8]})
    frame.index = [5, 3]
    reader = RowReader([number(fill_value=9.0)], [["k"]])
    rows = reader.read({}, frame)
    reader.check_known(frame)
    assert rows.count == 2
    assert np.frombuffer(rows.columns[0][1], np.float32).tolist() == [1, 9]
    assert rows.keys[0].keys == ("a", None)
    with pytest.raises(RequestError, match="no column that the model knows"):
        reader.check_known(frame[["id"]])
    with pytest.raises(RequestError, match="columns of the same name"):
        reader.read({"k": 1}, pd.DataFrame([[1, 2]], columns=["x", "x"]))
    assert reader.read({"k": 1}, frame[["x"]].iloc[:0]).count == 0
    assert reader.read({"k": pd.NA}, frame[["x"]]).keys[0].keys == (None,)


def test_task_keys_are_encoded_as_the_job_encodes_them():
    rows = RowReader([], [["a", "b"]]).read(
        {"a": "50%|x"}, {"b": np.array([1, 2, 1]), "id": [1, 2, 3]}
    )
    assert rows.keys[0].keys == ("50%25%7Cx|1", "50%25%7Cx|2")
    assert rows.keys[0].position.tolist() == [0, 1, 0]


def test_an_example_gives_the_member_what_is_the_members_and_is_read_without_filling():
    features = [
        Feature(name="age", role="meta", dtype="int64", encoding="vocabulary"),
        Feature(name="tab", role="meta", dtype="string", encoding="vocabulary", on_invalid="error"),
        Feature(name="kind", dtype="string", encoding="vocabulary"),
        Feature(name="image", width=2),
    ]
    reader = RowReader(features, [["user", "kind"], ["user", "kind", "tab"]])
    member, candidates = reader.example()
    assert member == {"user": "1", "kind": "text", "age": 1}
    assert candidates == [{"tab": "text", "image": [1.0, 1.0]}] * 2
    rows = reader.read(member, candidates)
    assert rows.filled == ()
    assert [keys.keys for keys in rows.keys] == [("1|text",), ("1|text|text",)]


def test_candidates_without_any_field_still_count():
    assert RowReader([], [["k"]]).read({"k": 1}, [{}, {}]).count == 2


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (7.0, "7"),
        (np.float64(7.0), "7"),
        (True, "true"),
        (2**64 - 1, "18446744073709551615"),
        (b"a|b", "a%7Cb"),
        (float("nan"), None),
        ("", None),
        ("\ud800", None),
        (b"\xff", None),
        ("k" * 512, None),
    ],
)
def test_a_member_has_the_key_that_the_jobs_give_it_or_none(value, key):
    reader = RowReader([Feature(name="x", role="meta")], [["k"]])
    rows = reader.read({"k": value}, {"x": [1.0, 2.0]})
    assert rows.keys[0].keys == (key,)


_KEYS = st.one_of(
    st.text(max_size=5),
    st.text("ab|%é\ud800", max_size=4),
    st.integers(),
    st.sampled_from([None, 2.0, float("nan"), b"x", "a" * 510]),
)


@given(st.one_of(st.lists(st.text("ab\n", max_size=2), min_size=1), st.lists(_KEYS, min_size=1)))
def test_each_candidate_s_key_is_the_job_s_behind_what_its_definition_puts_before_it(values):
    candidates = {"item": values, "x": np.zeros(len(values), np.float32)}
    reader = RowReader([number()], [["k"], ["item"]], ["", "%|item|"])
    _, keys = reader.read({"k": 1}, candidates).keys
    found = [keys.keys[place] for place in keys.position]
    made = [task_key([value]) for value in values]
    fit = [key is not None and fits(f"%|item|{key}") for key in made]
    expected = [f"%|item|{key}" if fine else None for key, fine in zip(made, fit, strict=True)]
    assert found == expected
