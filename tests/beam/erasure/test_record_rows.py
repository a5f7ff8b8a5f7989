"""Records of two definitions without the rows that name an erased task."""

import itertools

import pytest
from two_sided_toy import SCHEMA

from limaml_beam.erasure.erased_keys import ErasedKeys
from limaml_beam.erasure.files_of_kinds import task_records
from limaml_beam.erasure.record_rows import names_others, without_rows
from limaml_beam.io.tfrecords import frame_record, read_records
from tfrec_limaml.cli import main
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


def test_a_record_that_names_nobody_is_looked_up_by_its_own_key(tmp_path, monkeypatch):
    """The time to erase many keys then does not grow with their number times that of records."""
    monkeypatch.delattr(ErasedKeys, "may_match_record")
    file = tmp_path / "a.tfrecord"
    row = {"x": 1.0, "label": 1, "timestamp": 5}
    given = [encode_task(SCHEMA, f"u{n}", [row]) for n in range(3)]
    file.write_bytes(b"".join(map(frame_record, given)))
    keys = ErasedKeys([f"u{n}" for n in range(1, 100)])
    assert task_records(str(file), keys, write=True) == 2
    assert list(read_records(str(file))) == given[:1]
    assert keys.matched == {"u1", "u2"}


def _damaged(keep):
    """A record whose feature lists cannot be read; its context can, unless it is cut."""
    given = record([(0, "a"), (1, "b")])
    context = given[: 2 + given[1]]
    lists = b"\x0a\xff" + key_list("video").encode() + b"a"
    return context[:keep] + b"\x12" + bytes([len(lists)]) + lists


@pytest.mark.parametrize(
    ("damaged", "message"),
    [(_damaged(None), "Error parsing"), (_damaged(9), "record 1 is damaged")],
)
def test_a_damaged_record_in_a_file_of_task_records_ends_the_erasure(
    tmp_path, capsys, damaged, message
):
    folder = tmp_path / "tasks"
    (folder / "user").mkdir(parents=True)
    SCHEMA.save(folder / "schema.yaml")
    file = folder / "user" / "a.tfrecord"
    content = frame_record(record([(0, "b")])) + frame_record(damaged)
    file.write_bytes(content)
    (tmp_path / "outputs.yaml").write_text("- tasks\n")
    assert main(["erase", "a", "--manifest-of-outputs", str(tmp_path / "outputs.yaml")]) == 2
    error = capsys.readouterr().err
    assert f"cannot search {file}" in error
    assert message in error
    assert file.read_bytes() == content


def test_records_of_one_definition_name_nobody():
    given = encode_task(SCHEMA, "u1", [{"x": 1.0, "label": 1, "timestamp": 5}])
    assert not names_others(given)
