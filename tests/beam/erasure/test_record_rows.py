"""Records of two definitions without the rows that name an erased task."""

import itertools

import pytest
from two_sided_toy import SCHEMA

from limaml_beam.erasure.record_rows import names_others, without_rows
from tfrec_limaml.tasks.record_format import encode_task, key_list

OTHERS = ["a", "b", "a", "c", "b"]


def record(others, query_start=-1):
    """A user's rows, of these videos."""
    rows = [
        {"x": float(n), "label": n % 2, "timestamp": 1000 + n, key_list("video"): other}
        for n, other in others
    ]
    return encode_task(SCHEMA, "u1", rows, query_start, ["video"])


@pytest.mark.parametrize(
    "gone", [set(g) for n in range(4) for g in itertools.combinations("abc", n)]
)
@pytest.mark.parametrize("query_start", [-1, 0, 2, 4])
def test_what_stays_is_byte_for_byte_the_record_of_the_other_rows(gone, query_start):
    rows = list(enumerate(OTHERS))
    left = [(n, other) for n, other in rows if other not in gone]
    before = sum(n < query_start for n, _ in left)
    expected = record(left, before if query_start >= 0 else -1)
    if not left or (query_start >= 0 and before == len(left)):
        expected = None
    made = without_rows(
        record(rows, query_start),
        lambda name, key: (name, key.decode()) in {("video", g) for g in gone},
    )
    assert made == expected


def test_a_record_that_names_nobody_of_them_is_the_same_object():
    given = record([(0, "a")])
    assert names_others(given)
    assert without_rows(given, lambda name, key: name == "user") is given


def test_records_of_one_definition_name_nobody():
    given = encode_task(SCHEMA, "u1", [{"x": 1.0, "label": 1, "timestamp": 5}])
    assert not names_others(given)
