import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrec_limaml.datasets import columns
from tfrec_limaml.schema.schema import TIMESTAMP_UNITS, parse_time


def test_invalid_numbers_become_null_and_each_kind_is_counted():
    values, counts = columns.to_float32(pd.Series(["1.5", None, "abc", "inf", "true", "1e300"]))
    assert values.tolist()[0] == 1.5
    assert values.tolist()[4] == 1.0
    assert values.isna().tolist() == [False, True, True, True, False, True]
    assert counts == {"missing": 1, "unparsable": 1, "non_finite": 2}


def test_a_fraction_is_no_integer_but_a_whole_float_is():
    values, counts = columns.to_int64(pd.Series(["3.0", "2.5", "-7", "1e30"]))
    assert values.tolist()[0] == 3
    assert values.tolist()[2] == -7
    assert values.isna().tolist() == [False, True, False, True]
    assert counts["unparsable"] == 2


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1))
def test_every_64_bit_integer_survives_the_way_through_text(numbers):
    values, counts = columns.to_int64(pd.Series([str(n) for n in numbers]))
    assert values.tolist() == numbers
    assert not counts


def test_text_keeps_leading_zeros_and_drops_the_point_of_integers_with_gaps():
    assert columns.to_string(pd.Series(["007", "ä|b"]))[0].tolist() == ["007", "ä|b"]
    text, counts = columns.to_string(pd.Series([9.0, np.nan, 4.0]))
    assert text.dropna().tolist() == ["9", "4"]
    assert counts == {"missing": 1}


def test_vectors_of_another_length_or_with_a_nan_are_unparsable():
    values, counts = columns.to_vector(
        pd.Series(["[1, 2]", "[1]", "[1, NaN]", None, "x"], dtype=object), width=2
    )
    assert values[0] == [1.0, 2.0]
    assert values.isna().tolist() == [False, True, True, True, True]
    assert counts == {"missing": 1, "unparsable": 3}


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("as_text", [False, True])
def test_every_unit_and_form_of_time_gives_the_same_milliseconds(unit, as_text):
    moment = parse_time("2022-05-03T00:00:00+08:00")
    series = pd.Series([round(moment / TIMESTAMP_UNITS[unit])])
    values, _ = columns.to_milliseconds(series.astype(str) if as_text else series, unit)
    assert abs(values[0] - moment) <= (1 if as_text else 0)


def test_iso_text_and_datetime_columns_are_utc_unless_they_say_otherwise():
    texts = pd.Series(["2022-05-03", "2022-05-03T08:00:00+08:00", "soon", None])
    values, counts = columns.to_milliseconds(texts, "iso")
    assert values.tolist()[:2] == [parse_time("2022-05-03")] * 2
    assert counts == {"missing": 1, "unparsable": 1}
    assert columns.to_milliseconds(pd.Series(pd.to_datetime(["2022-05-03"])), "ms")[0].tolist() == [
        parse_time("2022-05-03")
    ]


def test_keys_of_different_types_meet_as_text():
    left, right = columns.same_key_type(
        pd.Series([1, 2]).astype("Int64"), pd.Series(["2", "1"]).astype("string")
    )
    assert left.isin(right).all()
