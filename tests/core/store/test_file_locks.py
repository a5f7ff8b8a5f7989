"""Locks of files that other processes remove."""

import fcntl
import os

import pytest

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import file_locks


def once(monkeypatch, module, name, work):
    """Calls `work` before the next call of a module's function."""
    function, calls = getattr(module, name), [work]

    def call(*arguments):
        if calls:
            calls.pop()()
        return function(*arguments)

    monkeypatch.setattr(module, name, call)


def test_a_file_that_took_the_place_of_the_opened_one_is_locked_instead(tmp_path, monkeypatch):
    path = tmp_path / "g.lock"

    def replace():
        (tmp_path / "other").touch()
        (tmp_path / "other").replace(path)

    once(monkeypatch, fcntl, "flock", replace)
    with file_locks.open_locked(path) as locked:
        assert os.path.samestat(os.fstat(locked.fileno()), path.stat())
        with pytest.raises(StoreError, match="held by another process"):
            file_locks.open_locked(path)


@pytest.mark.parametrize(("module", "name"), [(fcntl, "flock"), (os, "fstat")])
def test_a_file_that_was_removed_meanwhile_is_created_again(tmp_path, monkeypatch, module, name):
    path = tmp_path / "g.lock"
    once(monkeypatch, module, name, lambda: path.unlink())
    with file_locks.open_locked(path) as locked:
        assert os.path.samestat(os.fstat(locked.fileno()), path.stat())
