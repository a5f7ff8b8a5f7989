"""Locks of a work folder."""

import errno
import os

import pytest

from limaml_beam.io.folder_lock import REFRESH, UPDATE, exclusive, is_held
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
