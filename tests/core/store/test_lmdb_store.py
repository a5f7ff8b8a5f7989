"""What only the folder backend promises."""

import contextlib
import errno
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys

import lmdb
import numpy as np
import pytest

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import lmdb_environment, open_store


def write(store, value, identifier, rows=100):
    with store.new_generation(1, 8, identifier) as writer:
        writer.put([str(n) for n in range(rows)], np.full((rows, 8), value, np.float32))
        return writer.publish(rows)


def test_pruning_gives_the_disk_space_back_to_other_readers_too(tmp_path):
    store, reader = open_store(f"lmdb:{tmp_path}"), open_store(f"lmdb:{tmp_path}")
    write(store, 1, "g1")
    assert reader.get_many(["0"], 1)[0][0, 0] == 1
    write(store, 2, "g2")
    store.prune(1, keep=1, grace_seconds=0)
    assert reader.get_many(["0"], 1)[0][0, 0] == 2
    held = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert not [path for path in held if str(tmp_path) in path and "g1" in path]


def test_a_full_disk_is_reported_and_leaves_the_published_generation_whole(tmp_path):
    store = open_store(f"lmdb:{tmp_path}")
    write(store, 1, "g1")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, before[1]))
    try:
        with pytest.raises(StoreError, match="cannot write"):
            write(store, 2, "g2", rows=50_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.get_many(["7"], 1)[0].tolist() == [[1.0] * 8]
    write(store, 3, "g3", rows=50_000)
    assert store.current(1).identifier == "g3"


def _read(address, answers):
    answers.put(float(open_store(address).get_many(["0"], 1)[0][0, 0]))


def test_a_forked_process_opens_its_own_handles(tmp_path):
    store = open_store(f"lmdb:{tmp_path}")
    write(store, 4, "g1")
    assert store.get_many(["0"], 1)[0][0, 0] == 4
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    process = fork.Process(target=_read, args=(f"lmdb:{tmp_path}", answers))
    process.start()
    assert answers.get(timeout=20) == 4
    process.join()


def test_reading_does_not_create_the_folder(tmp_path):
    store = open_store(f"lmdb:{tmp_path}/missing")
    assert store.current(1) is None
    assert store.generations() == []
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("lmdb:", "names no folder"),
        ("/var/lib/store", "an unknown backend"),
        ("lmdb:/tmp/x?prefix=a", r"unknown options \['prefix'\]"),
        ("lmdb:/tmp/x?dtype=int8", "dtype must be one of"),
        ("redis://h:1/0?ttl=soon", "ttl must be a number"),
        ("redis://h:1/0?ttl=0", "positive number of seconds"),
        ("redis://h:port/0", "cannot read the store address"),
    ],
)
def test_a_wrong_address_is_explained(address, message):
    with pytest.raises(StoreError, match=message):
        open_store(address)


def in_another_process(program, *arguments):
    code = f"import sys, numpy as np\nfrom tfrec_limaml.store import open_store\n{program}"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_running_process_follows_a_folder_that_took_the_place_of_the_store(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_environment, "_CHECK_SECONDS", 0.0)
    address, copy = f"lmdb:{tmp_path}/store", tmp_path / "copy"

    def upsert(store, value):
        store.upsert(1, "g", ["b"], np.full((1, 1), value, np.float32), [value])

    with contextlib.closing(open_store(address)) as store:
        with store.new_generation(1, 1, "g") as writer:
            writer.put(["a", "b"], np.full((2, 1), 1, np.float32))
            writer.publish(2)
        upsert(store, 2)
    shutil.copytree(tmp_path / "store", copy)
    store, other = open_store(address), open_store(address)
    upsert(store, 3)
    for reader in store, other:
        assert reader.get_many(["a", "b"], 1)[0].tolist() == [[1], [3]]
    (tmp_path / "store").rename(tmp_path / "old")
    copy.rename(tmp_path / "store")
    for reader in store, other:
        assert reader.get_many(["a", "b"], 1)[0].tolist() == [[1], [2]]
    upsert(store, 4)
    read = "print(open_store(sys.argv[1]).get_many(['a', 'b'], 1)[0].tolist())"
    assert in_another_process(read, address) == "[[1.0], [4.0]]"
    store.close()
    assert other.get_many(["b"], 1)[0] == 4


@pytest.mark.parametrize(("mask", "permissions"), [(0o022, 0o644), (0o002, 0o664)])
def test_the_umask_decides_who_may_share_a_store(tmp_path, mask, permissions):
    old = os.umask(mask)
    try:
        store = open_store(f"lmdb:{tmp_path}/store")
        with store.new_generation(1, 1, "g") as writer:
            writer.put(["a"], np.ones((1, 1), np.float32))
            writer.publish(1)
        store.upsert(1, "g", ["a"], np.ones((1, 1), np.float32), [1])
    finally:
        os.umask(old)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.mdb")}
    assert modes == {permissions}


def test_a_folder_that_is_not_named_by_a_number_is_no_version(tmp_path):
    store = open_store(f"lmdb:{tmp_path}")
    write(store, 1, "g1")
    for name in ("²", "notes", "-2"):
        (tmp_path / name).mkdir()
    assert [generation.model_version for generation in store.generations()] == [1]


def test_a_store_that_cannot_be_listed_is_not_empty(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot read the store folder"):
        open_store(f"lmdb:{tmp_path}/file").generations()


def test_a_reader_who_may_not_write_the_lock_is_told(tmp_path, monkeypatch):
    def refuse(*arguments, **named):
        raise lmdb.ReadonlyError("catalog: Permission denied")

    store = open_store(f"lmdb:{tmp_path}/store")
    with store.new_generation(1, 1) as writer:
        writer.put(["a"], np.ones((1, 1), np.float32))
        writer.publish(1)
    store.close()
    monkeypatch.setattr(lmdb, "open", refuse)
    with pytest.raises(StoreError, match=r"permission to write its lock\.mdb"):
        store.current(1)


def test_a_limit_of_address_space_is_not_called_damage(tmp_path):
    address = f"lmdb:{tmp_path}/store"
    write(open_store(address), 1, "g")
    read = (
        "import resource\n"
        "store = open_store(sys.argv[1])\n"
        "store.erased()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 38, 1 << 38))\n"
        "try:\n    store.get_many(['1'], 1)\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    answer = in_another_process(read, address)
    assert answer.startswith("StoreError")
    assert "ulimit -v" in answer
    assert "damaged" not in answer


def test_a_folder_that_cannot_be_removed_fails_the_erasure(tmp_path, monkeypatch):
    store = open_store(f"lmdb:{tmp_path}")
    with store.new_generation(1, 2, "g1") as writer:
        writer.put(["a", "b"], np.ones((2, 2), np.float32))
        writer.publish(2)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("tfrec_limaml.store.lmdb_erasure.shutil.rmtree", refuse)
    with pytest.raises(StoreError, match=r"cannot remove .*/g1, which still has the erased"):
        store.erase(["a"])
    assert store.get_many(["a", "b"], 1)[1].tolist() == [False, True]


def test_on_a_full_disk_the_store_is_an_error_and_not_a_crash(tmp_path, monkeypatch):
    store = open_store(f"lmdb:{tmp_path}")
    write(store, 1, "g1")
    lock = tmp_path / "catalog" / "lock.mdb"
    assert lock.stat().st_blocks * 512 >= lock.stat().st_size  # no hole
    store.close()
    lock.unlink()

    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lmdb_environment.os, "posix_fallocate", refuse)
    with pytest.raises(StoreError, match="No space left on device"):
        open_store(f"lmdb:{tmp_path}").get_many(["0"], 1)


def test_a_catalog_of_no_bytes_is_not_an_empty_store(tmp_path):
    store = open_store(f"lmdb:{tmp_path}")
    write(store, 1, "g1")
    store.close()
    (tmp_path / "catalog" / "data.mdb").write_bytes(b"")
    with pytest.raises(StoreError, match=r"has 0 bytes: restore it from a copy"):
        open_store(f"lmdb:{tmp_path}").get_many(["0"], 1)


def test_a_generation_that_cannot_be_read_is_listed_as_lost(tmp_path):
    store = open_store(f"lmdb:{tmp_path}")
    write(store, 1, "g1")
    store.close()
    (tmp_path / "1" / "g1" / "data.mdb").write_bytes(b"x" * 20_000)
    assert [g.state for g in open_store(f"lmdb:{tmp_path}").generations()] == ["lost"]
