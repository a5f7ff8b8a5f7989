"""Messages become columns; one odd message changes nothing of the others."""

import json

import pytest

from limaml_beam.update.kafka_settings import read_client_file
from limaml_beam.update.messages import Message, decode
from tfrec_limaml.errors import LimamlError


def read(*rows, columns=("a",), optional=()):
    messages = [
        Message(f"t/0/{n}", row if isinstance(row, bytes) else json.dumps(row).encode())
        for n, row in enumerate(rows)
    ]
    return decode(messages, columns, 7, optional)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2.5, None], [1.0, 2.5, None]),
        ([2**60 + 1, 7], [2**60 + 1, 7]),
        ([2**60 + 1, 0.1, "b"], [str(2**60 + 1), "0.1", "b"]),
        ([2**70, 5], [str(2**70), "5"]),
        ([17.0, "17", True], ["17", "17", "true"]),
        ([{"b": 1}, "c"], [None, "c"]),
        (["\ud800", "c"], [None, "c"]),
        ([[1, 2], [0.5]], [[1.0, 2.0], [0.5]]),
        ([[1, 2], "c", [3, "d"], [2**2000]], [[1.0, 2.0], None, None, None]),
        ([["c", "d"], ["e"], 5], [["c", "d"], ["e"], None]),
    ],
)
def test_values_of_one_name_become_a_column_whatever_one_of_them_is(values, expected):
    table, poison = read(*({"a": value} for value in values))
    assert not poison
    assert table["a"].to_pylist() == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"", "undecodable_message"),
        (b"\xff", "undecodable_message"),
        (b"7", "undecodable_message"),
        ({"b": 1}, "unknown_schema"),
        ({"a": 1, "model_version": 8}, "other_model_version"),
    ],
)
def test_a_message_without_an_interaction_has_a_reason_and_its_place(row, reason):
    table, (poison,) = read({"a": 1}, row, {"a": 2})
    assert table["a"].to_pylist() == [1, 2]
    letter = json.loads(poison.letter())
    assert (letter["reason"], letter["file"]) == (reason, "t/0/1")


def test_the_letter_of_a_message_has_its_beginning_alone():
    _, (poison,) = read(b"\xff" + b"x" * 5000)
    assert json.loads(poison.letter())["row"] == "\ufffd" + "x" * 1999


def test_a_message_may_lack_an_optional_column_alone():
    rows = [{"a": 1, "b": 0.5}, {"a": 2}, {"b": 0.5}]
    table, (poison,) = read(*rows, columns=("a", "b"), optional=("b",))
    assert table.to_pydict() == {"a": [1, 2], "b": [0.5, None]}
    assert (poison.reason, poison.detail) == ("unknown_schema", "lacks ['a']")


def test_nothing_but_poison_is_no_table():
    assert read(b"?")[0] is None


@pytest.mark.parametrize("version", [7, "7", None])
def test_a_message_for_this_model_version_is_used(version):
    assert read({"a": 1, "model_version": version})[0].num_rows == 1


def test_a_column_that_is_called_like_the_version_is_a_column():
    row = {"a": 1, "model_version": 3}
    table, poison = read(row, columns=("a", "model_version"))
    assert (table.num_rows, poison) == (1, [])


def test_a_wrong_line_of_a_client_file_is_named_by_its_number_not_by_its_secret(tmp_path):
    path = tmp_path / "client"
    path.write_text("# remark\n\nsasl.password: hunter2\n")
    with pytest.raises(LimamlError, match=r"client, line 3: expected name=value") as raised:
        read_client_file(path)
    assert "hunter2" not in str(raised.value)


def test_a_byte_order_mark_is_no_part_of_the_first_name_of_a_client_file(tmp_path):
    path = tmp_path / "client.properties"
    path.write_text("security.protocol=SSL\n", encoding="utf-8-sig")
    assert read_client_file(path) == {"security.protocol": "SSL"}
