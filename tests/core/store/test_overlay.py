"""Overlays: what is upserted into a published generation, in every store."""

import threading

import numpy as np
import pytest

from tfrec_limaml.errors import NotCurrentError, StoreError
from tfrec_limaml.store import Upserted

KEYS = ["a", "b", "c"]


def write(store, identifier, values=(1, 2, 3), keys=KEYS, event_times=None, version=1, model=""):
    matrix = np.repeat(np.array(values, np.float32)[:, None], 2, axis=1)
    with store.new_generation(version, 2, identifier, model) as writer:
        writer.put(list(keys), matrix)
        return writer.publish(len(keys), event_times)


def upsert(store, generation, rows, version=1):
    """Rows: key -> (value, event time)."""
    matrix = np.array([[value, value] for value, _ in rows.values()], np.float32)
    times = [time for _, time in rows.values()]
    return store.upsert(version, generation, list(rows), matrix.reshape(-1, 2), times)


def read(store, keys=KEYS, version=1):
    matrix, found = store.get_many(keys, version)
    return [float(row[0]) if hit else None for row, hit in zip(matrix, found, strict=True)]


def known_until(**times):
    """Event times of a generation's data, by key."""
    return lambda keys: np.array([times.get(key, 0) for key in keys], np.int64)


def test_an_upsert_is_seen_at_once_over_old_and_new_keys(store, open_another):
    write(store, "g1")
    reader = open_another()
    assert read(reader) == [1, 2, 3]
    assert upsert(store, "g1", {"b": (20, 5), "new": (9, 5)}) == Upserted(
        applied=2, older=0, erased=0
    )
    assert read(reader, ["a", "b", "new", "nobody"]) == [1, 20, 9, None]
    assert read(reader, ["a", "c"]) == [1, 3]
    assert store.current(1).overlay
    assert store.current(1).count == 3


def test_a_newer_event_wins_and_of_equal_times_the_later_call(store):
    write(store, "g1")
    upsert(store, "g1", {"a": (10, 100), "b": (20, 100)})
    assert upsert(store, "g1", {"a": (11, 99), "b": (21, 100)}) == Upserted(
        applied=1, older=1, erased=0
    )
    assert read(store) == [10, 21, 3]
    upsert(store, "g1", {"a": (12, -(2**62))})
    assert read(store) == [10, 21, 3]
    upsert(store, "g1", {"a": (13, 2**62)})
    assert read(store) == [13, 21, 3]


def test_of_one_key_given_twice_the_newest_event_counts(store):
    write(store, "g1")
    counts = store.upsert(
        1, "g1", ["a", "a", "a"], np.array([[1, 1], [2, 2], [3, 3]], np.float32), [5, 7, 6]
    )
    assert counts == Upserted(applied=1, older=2, erased=0)
    assert read(store, ["a"]) == [2]


def test_of_one_key_given_twice_at_one_time_the_later_row_counts(store):
    write(store, "g1")
    store.upsert(1, "g1", ["a", "a"], np.array([[1, 1], [2, 2]], np.float32), [5, 5])
    assert read(store, ["a"]) == [2]


def test_an_upsert_into_a_generation_that_readers_do_not_see_is_refused(store):
    write(store, "g1")
    write(store, "g2")
    for generation in ("g1", "g3"):
        with pytest.raises(NotCurrentError, match="'g2' is"):
            upsert(store, generation, {"a": (9, 1)})
    with pytest.raises(NotCurrentError, match="None is"):
        upsert(store, "g2", {"a": (9, 1)}, version=2)
    assert read(store) == [1, 2, 3]


@pytest.mark.parametrize(("models", "newest"), [(("m", "m"), 40), (("", "m"), 40), (("m", "n"), 4)])
def test_vectors_of_another_model_are_not_taken_over_however_new(store, models, newest):
    write(store, "g1", model=models[0])
    upsert(store, "g1", {"a": (40, 9)})
    write(store, "g2", (4, 5, 6), event_times=known_until(a=1), model=models[1])
    assert read(store) == [newest, 5, 6]


@pytest.mark.parametrize(
    ("keys", "vectors", "times", "message"),
    [
        (["a"], [[1, 2, 3]], [1], "embeddings must have shape"),
        (["a"], [[np.nan, 1]], [1], "not finite"),
        (["a"], [[1, 1]], [1, 2], "event_times must be 1 whole numbers"),
        (["a"], [[1, 1]], [1.5], "event_times must be 1 whole numbers"),
        (
            ["a"],
            [[1, 1]],
            [2**63],
            r"at most 2\*\*63 - 1 milliseconds, received 9223372036854775808",
        ),
        (["a"], [[1, 1]], [2**64], "event_times must be 1 whole numbers"),
        (["x" * 600], [[1, 1]], [1], "1 to 511 bytes"),
    ],
)
def test_rows_that_cannot_be_upserted_are_refused(store, keys, vectors, times, message):
    write(store, "g1")
    with pytest.raises(StoreError, match=message):
        store.upsert(1, "g1", keys, np.array(vectors, np.float32), times)
    assert read(store) == [1, 2, 3]
    assert not store.current(1).overlay


def test_rollback_drops_the_overlays_of_both_generations(store, open_another):
    write(store, "g1")
    upsert(store, "g1", {"a": (10, 1)})
    write(store, "g2", (4, 5, 6), event_times=known_until(a=1))
    upsert(store, "g2", {"a": (40, 2)})
    reader = open_another()
    assert read(reader) == [40, 5, 6]
    store.rollback(1)
    assert read(reader) == [1, 2, 3]
    upsert(store, "g1", {"b": (22, 1)})
    assert read(reader) == [1, 22, 3]
    store.rollback(1, "g2")
    assert read(reader) == [4, 5, 6]
    upsert(store, "g2", {"a": (41, 2)})
    assert read(reader) == [41, 5, 6]
    store.rollback(1, "g2")  # drops the overlay alone
    assert read(reader) == [4, 5, 6]
    assert not any(generation.overlay for generation in store.generations(1))


def test_a_new_generation_takes_over_what_is_newer_than_its_data(store, open_another):
    write(store, "g1")
    upsert(store, "g1", {"a": (10, 100), "b": (20, 100), "c": (30, 100), "new": (9, 100)})
    reader = open_another()
    read(reader)
    write(store, "g2", (4, 5, 6), event_times=known_until(a=99, b=100, c=101, new=50))
    assert read(reader, [*KEYS, "new"]) == [10, 5, 6, 9]
    assert upsert(store, "g2", {"a": (1, 99), "new": (8, 101)}).older == 1
    assert read(reader, [*KEYS, "new"]) == [10, 5, 6, 8]
    write(store, "g3", (7, 8, 9), event_times=known_until(a=100, new=101))
    assert read(reader, [*KEYS, "new"]) == [7, 8, 9, None]
    assert not store.current(1).overlay


def test_without_event_times_a_generation_knows_all_until_its_writer_was_opened(store):
    write(store, "g1")
    upsert(store, "g1", {"a": (10, 1), "b": (20, 2**50)})
    write(store, "g2", (4, 5, 6))
    assert read(store) == [4, 20, 6]


def test_a_generation_of_another_width_or_type_takes_over_what_fits(store, open_another):
    write(store, "g1")
    upsert(store, "g1", {"a": (0.1, 9), "b": (1e30, 9)})
    half = open_another(dtype="float16")
    write(half, "g2", event_times=known_until())
    assert read(store) == [float(np.float16(0.1)), 2, 3]
    with store.new_generation(1, 3, "g3") as writer:
        writer.put(["a"], np.ones((1, 3), np.float32))
        writer.publish(1)
    assert read(store) == [1, None, None]


def test_an_entry_that_fails_its_checksum_is_damaged(store, store_address):
    write(store, "g1")
    upsert(store, "g1", {"a": (10, 1), "b": (20, 1)})
    if store_address.startswith("redis"):
        record = store.catalog.current(1)
        name = store.catalog.overlay_key(record)
        entry = store.client.hget(name, "a")
        store.client.hset(name, "a", bytes([entry[0] ^ 1]) + entry[1:])
    else:
        path = store._overlays.path(store._catalog.current(1))
        with store._environments.overlay(path, create=False).begin(write=True) as transaction:
            entry = transaction.get(b"a")
            transaction.put(b"a", bytes([entry[0] ^ 1]) + entry[1:])
    answer = store.get_many(KEYS, 1)
    assert (answer[1].tolist(), answer.damaged) == ([False, True, True], 1)


def test_prune_and_versions_leave_the_others_overlays_alone(store):
    write(store, "g1")
    write(store, "h1", version=2)
    upsert(store, "g1", {"a": (10, 1)})
    upsert(store, "h1", {"a": (11, 1)}, version=2)
    write(store, "g2", event_times=known_until(a=1))
    store.prune(1, keep=1, grace_seconds=0)
    assert read(store) == [1, 2, 3]
    assert read(store, version=2) == [11, 2, 3]
    upsert(store, "g2", {"a": (12, 3)})
    store.prune(1, keep=1, grace_seconds=0)
    assert read(store) == [12, 2, 3]


def test_no_member_goes_back_in_time_while_publications_race_with_upserts(store, open_another):
    """Values are event times. A generation knows its members up to the value that it holds."""
    write(store, "g000", (0, 0, 0))
    stop, problems = threading.Event(), []
    reached = dict.fromkeys(KEYS, 0)  # the newest event of an upsert that returned

    def update():
        updater, time = open_another(), 0
        while not stop.is_set():
            time += 1
            for key in KEYS:
                for _ in range(50):
                    try:
                        upsert(updater, updater.current(1).identifier, {key: (time, time)})
                    except NotCurrentError:
                        continue
                    reached[key] = time
                    break
                else:
                    problems.append("never current")

    def watch():
        reader = open_another()
        seen = dict.fromkeys(KEYS, 0.0)
        while not stop.is_set():
            least = dict(reached)
            for key, value in zip(KEYS, read(reader), strict=True):
                if value is None or value < max(seen[key], least[key]):
                    problems.append((key, value, seen[key], least[key]))
                else:
                    seen[key] = value

    threads = [threading.Thread(target=work) for work in (update, watch)]
    for thread in threads:
        thread.start()
    for number in range(1, 500):
        if number > 15 and min(reached.values()) > 5:
            break
        # The batch read the log a while ago: it knows less than the overlay for some members.
        known = {key: max(0, time - lag) for lag, (key, time) in enumerate(reached.items())}
        write(
            store, f"g{number:03d}", [known[key] for key in KEYS], event_times=known_until(**known)
        )
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems[:5]
    assert min(reached.values()) > 5
