import pandas as pd
import pytest

from tfrec_limaml.datasets.card import data_card
from tfrec_limaml.errors import SchemaError


def test_good_data_come_out_typed_sorted_and_without_foreign_columns(checked, own_frame):
    raw, invalid = checked(frame=own_frame.iloc[::-1])
    assert {c: str(t) for c, t in raw.interactions.dtypes.items()} == {
        "at": "Int64", "bought": "Float32", "user_id": "string", "price": "Float32", "category": "string"  # noqa: E501
    }  # fmt: skip
    assert raw.interactions["at"].is_monotonic_increasing
    assert raw.interactions["at"].iloc[0] == 1_704_067_200_000
    assert raw.schema.timestamp_unit == "ms"
    assert raw.interactions["user_id"].iloc[0] == "000"
    assert invalid == {"age": {"missing": 1}}


def test_a_misspelt_column_names_the_closest_one(checked):
    with pytest.raises(SchemaError, match=r"no column 'boughd'; did you mean 'bought'"):
        checked(label={"name": "boughd"})


def test_a_missing_column_of_a_table_is_named_with_the_table(checked, own_users):
    with pytest.raises(SchemaError, match=r"table 'users' has no column 'age'"):
        checked(users=own_users.rename(columns={"age": "years"}))


def test_a_column_of_another_type_than_declared_is_refused(checked, own_frame):
    with pytest.raises(
        SchemaError,
        match=r"'price': none of its 40 values is of the declared dtype float32 \(the first is 'cheap'\)",  # noqa: E501
    ):
        checked(frame=own_frame.assign(price="cheap"))


def test_times_that_no_one_can_read_are_refused(checked, own_frame):
    with pytest.raises(
        SchemaError, match=r"column 'at': none .* is a number of s .*timestamp_unit"
    ):
        checked(frame=own_frame.assign(at="yesterday"))


def test_rows_without_time_or_task_key_are_dropped_and_counted(checked, own_frame):
    frame = own_frame.copy()
    frame.loc[3, "at"] = "soon"
    frame.loc[[4, 5], "user_id"] = None
    raw, _ = checked(frame=frame)
    assert raw.dropped == {"no usable timestamp": 1, "no task key user_id": 2}
    assert len(raw.interactions) == 37


def test_rows_without_a_time_stop_everything_where_the_schema_says_so(checked, own_frame):
    frame = own_frame.copy()
    frame.loc[3, "at"] = "soon"
    with pytest.raises(SchemaError, match=r"1 row has no usable timestamp"):
        checked(frame=frame, label={"name": "bought", "on_invalid": "error"})


def test_rows_that_agree_in_all_columns_of_the_schema_are_one_row(checked, own_frame):
    same = own_frame.iloc[:3].assign(remark="another", at=own_frame["at"].iloc[:3] + ".0")
    other = own_frame.iloc[[4]].assign(price="100")
    raw, invalid = checked(frame=pd.concat([own_frame.drop(index=9), same, other]))
    card = data_card(raw, invalid)
    assert card["duplicates_dropped"] == 3
    assert card["rows"] == 40


def test_labels_outside_their_range_are_counted_or_refused(checked, own_frame):
    frame = own_frame.copy()
    frame.loc[0, "bought"] = "7"
    assert checked(frame=frame)[1]["bought"] == {"out_of_range": 1}
    with pytest.raises(SchemaError, match=r"'bought' holds invalid values \{'out_of_range': 1\}"):
        checked(frame=frame, label={"name": "bought", "on_invalid": "error"})


def test_regression_labels_have_their_declared_range(checked, own_frame):
    label = {"name": "price2", "kind": "regression", "minimum": 1.0, "maximum": 30.0}
    _, invalid = checked(frame=own_frame.assign(price2=own_frame.price), label=label)
    assert invalid["price2"] == {"out_of_range": 11}  # 0.5, and 30.5 to 39.5


def test_a_label_of_one_class_is_refused(checked, own_frame):
    with pytest.raises(SchemaError, match=r"'bought' has one value only \(1 in 40 rows\)"):
        checked(frame=own_frame.assign(bought="1"))


def test_labels_of_minus_1_and_1_are_refused_with_the_other_value(checked, own_frame):
    with pytest.raises(SchemaError, match=r"20 rows\) besides 20 .* '-1'.* binary label is 0 or 1"):
        checked(frame=own_frame.assign(bought=own_frame.bought.replace("0", "-1")))


def test_labels_that_are_never_0_or_1_are_refused(checked, own_frame):
    with pytest.raises(SchemaError, match=r"no value is 0 or 1"):
        checked(frame=own_frame.assign(bought="2"))


def test_nan_and_infinite_features_are_null_and_counted(checked, own_frame):
    frame = own_frame.copy()
    frame.loc[0, "price"] = "inf"
    frame.loc[1, "price"] = "nan"
    raw, invalid = checked(frame=frame)
    assert invalid["price"] == {"non_finite": 2}
    assert raw.interactions["price"].isna().tolist()[:3] == [True, True, False]


def test_an_invalid_feature_stops_everything_where_the_schema_says_so(
    checked, own_frame, own_schema
):
    frame = own_frame.copy()
    frame.loc[0, "price"] = "inf"
    own_schema["features"][0]["on_invalid"] = "error"
    with pytest.raises(SchemaError, match=r"'price' holds invalid values"):
        checked(frame=frame, features=own_schema["features"])


def test_an_empty_file_is_refused(checked, own_frame):
    with pytest.raises(SchemaError, match="interactions has no rows"):
        checked(frame=own_frame.iloc[:0])


def test_split_dates_outside_the_data_are_refused_with_the_datas_span(checked):
    with pytest.raises(
        SchemaError,
        match=r"validation_start = 2025-01-01 is outside the data \(2024-01-01T00:00:00\+00:00 to 2024-01-10",  # noqa: E501
    ):
        checked(split={"validation_start": "2025-01-01", "test_start": "2025-01-02"})


def test_without_a_split_the_last_tenths_of_the_rows_validate_and_test(checked):
    raw, _ = checked(split=None)
    assert data_card(raw)["split"]["rows"] == {"train": 32, "validation": 4, "test": 4}


def test_task_keys_with_separators_and_other_alphabets_survive(checked, own_frame, own_users):
    names = {"000": "a|b", "001": "%7C", "002": "Мария", "003": "a b"}
    raw, _ = checked(
        frame=own_frame.assign(user_id=own_frame.user_id.map(names)),
        users=own_users.assign(user_id=own_users.user_id.map(names)),
    )
    assert set(raw.interactions["user_id"]) == set(names.values())
    assert data_card(raw)["tasks"] == 4


def test_a_table_with_a_repeated_key_is_refused(checked, own_users):
    with pytest.raises(
        SchemaError, match=r"key 'user_id' must be unique, but 1 key occurs twice \(such as '000'\)"
    ):
        checked(users=pd.concat([own_users, pd.DataFrame({"user_id": ["000"], "age": ["21"]})]))


def test_rows_without_a_partner_in_a_table_are_counted(checked, own_users):
    _, invalid = checked(users=own_users[own_users.user_id != "003"])
    assert invalid["users (rows without a match)"] == {"missing": 10}


def test_tables_keyed_otherwise_are_refused(checked, own_users):
    with pytest.raises(SchemaError, match="use the same keys"):
        checked(users=own_users.assign(user_id=["w", "x", "y", "z"]))


def test_keys_that_do_not_meet_are_shown_in_both_forms(checked, own_frame):
    users = pd.DataFrame({"user_id": ["0.0", "1.0"], "age": ["20", "30"]})
    with pytest.raises(SchemaError, match=r"such as '000'\) occurs .* \(such as '0.0'\)"):
        checked(users=users)


def test_integer_keys_of_one_file_meet_text_keys_of_another(checked, own_frame, own_users):
    raw, invalid = checked(
        frame=own_frame.assign(user_id=own_frame.user_id.str[-1]),
        users=own_users.assign(user_id=[0, 1, 2, 3]),
    )
    assert raw.interactions["user_id"].dtype == raw.tables["users"]["user_id"].dtype
    assert "users (rows without a match)" not in invalid


def test_weights_that_are_no_weights_are_null_and_counted(checked, own_frame):
    weights = ["-1", "inf", "x", "2"] + ["1"] * 36
    raw, invalid = checked(frame=own_frame.assign(w=weights), weight="w")
    assert raw.interactions["w"].isna().sum() == 3
    assert raw.interactions["w"].iloc[3] == 2.0
    assert invalid["w"] == {"out_of_range": 1, "non_finite": 1, "unparsable": 1}


@pytest.mark.parametrize("unit", ["ms", "us"])
def test_times_in_another_unit_are_refused_and_the_unit_is_named(checked, unit):
    said = rf"40 of its 40 times .* 2099, such as \d+: is `timestamp_unit: {unit}` right"
    with pytest.raises(SchemaError, match=said):
        checked(timestamp_unit=unit, split=None)


def test_keys_that_no_store_can_hold_are_dropped_and_counted(checked, own_frame):
    frame = own_frame.copy()
    frame.loc[4, "user_id"] = "k" * 512
    frame.loc[5, "user_id"] = ""
    raw, _ = checked(frame=frame)
    assert raw.dropped == {
        "no task key user_id": 1,
        "key of task user longer than 511 bytes": 1,
    }


def test_weights_of_which_none_is_above_0_are_refused(checked, own_frame):
    weights = ["0"] * (len(own_frame) - 1)
    checked(frame=own_frame.assign(w=[*weights, "0.5"]), weight="w")
    with pytest.raises(SchemaError, match="no row has a weight above 0 in column 'w'"):
        checked(frame=own_frame.assign(w=[*weights, "0"]), weight="w")
