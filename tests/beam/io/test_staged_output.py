"""Files and folders under temporary names."""

import pytest

from limaml_beam.io import staged_output


def test_a_file_that_cannot_be_created_says_why_and_not_that_it_cannot_be_removed(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="File exists"):
        staged_output.write_file(f"{tmp_path}/file/report.json", b"{}")
