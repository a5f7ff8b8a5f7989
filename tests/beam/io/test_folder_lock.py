"""Locks of a work folder."""

import errno
import fcntl
import os
import threading

import pytest

from limaml_beam.io import folder_lock
from limaml_beam.io.folder_lock import REFRESH, UPDATE, BusyError, exclusive, is_held
from tfrec_limaml.errors import LimamlError


@pytest.mark.parametrize("lock", [REFRESH, UPDATE])
def test_a_full_disk_is_an_error_that_names_the_folder_and_frees_it(tmp_path, lock):
    message = f"cannot use the work folder {tmp_path}: .*{os.strerror(errno.ENOSPC)}"

    def fill():
        with exclusive(tmp_path, lock):
            assert is_held(tmp_path, lock)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(LimamlError, match=message):
        fill()
    assert not is_held(tmp_path, lock)


@pytest.mark.parametrize("lock", [REFRESH, UPDATE])
def test_a_folder_that_is_missing_is_named(tmp_path, lock):
    with (
        pytest.raises(LimamlError, match=f"cannot use the work folder {tmp_path}/w"),
        exclusive(tmp_path / "w", lock),
    ):
        pass


@pytest.mark.parametrize("wait", [False, True])
def test_one_who_only_asks_whether_a_lock_is_held_keeps_nobody_out(tmp_path, capsys, wait):
    with (tmp_path / REFRESH.file).open("w") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        threading.Timer(0.1, fcntl.flock, (asking, fcntl.LOCK_UN)).start()
        with exclusive(tmp_path, REFRESH, wait=wait):
            assert is_held(tmp_path, REFRESH)
    assert capsys.readouterr().err == ""


def test_one_who_works_keeps_others_out(tmp_path):
    message = rf"another refresh \(process {os.getpid()}\) is using {tmp_path}"
    with exclusive(tmp_path, REFRESH):
        pass  # its number stays in the file
    with (
        exclusive(tmp_path, REFRESH),
        pytest.raises(BusyError, match=message),
        exclusive(tmp_path, REFRESH),
    ):
        pass


def test_one_who_waits_says_so_once_and_gives_up_after_ten_minutes(tmp_path, monkeypatch, capsys):
    clock = [0.0]

    def sleep(seconds):
        clock[0] += seconds
        assert clock[0] < 700

    monkeypatch.setattr(folder_lock.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(folder_lock.time, "sleep", sleep)
    with (
        exclusive(tmp_path, UPDATE),
        pytest.raises(BusyError, match="another update"),
        exclusive(tmp_path, UPDATE, wait=True),
    ):
        pass
    assert clock[0] >= 600
    waiting = f"limaml: waiting for process {os.getpid()}, which holds {tmp_path / UPDATE.file}\n"
    assert capsys.readouterr().err == waiting
