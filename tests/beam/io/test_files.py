"""Files by pattern."""

import os
import types

import pytest
from apache_beam.io.localfilesystem import LocalFileSystem

from limaml_beam.io import files
from tfrec_limaml.errors import LimamlError


@pytest.fixture
def days(tmp_path, monkeypatch):
    """Folders of two days with a file each; the second may not be read."""
    for name in ("day=1", "day=2", "lost+found"):
        (tmp_path / name).mkdir()
    for name in ("day=1", "day=2"):
        (tmp_path / name / "part.csv").write_text("a\n1\n")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith(("day=2", "lost+found")):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    return tmp_path


@pytest.mark.parametrize("pattern", ["", "/*/*.csv", "/**", "/day=[12]/part.csv"])
def test_a_folder_that_may_not_be_read_is_an_error(days, pattern):
    with pytest.raises(LimamlError, match=r"cannot list .*Permission denied.*day=2"):
        files.match_tables(f"{days}{pattern}")


def test_a_folder_that_may_not_be_searched_is_an_error(days):
    with pytest.raises(LimamlError, match=r"cannot list .*Permission denied.*day=2"):
        files.matching(str(days), "**")


@pytest.mark.parametrize("pattern", ["/day=1/*", "/*=1/*.csv", "/day=1"])
def test_folders_that_a_pattern_does_not_mean_may_be_unreadable(days, pattern):
    assert list(files.match_tables(f"{days}{pattern}")) == [f"{days}/day=1/part.csv"]


@pytest.mark.parametrize("pattern", ["/*.csv", "/*=1/*.csv", "/day=1/*"])
def test_only_folders_that_a_pattern_reaches_are_looked_into(tmp_path, monkeypatch, pattern):
    """Beside Beam's own search."""
    (tmp_path / "day=1" / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "other" / "deep").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "day=1"):
        (folder / "part.csv").touch()
    found = types.SimpleNamespace(metadata_list=[])
    monkeypatch.setattr(LocalFileSystem, "match", lambda *_: [found])
    searched, scandir = set(), os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: searched.add(str(path)) or scandir(path))
    files.match(f"{tmp_path}{pattern}")
    assert searched
    assert not any("deep" in folder or "other" in folder for folder in searched)
