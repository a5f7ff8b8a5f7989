"""``limaml erase``: members go from stores and outputs, and stay out of them."""

import contextlib
import fcntl
import gzip
import json
import shutil
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from erasure_world import ERASED, command, records_in
from waiting import wait_for

from limaml_beam.erasure import files_of_kinds, job
from limaml_beam.erasure.record_rows import task_key_of
from limaml_beam.generate_embeddings import tables
from limaml_beam.io.tfrecords import frame_record
from tfrec_limaml.cli import main
from tfrec_limaml.store import open_store
from tfrec_limaml.store.erasure import key_digest


def letters(world):
    files = (world / "tasks" / "dead_letter").glob("*.jsonl")
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_the_key_of_a_record_is_read_from_its_bytes(prepared, read_tasks):
    for definition in ("member", "member_kind"):
        keys = {task_key_of(r).decode() for r in records_in(prepared / "tasks" / definition)}
        assert keys == set(read_tasks(prepared / "tasks", definition, "recent"))


NO_RECORDS = [b"", b"x", b"\x0a", b"\x0a\xff", b"\x0a\x02\x0a\x00", b"\x12\0"]


@pytest.mark.parametrize("content", NO_RECORDS)
def test_bytes_that_are_no_record_have_no_key(content):
    assert task_key_of(content) is None


def test_a_member_goes_from_every_place_and_the_others_stay_as_they_are(world, capsys):
    before = {d: records_in(world / "tasks" / d) for d in ("member", "member_kind")}
    assert len([x for x in letters(world) if x["row"]["member"] == 3]) == 2
    assert main(command(world, "--verify")) == 1
    assert main(command(world, "--audit", str(world / "audit"), "--json")) == 0
    for definition, records in before.items():
        kept = [r for r in records if task_key_of(r).split(b"|")[0] != b"3"]
        assert 0 < len(kept) < len(records)
        assert records_in(world / "tasks" / definition) == kept
    assert sorted({x["row"]["member"] for x in letters(world)}) == [4, 5, 13]
    history = pq.read_table(world / "tasks" / "history" / "member.parquet")
    assert (
        "3"
        not in history[
            "__key:member" if "__key:member" in history.column_names else "member"
        ].to_pylist()
    )
    assert history.num_rows > 5
    output = world / "work" / "g1"
    left = pq.read_table(output / "embeddings-00.parquet")
    assert left["task_key"].to_pylist() == ["0", "1", "2", "4", "5", "30"]
    assert left.schema == tables.EMBEDDINGS_SCHEMA
    dead = pq.read_table(output / "dead_letters" / "part-0.parquet")["record"].to_pylist()
    assert [task_key_of(r) for r in dead] == [b"4", None]
    assert json.loads((output / "report.json").read_text())["rows"] == 6
    store = open_store(f"lmdb:{world}/store")
    assert store.get_many(["3", "3|mail", "30"], 1)[1].tolist() == [False, False, True]
    capsys.readouterr()
    assert main(command(world, "--verify")) == 0
    assert "found nowhere" in capsys.readouterr().out


def test_keys_that_are_found_nowhere_are_named(world, capsys):
    audit, store = world / "audit", ["erase", "--store", f"lmdb:{world}/store"]
    only_in_a_file = "13"  # the row of a dead letter
    keys = ("3", "3x", only_in_a_file, "2|mail", "no-one")
    assert main(command(world, "--json", "--audit", str(audit), keys=keys)) == 0
    assert json.loads(capsys.readouterr().out)["found_nowhere"] == ["3x", "no-one"]
    assert "no-one" not in audit.read_text()
    assert main([*store, "4", "4x", "no-one"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("\n'4x', 'no-one': found nowhere (misspelt, or erased earlier)\n")
    assert main([*store, "m99999"]) == 0
    said = capsys.readouterr().out.splitlines()
    nowhere = "found nowhere (misspelt, or erased earlier)"
    assert said == ["nothing to remove", f"'m99999': {nowhere}"]
    assert main([*store, *(f"x{n}" for n in range(8))]) == 0
    assert f"'x0', 'x1', 'x2', 'x3', 'x4' and 3 others: {nowhere}" in capsys.readouterr().out
    assert main([*store, "5"]) == 0
    assert "found nowhere" not in capsys.readouterr().out


def test_the_audit_names_places_and_digests_but_no_key_unless_asked(world, capsys):
    audit = world / "audit"
    key = "somebody@example.org"
    with open_store(f"lmdb:{world}/store").new_generation(1, 2, "g2") as writer:
        writer.put([key], np.ones((1, 2), np.float32))
        writer.publish(1)
    assert main(command(world, "--audit", str(audit), keys=[key])) == 0
    assert key not in audit.read_text() + capsys.readouterr().out
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["begin", "removed", "end"]
    assert lines[1]["keys"] == [key_digest(key).hex()]
    assert (lines[1]["generation"], lines[1]["part"]) == ("g2", "data")
    assert main(command(world, "--audit", str(audit), "--show-keys", keys=[key])) == 0
    assert key in audit.read_text()


def test_an_erasure_that_breaks_off_at_any_file_is_completed_by_the_same_command(
    world, monkeypatch
):
    class Killed(BaseException):
        pass

    original = files_of_kinds.staged_file
    steps = 0
    for fatal in range(1, 100):
        copy = world.parent / f"{world.name}-{fatal}"
        shutil.copytree(world, copy)
        calls = 0

        @contextlib.contextmanager
        def dying(path, fatal=fatal):
            nonlocal calls
            calls += 1
            with original(path) as file:
                if calls == fatal:
                    file.write(b"half")
                    raise Killed
                yield file

        monkeypatch.setattr(files_of_kinds, "staged_file", dying)
        try:
            main(command(copy))
            break
        except Killed:
            steps += 1
        monkeypatch.setattr(files_of_kinds, "staged_file", original)
        assert main(command(copy, "--verify")) == 1
        assert not open_store(f"lmdb:{copy}/store").get_many([ERASED], 1)[1].any()
        assert main(command(copy)) == 0
        assert main(command(copy, "--verify")) == 0
        report = json.loads((copy / "work" / "g1" / "report.json").read_text())
        assert report["rows"] == 6
    assert steps == 8


def test_while_a_refresh_runs_an_erasure_is_not_done(world, capsys):
    shutil.copytree(world / "tasks", world / "before")
    lock = world / "work" / "refresh.lock"
    lock.touch()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert main(command(world, "--audit", str(world / "audit"))) == 2
        assert "limaml refresh is running in" in capsys.readouterr().err
        assert main(command(world, "--verify")) == 2
        assert "found nowhere, but limaml refresh" in capsys.readouterr().err
    (world / "before").rename(world / "work" / "tasks")  # the refresh ends
    assert main(command(world, "--verify")) == 1
    assert main(command(world)) == 0
    assert main(command(world, "--verify")) == 0
    events = [json.loads(line)["event"] for line in (world / "audit").read_text().splitlines()]
    assert (events[0], "end" in events) == ("begin", False)


@pytest.mark.parametrize("more", [(), ("--verify",)])
def test_a_refresh_that_ends_while_files_are_searched_is_noticed(world, monkeypatch, capsys, more):
    """It may have written files after they were searched."""
    assert main(command(world)) == 0
    capsys.readouterr()
    with (world / "work" / "refresh.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        kind_of = job.kind_of

        def end_the_refresh(path):
            fcntl.flock(file, fcntl.LOCK_UN)
            return kind_of(path)

        monkeypatch.setattr(job, "kind_of", end_the_refresh)
        assert main(command(world, *more)) == 2
    assert "limaml refresh is running in" in capsys.readouterr().err


def test_an_erasure_waits_for_an_update_that_began_before_it(world):
    late = world / "work" / "updates" / "dead_letter" / "20240101.jsonl"
    late.parent.mkdir(parents=True)
    late.touch()
    lock = world / "work" / "update.lock"
    lock.touch()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        eraser = threading.Thread(target=main, args=(command(world),), daemon=True)
        eraser.start()
        store = open_store(f"lmdb:{world}/store")
        wait_for(lambda: not store.get_many([ERASED], 1)[1].any())
        eraser.join(1)  # time enough to search all files
        late.write_text(json.dumps({"reason": "why", "row": {"member": 3, "kind": "mail"}}) + "\n")
    eraser.join(60)
    assert late.read_text() == ""
    assert main(command(world, "--verify")) == 0


def test_prepare_leaves_erased_tasks_out_of_records_history_and_dead_letters(
    prepared, tmp_path, read_tasks
):
    from limaml_beam.build_tasks.options import PrepareOptions
    from limaml_beam.build_tasks.prepare import prepare

    card = prepare(
        PrepareOptions(
            raw=str(prepared / "raw"),
            recent_only=True,
            window_end="2024-01-11",
            erased=frozenset([key_digest(ERASED)]),
        ),
        str(tmp_path / "tasks"),
    )
    assert card["rows"]["skipped"]["erased"] > 10
    for definition in ("member", "member_kind"):
        now = read_tasks(tmp_path / "tasks", definition, "recent")
        then = read_tasks(prepared / "tasks", definition, "recent")
        assert set(now) == {key for key in then if key.split("|")[0] != ERASED}
    assert sorted({x["row"]["member"] for x in letters(tmp_path)}) == [4, 5, 13]
    (tmp_path / "outputs.yaml").write_text("- tasks\n")
    arguments = ["erase", ERASED, "--manifest-of-outputs", str(tmp_path / "outputs.yaml")]
    assert main([*arguments, "--verify"]) == 0


def test_stores_whose_addresses_look_alike_are_all_erased_from(tmp_path, capsys):
    stores = [f"lmdb://{tmp_path}/{name}/s@x" for name in ("d1", "d2")]
    for store in stores:
        with open_store(store).new_generation(1, 2, "g1") as writer:
            writer.put(["3", "4"], np.ones((2, 2), np.float32))
            writer.publish(2)
    given = [argument for store in stores for argument in ("--store", store)]
    assert main(["erase", "3", *given, "--json"]) == 0
    removed = json.loads(capsys.readouterr().out)["removed"]
    assert [place["store"] for place in removed] == stores
    for store in stores:
        assert open_store(store).get_many(["3", "4"], 1)[1].tolist() == [False, True]


def test_files_of_other_kinds_are_named_and_left_as_they_are(world, capsys):
    (world / "work" / "export.csv").write_text("member\n3\n")
    pq.write_table(pa.table({"x": [3]}), world / "work" / "numbers.parquet")
    (world / "work" / "lock.mdb").touch()  # holds no data
    with gzip.open(world / "work" / "other.tfrecord.gz", "wb") as file:
        file.write(frame_record(b"no task record"))
    assert main(command(world, "--json")) == 0
    named = json.loads(capsys.readouterr().out)["not_searched"]
    assert sorted(path.rsplit("/", 1)[-1] for path in named) == [
        "export.csv",
        "numbers.parquet",
        "other.tfrecord.gz",
    ]


def test_keys_come_from_a_file_too(world):
    (world / "keys").write_bytes(b"\xef\xbb\xbf3\n\n4\r\n")  # with a byte order mark
    assert main(command(world, "--keys-file", str(world / "keys"), keys=())) == 0
    found = open_store(f"lmdb:{world}/store").get_many(["2", "3", "4"], 1)[1]
    assert found.tolist() == [True, False, False]
