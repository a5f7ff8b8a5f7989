"""``limaml prepare`` as people type it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from limaml_beam.build_tasks.settings import date_fields
from limaml_beam.commands.beam_flags import wrap_beam_flags
from limaml_beam.commands.prepare_arguments import add_arguments
from limaml_beam.io.pipeline_options import LOCAL_RUNNER, local_by_default
from tfrec_limaml.cli import main
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Split, parse_time

pytestmark = pytest.mark.slow


def test_no_worker_of_the_job_loads_tensorflow():
    script = (
        "import sys, limaml_beam.commands.prepare, limaml_beam.build_tasks.prepare; "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0


@pytest.fixture
def raw(tmp_path, shop_schema, shop_frames, write_raw):
    return write_raw(tmp_path / "raw", shop_schema, shop_frames(rows=150))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no folder nowhere"),
        ([], "give the folder RAW, or both --schema and --interactions"),
        (["RAW", "--task", "team"], "unknown task definition 'team'"),
        (["RAW", "--table", "members"], "--table needs NAME=PATTERN"),
        (["RAW", "--table", "shops=x.csv"], "unknown: ['shops']"),
        (["RAW", "--max-samples", "0"], "max_samples must be at least 1"),
        (["RAW", "--max-bad-fraction", "5"], "between 0 and 1"),
        (["RAW", "--test-start", "2024-01-02"], "split dates must increase"),
        (["RAW", "--test-start", "tomorrow"], "cannot read 'tomorrow'"),
        (["RAW", "--window-days", "-1"], "(--window-days) must be positive"),
        (["RAW", "--interactions", "RAW/none-*.parquet"], "no file matches"),
        (["RAW", "--history-prior", "RAW"], "--history-prior needs --recent-only"),
        (["RAW", "--recent-only", "--history-prior", "RAW"], "no data card at"),
        *(
            (["RAW", "--recent-only", f"--history-prior={prior}"], f"0 and 1, {said}")
            for prior, said in (
                ("3", "a mean label, received 3"),
                ("-0.5", "a mean label, received -0.5"),
                ("nan", "a mean label, received nan"),
            )
        ),
    ],
)
def test_bad_arguments_end_with_one_readable_line(raw, tmp_path, capsys, arguments, message):
    line = [argument.replace("RAW", str(raw)) for argument in arguments]
    assert main(["prepare", *line, "--output", str(tmp_path / "tasks")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert message in error[0]
    assert not (tmp_path / "tasks").exists()


def test_a_damaged_file_is_named_and_leaves_no_output(raw, tmp_path, capsys):
    whole = (raw / "interactions.parquet").read_bytes()
    log = tmp_path / "log"
    log.mkdir()
    (log / "a.parquet").write_bytes(whole)
    (log / "b.parquet").write_bytes(whole[:-100])
    assert (
        main(
            [
                "prepare",
                str(raw),
                "--interactions",
                str(log / "*.parquet"),
                "--output",
                str(tmp_path / "tasks"),
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert "b.parquet" in error
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "raw"]


def test_text_files_give_the_same_records_as_parquet(
    tmp_path, shop_schema, shop_frames, write_raw, read_tasks
):
    features = tuple(f for f in shop_schema.features if f.width == 1)
    schema = shop_schema.replace(features=features)
    frames = shop_frames(rows=150)
    raw = write_raw(tmp_path / "raw", schema, frames)
    for name, frame in frames.items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    assert main(["prepare", str(raw), "--output", str(tmp_path / "one"), "--task", "member"]) == 0
    tables = [f"--table={name}={tmp_path}/{name}.csv" for name in schema.tables]
    files = [
        "--schema",
        str(raw / "schema.yaml"),
        "--interactions",
        f"{tmp_path}/interactions.csv",
        *tables,
    ]
    assert main(["prepare", *files, "--output", str(tmp_path / "two"), "--task", "member"]) == 0
    for split in ("train", "test"):
        ours, theirs = (read_tasks(tmp_path / name, "member", split) for name in ("one", "two"))
        assert ours
        assert ours == theirs


def test_beam_flags_pass_through_the_program():
    line = ["raw", "--output", "x", "--runner=DataflowRunner", "--region", "eu", "--task", "member"]
    assert wrap_beam_flags(add_arguments, line) == [
        "raw",
        "--output",
        "x",
        "--beam=--runner=DataflowRunner",
        "--beam=--region",
        "--beam=eu",
        "--task",
        "member",
    ]
    options = local_by_default(["--runner=DirectRunner"]).get_all_options()
    assert options["runner"] == LOCAL_RUNNER
    assert local_by_default(["--runner=FlinkRunner"]).get_all_options()["runner"] == "FlinkRunner"


def test_a_value_of_a_beam_flag_may_have_the_text_of_another_argument():
    line = ["raw", "--output", "x", "--job_name", "x"]
    assert wrap_beam_flags(add_arguments, line) == [
        *("raw", "--output", "x", "--beam=--job_name", "--beam=x"),
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--window-dais=3"], "neither this command nor Beam has the flag '--window-dais=3'"),
        (["--recent-onli"], "neither this command nor Beam has the flag '--recent-onli'"),
        (["runner=FlinkRunner"], "Beam's flags begin with --, received 'runner=FlinkRunner'"),
        (["--runner=Flink", "x"], "Beam's flags begin with --, received 'x'"),
    ],
)
def test_a_flag_that_beam_would_ignore_is_refused(flags, message):
    with pytest.raises(LimamlError, match=message):
        local_by_default(flags)


def test_flags_of_a_job_server_are_left_to_its_runner():
    options = local_by_default(["--runner=FlinkRunner", "--job_server_option=3", "--region", "eu"])
    assert options.get_all_options(retain_unknown_options=True)["job_server_option"] == "3"


@pytest.mark.parametrize("runner", ["NoRunner", "DataflowRunner"])
def test_flags_that_beam_refuses_are_an_error_of_one_line(
    runner, tmp_path, shop_schema, shop_frames, write_raw, capsys
):
    raw = write_raw(tmp_path / "raw", shop_schema, shop_frames(rows=60))
    output = ["--output", str(tmp_path / "tasks")]
    assert main(["prepare", str(raw), *output, f"--beam=--runner={runner}"]) == 2
    assert "error: Beam refuses its flags: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--shards", "0"], "shards must be at least 1, received 0"),
        (["--window-days", "nan"], "(--window-days) must be positive and finite, received nan"),
        (["--window-days", "inf"], "(--window-days) must be positive and finite, received inf"),
    ],
)
def test_numbers_without_a_meaning_are_refused(
    option, message, tmp_path, shop_schema, shop_frames, write_raw, capsys
):
    raw = write_raw(tmp_path / "raw", shop_schema, shop_frames(rows=60))
    assert main(["prepare", str(raw), "--output", str(tmp_path / "tasks"), *option]) == 2
    assert message in capsys.readouterr().err


def test_the_next_command_and_the_label_rate_fit_the_records(
    tmp_path, shop_schema, shop_frames, write_raw, capsys
):
    raw, tasks = write_raw(tmp_path / "raw", shop_schema, shop_frames(rows=150)), tmp_path / "tasks"
    for options, following in (([], "limaml train"), (["--recent-only"], "limaml embed")):
        assert main(["prepare", str(raw), "--output", str(tasks), "--overwrite", *options]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1].startswith(f"next: {following} {tasks} ")
        # All rows of the daily job's records are counted, not those of a training.
        assert (", training label mean 0." in lines[0]) == (following == "limaml train")
        assert "label mean 0." in lines[0]


def test_dates_come_from_the_arguments_before_the_schema(shop_schema):
    dates = date_fields(shop_schema, test_start="2024-01-08", window_days=2)
    assert dates["test_start"] == parse_time("2024-01-08")
    assert dates["validation_start"] == parse_time("2024-01-07")
    assert dates["first"] == parse_time("2024-01-05")
    assert dates["last"] == parse_time("2024-01-11")
    with pytest.raises(LimamlError, match="has no split"):
        date_fields(shop_schema.replace(split=None))
    with pytest.raises(LimamlError, match="needs recent_only"):
        date_fields(shop_schema, window_end="2024-01-08")
    assert (
        date_fields(
            shop_schema.replace(split=Split(validation_start="2020-01-01", test_start="2020-01-02"))
        )["last"]
        > 2**60
    )


def test_the_json_result_is_the_data_card(raw, tmp_path, capsys):
    assert (
        main(
            ["prepare", str(raw), "--output", str(tmp_path / "tasks"), "--task", "member", "--json"]
        )
        == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("output") == str(tmp_path / "tasks")
    card = json.loads((tmp_path / "tasks" / "data_card.json").read_text())
    assert printed == card
    assert card["tasks"]["member"]["test"]["tasks"] > 0
    assert 0 < card["tasks"]["member"]["test"]["share_of_tasks_with_history"] <= 1
    assert card["splits"]["train"]["last"] < "2024-01-07"


def test_what_a_killed_run_left_goes_with_the_next_run_and_what_a_live_one_writes_stays(
    raw, tmp_path
):
    output = tmp_path / "tasks"
    processes = []

    def hit(sent: signal.Signals):
        """Starts a run and sends it a signal once it has begun to write."""
        before = set(tmp_path.glob("tasks.partial-*/.lock"))
        process = subprocess.Popen(
            [sys.executable, "-m", "tfrec_limaml", "prepare", str(raw), "--output", str(output)],
            stderr=subprocess.PIPE,
        )
        processes.append(process)
        deadline = time.monotonic() + 60
        while (
            not (new := set(tmp_path.glob("tasks.partial-*/.lock")) - before)
            and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        os.kill(process.pid, sent)
        (lock,) = new
        return lock.parent

    try:
        live = hit(signal.SIGSTOP)
        dead = hit(signal.SIGKILL)
        processes[1].wait()
        assert dead.is_dir()
        former = (
            tmp_path / "tasks.old-0123"
        )  # left by an overwriting run that was killed at its very end
        former.mkdir()
        assert main(["prepare", str(raw), "--output", str(output)]) == 0
        assert {path.name for path in tmp_path.iterdir()} == {
            "raw",
            "tasks",
            live.name,
            former.name,
        }
        assert main(["prepare", str(raw), "--output", str(output), "--overwrite"]) == 0
        assert {path.name for path in tmp_path.iterdir()} == {"raw", "tasks", live.name}
        assert not list(output.glob(".*"))
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert main(["prepare", str(raw), "--output", str(output), "--overwrite"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "tasks"}
