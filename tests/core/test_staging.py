"""Files and folders that appear whole or not at all."""

import pytest

from tfrec_limaml import staging


def test_a_folder_takes_the_place_of_the_former_one_and_leaves_nothing_beside_it(tmp_path):
    for content in ("one", "two"):
        with staging.folder(tmp_path / "out") as folder:
            (folder / "x").write_text(content)
            assert not (tmp_path / "out" / "x").exists() or content == "two"
        assert (tmp_path / "out" / "x").read_text() == content
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_after_an_error_the_former_folder_and_file_stand_as_they_were(tmp_path, monkeypatch):
    with staging.folder(tmp_path / "out") as folder:
        (folder / "x").write_text("one")
    with pytest.raises(ZeroDivisionError), staging.folder(tmp_path / "out") as folder:  # noqa: PT012
        (folder / "x").write_text("two")
        raise ZeroDivisionError
    assert (tmp_path / "out" / "x").read_text() == "one"
    staging.write_text(tmp_path / "file", "one")

    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(staging.Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        staging.write_text(tmp_path / "file", "two")
    assert (tmp_path / "file").read_text() == "one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


def test_a_former_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    with staging.folder(tmp_path / "out") as folder:
        (folder / "x").write_text("one")
    rename = staging.Path.rename

    def refused(path, target):
        if (path / "new").exists():
            raise OSError("disk full")
        return rename(path, target)

    monkeypatch.setattr(staging.Path, "rename", refused)
    with (
        pytest.raises(OSError, match="disk full"),
        staging.folder(tmp_path / "out") as folder,
    ):
        (folder / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "x").read_text() == "one"
