"""Bad values of options are refused before anything runs, with the name of the option."""

from __future__ import annotations

import pytest

from tfrec_limaml.cli import main

WRITES = (
    ["compare", "tasks", "--output"],
    ["demo", "--workspace"],
    ["export", "run", "--output"],
    ["prepare", "raw", "--output"],
    ["reproduce", "table3", "--output"],
    ["train", "tasks", "--output"],
)
COUNTS = (
    (["compare", "tasks", "--output", "new"], "--seeds"),
    (["compare", "tasks", "--output", "new"], "--epochs"),
    (["demo", "--workspace", "new"], "--members"),
    (["demo", "--workspace", "new"], "--epochs"),
    (["diagnose", "tasks"], "--epochs"),
    (["reproduce", "table3", "--output", "new"], "--seeds"),
)


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """``refused("compare", ...)``: the last line of the error, in a folder that stays as it is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("a\n")

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main(list(arguments))
        assert exit_.value.code == 2
        assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
        return capsys.readouterr().err.splitlines()[-1]

    return run


@pytest.mark.parametrize("command", WRITES, ids=lambda command: command[0])
@pytest.mark.parametrize("path", ["a.csv", "a.csv/new/folder"])
def test_a_file_in_the_place_of_a_folder_is_named(refused, command, path):
    error = refused(*command, path)
    assert error.endswith(f"argument {command[-1]}: a.csv is a file; name a folder")


@pytest.mark.parametrize("number", ["0", "-3", "x"])
@pytest.mark.parametrize(("command", "option"), COUNTS, ids=lambda value: value[0])
def test_a_number_that_cannot_be_is_named(refused, command, option, number):
    error = refused(*command, f"{option}={number}")
    assert error.endswith(
        f"argument {option}: must be a whole number of at least 1, received {number}"
    )
