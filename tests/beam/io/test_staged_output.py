"""Files and folders under temporary names."""

import pytest

from limaml_beam.io import staged_output
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.tasks.folder import DEAD_LETTERS


def test_a_file_that_cannot_be_created_says_why_and_not_that_it_cannot_be_removed(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="File exists"):
        staged_output.write_file(f"{tmp_path}/file/report.json", b"{}")


def test_a_file_without_a_folder_in_its_name_is_written_into_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    staged_output.write_file("report.json", b"{}")
    staged_output.write_file("report.json", b"{1}")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [
        ("report.json", b"{1}")
    ]


def test_the_temporary_name_of_a_file_is_in_its_folder(monkeypatch):
    class Stopped(Exception):
        pass

    def stop(path, **_):
        raise Stopped(path)

    monkeypatch.setattr(staged_output.FileSystems, "create", stop)
    with pytest.raises(Stopped, match=r"^/\.report\.json\.partial-"):
        staged_output.write_file("/report.json", b"")


def test_only_an_earlier_output_of_the_same_kind_is_replaced(tmp_path):
    outputs = {name: tmp_path / name for name in ("earlier", "empty", "other", "file", "nested")}
    (outputs["nested"] / "deeper").mkdir(parents=True)
    (outputs["nested"] / "deeper" / "rows").touch()
    for name in ("earlier", "empty", "other"):
        outputs[name].mkdir()
    (outputs["earlier"] / "report.json").touch()
    (outputs["other"] / "rows.parquet").touch()
    outputs["file"].touch()
    for name in ("earlier", "empty"):
        staged_output.check_free(str(outputs[name]), True, "report.json")
    for name in ("other", "file", "nested"):
        with pytest.raises(LimamlError, match=f"{name} is not the output of an earlier run"):
            staged_output.check_free(str(outputs[name]), True, "report.json")


def test_an_output_that_holds_an_input_is_not_replaced(tmp_path):
    output = tmp_path / "tasks"
    output.mkdir()
    (output / "report.json").touch()
    for path in (str(output), f"{output}/raw/rows.parquet"):
        with pytest.raises(LimamlError, match=f"tasks/ holds the input {path}"):
            staged_output.check_free(f"{output}/", True, "report.json", [path])
    staged_output.check_free(str(output), True, "report.json", [f"{output}-raw/rows.parquet"])


def test_a_file_is_hidden_until_it_replaces_the_former_one_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "train-0.tfrecord"
    path.write_bytes(b"former")
    monkeypatch.setattr(staged_output.FileSystems, "delete", None)  # nothing may be missing between
    with staged_output.staged_file(str(path)) as file:
        file.write(b"new")
        assert path.read_bytes() == b"former"
        (incomplete,) = [each for each in tmp_path.iterdir() if each != path]
        assert incomplete.name.startswith(".train-0")
        assert staged_output.is_incomplete(str(incomplete))
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"new"]
    assert not staged_output.is_incomplete(str(path))


def test_dead_letters_of_a_failed_run_stay_until_a_run_to_the_same_output_succeeds(tmp_path):
    output, staging = str(tmp_path / "tasks"), tmp_path / "staging"
    (staging / DEAD_LETTERS).mkdir(parents=True)
    (staging / DEAD_LETTERS / "0.jsonl").write_text("{}\n")
    rejected = staged_output.keep_dead_letters(str(staging), output)
    assert rejected == f"{output}.rejected"
    assert (tmp_path / "tasks.rejected" / "0.jsonl").exists()
    staged_output.publish(str(staging), output)
    assert [path.name for path in tmp_path.iterdir()] == ["tasks"]
