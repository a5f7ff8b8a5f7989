"""The task-building pipeline from files to files: rows that are skipped, runs that fail, and what
is left on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from apache_beam.io.aws.clients.s3.messages import S3ClientError
from task_building import run

from limaml_beam.build_tasks.data_card import check_counts
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.io import staged_output
from tfrec_limaml.cli import main
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Feature, Label, Split, parse_time


def test_a_missing_value_is_not_a_duplicate_of_the_fill_value(
    tmp_path, shop_schema, shop_frames, write_raw
):
    frames = shop_frames(rows=50)
    log = frames["interactions"].reset_index(drop=True).astype({"price": float})
    zero, missing = log.iloc[:10].assign(price=0.0), log.iloc[:10].assign(price=np.nan)
    frames["interactions"] = pd.concat([log.iloc[10:], zero, missing, missing.iloc[:3]])
    card = run(write_raw(tmp_path / "raw", shop_schema, frames), shop_schema, tmp_path / "tasks")
    assert (card["rows"]["used"], card["rows"]["skipped"]) == (60, {"duplicate": 3})
    assert card["filled"]["price"] == 13


def test_every_input_row_is_used_or_skipped_with_a_reason(
    tmp_path, shop_schema, shop_frames, write_raw
):
    frames = shop_frames(rows=200)
    log = (
        frames["interactions"]
        .reset_index(drop=True)
        .astype({"price": float, "opened": float, "time": float, "member": "float"})
    )
    log.loc[0, "time"] = np.nan
    log.loc[1, "opened"] = 2
    log.loc[2, "price"] = np.inf
    log.loc[3, "member"] = np.nan
    log.loc[4, "importance"] = -1
    log.loc[5, "time"] = parse_time("2031-01-01")
    log.loc[6, "item"] = 77  # unknown to the table of items: filled
    frames["interactions"] = pd.concat([log, log.iloc[10:13], log.iloc[10:11]])
    features = tuple(
        f if f.name != "price" else Feature(name="price", normalise="log", on_invalid="skip")
        for f in shop_schema.features
    )
    schema = shop_schema.replace(features=features)
    card = run(write_raw(tmp_path / "raw", schema, frames), schema, tmp_path / "tasks")
    assert card["rows"] == {
        "read": 204,
        "used": 194,
        "skipped": {
            "duplicate": 4,
            "invalid_feature:price": 1,
            "invalid_label": 1,
            "invalid_timestamp": 1,
            "invalid_weight": 1,
            "missing_key:member": 1,
            "outside_dates": 1,
        },
    }
    assert card["unknown_keys"] == {"items": 1, "members": 1}
    assert card["filled"]["tags"] == 1
    letters = [
        json.loads(line)
        for path in (tmp_path / "tasks" / "dead_letter").iterdir()
        for line in path.read_text().splitlines()
    ]
    assert sorted(letter["reason"] for letter in letters) == [
        "invalid_feature:price",
        "invalid_label",
        "invalid_timestamp",
        "invalid_weight",
        "missing_key:member",
    ]
    assert (
        next(letter for letter in letters if letter["reason"] == "invalid_label")["row"]["opened"]
        == 2.0
    )


def test_too_many_invalid_rows_fail_the_run_before_anything_is_published(
    tmp_path, shop_schema, shop_frames, write_raw
):
    frames = shop_frames(rows=100)
    frames["interactions"].iloc[:11, frames["interactions"].columns.get_loc("opened")] = 7
    raw = write_raw(tmp_path / "raw", shop_schema, frames)
    with pytest.raises(LimamlError, match=r"11 of 100 rows are invalid.*invalid_label.*rejected"):
        run(raw, shop_schema, tmp_path / "tasks", bad=0.1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "tasks.rejected"]
    assert run(raw, shop_schema, tmp_path / "tasks", bad=0.11)["rows"]["used"] <= 89


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("opened", "yes", r"invalid_label: the column 'opened' holds 'yes', but .* must be 0 or 1"),
        ("opened", None, r"invalid_label: the column 'opened' is empty, but the label must"),
        ("importance", "x" * 50, rf"'importance' holds '{'x' * 40}\.\.\.', but a weight must be a"),
        ("price", "cheap", r"'price' holds 'cheap', but the schema declares float32: correct"),
        ("member", None, r"missing_key:member: the column 'member' is empty, but each row needs"),
        ("time", "01.03.2026 00:17", r"'time' holds '01.03.2026 00:17', but `timestamp_unit: ms`"),
        ("time", "5", r"'time' holds '5', but times lie between 1980 and 2099: is"),
    ],
)
def test_an_error_about_invalid_rows_has_the_column_a_value_and_the_remedy(
    tmp_path, shop_schema, shop_frames, write_raw, column, value, said
):
    features = tuple(
        f if f.name != "price" else Feature(name="price", on_invalid="skip")
        for f in shop_schema.features
    )
    frames = shop_frames(rows=60)
    log = frames["interactions"].reset_index(drop=True).astype({column: object})
    log[column] = log[column].astype(str).where(log.index >= 20, value)
    frames["interactions"] = log
    schema = shop_schema.replace(features=features)
    raw = write_raw(tmp_path / "raw", schema, frames)
    with pytest.raises(LimamlError, match=rf"20 of 60 rows are invalid.*{said}.*rejected"):
        run(raw, schema, tmp_path / "tasks", first=parse_time("2000-01-01"))


def test_times_that_cannot_be_read_are_shown(tmp_path, shop_schema, shop_frames, write_raw):
    frames = shop_frames(rows=60)
    frames["interactions"] = frames["interactions"].assign(time="01.03.2026 00:17")
    raw = write_raw(tmp_path / "raw", shop_schema, frames)
    with pytest.raises(
        LimamlError, match=r"in column 'time', such as '01.03.2026 00:17': is `time"
    ):
        run(raw, shop_schema, tmp_path / "tasks")


def test_a_label_that_must_be_valid_stops_the_run(tmp_path, shop_schema, shop_frames, write_raw):
    schema = shop_schema.replace(label=Label(name="opened", on_invalid="error"))
    frames = shop_frames(rows=300)
    frames["interactions"].iloc[5, frames["interactions"].columns.get_loc("opened")] = 3
    with pytest.raises(
        LimamlError,
        match=r"1 of 300 rows have invalid values for which .* on_invalid: error.*invalid_label",
    ):
        run(write_raw(tmp_path / "raw", schema, frames), schema, tmp_path / "tasks", bad=1.0)
    assert not (tmp_path / "tasks").exists()


def test_a_file_system_that_fails_at_the_end_of_a_run_is_told_in_one_line(
    tmp_path, shop_schema, shop_frames, write_raw, monkeypatch
):
    def fail(*arguments):
        raise S3ClientError("SlowDown: Please reduce your request rate", 503)

    monkeypatch.setattr("limaml_beam.build_tasks.job.staged_output.publish", fail)
    raw = write_raw(tmp_path / "raw", shop_schema, shop_frames())
    with pytest.raises(LimamlError, match=r"^cannot write below .*tasks: SlowDown"):
        run(raw, shop_schema, tmp_path / "tasks")


def test_a_split_without_rows_names_the_time_span_of_the_data(
    tmp_path, shop_schema, shop_frames, write_raw
):
    raw = write_raw(tmp_path / "raw", shop_schema, shop_frames(rows=60))
    with pytest.raises(LimamlError, match=r"no rows in train.*2024-01-0"):
        run(raw, shop_schema, tmp_path / "tasks", validation_start="2023-01-01")


def test_tasks_too_short_for_the_shares_of_a_split_within_tasks_name_the_shares(
    tmp_path, shop_schema, shop_frames, write_raw
):
    schema = shop_schema.replace(split=Split(per_task=(0.9, 0.05, 0.05)))
    frames = shop_frames(rows=60)
    frames["interactions"] = frames["interactions"].drop_duplicates("member")
    raw = write_raw(tmp_path / "raw", schema, frames)
    with pytest.raises(LimamlError, match=r"choose other shares than 0\.9,0\.05,0\.05 \(--split"):
        run(raw, schema, tmp_path / "tasks")


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        ({}, r"outside_dates': 9\}\); check the files"),
        (
            {"first": parse_time("2024-01-02"), "last": parse_time("2024-02-01")},
            r"; rows are used from 2024-01-02T00:00:00.000 and before 2024-02-01T00:00:00.000; ch",
        ),
        ({"last": parse_time("2024-02-01")}, r"; rows are used before 2024-02-01T00:00:00.000; ch"),
    ],
)
def test_a_run_without_a_usable_row_names_the_dates_that_rows_must_lie_within(dates, message):
    settings = TaskSettings(definitions=("user",), validation_start=1, test_start=2, **dates)
    counts = {"rows_read": 9, "skipped:outside_dates": 9}
    with pytest.raises(LimamlError, match=rf"no usable row among the 9 read .*{message}"):
        check_counts(counts, 0.05, settings)


def test_an_existing_output_is_kept_unless_overwriting_is_asked_for(
    tmp_path, shop_schema, shop_frames, write_raw, capsys
):
    raw = write_raw(tmp_path / "raw", shop_schema, shop_frames(rows=150))
    output = tmp_path / "tasks"
    assert main(["prepare", str(raw), "--output", str(output), "--task", "member", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == str(output)
    (output / "mark").touch()
    assert main(["prepare", str(raw), "--output", str(output)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (output / "mark").exists()
    assert main(["prepare", str(raw), "--output", str(output), "--overwrite"]) == 0
    assert not (output / "mark").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "tasks"]


def test_the_raw_files_are_not_replaced_by_their_records(
    tmp_path, shop_schema, shop_frames, write_raw, capsys
):
    raw = write_raw(tmp_path / "raw", shop_schema, shop_frames(rows=60))
    before = sorted(path.name for path in raw.iterdir())
    for output in (raw, tmp_path, f"{raw}/../raw"):
        assert main(["prepare", str(raw), "--output", str(output), "--overwrite"]) == 2
        assert "give another --output" in capsys.readouterr().err
    assert sorted(path.name for path in raw.iterdir()) == before


def test_shuffles_of_the_in_process_runner_lie_in_files_that_go_with_the_run(
    tmp_path, shop_schema, shop_frames, write_raw, monkeypatch
):
    raw = write_raw(tmp_path / "raw", shop_schema, shop_frames(rows=200))
    discard, scratch = staged_output.discard, []

    def spy(directory: str) -> None:
        if directory.endswith("_shuffle"):
            scratch.append(sum(path.stat().st_size for path in Path(directory).iterdir()))
        discard(directory)

    monkeypatch.setattr(staged_output, "discard", spy)
    run(raw, shop_schema, tmp_path / "tasks")
    (size,) = scratch
    assert size > 200 * 50  # every row, several times
    assert (
        sorted(
            path.name for path in (tmp_path / "tasks").iterdir() if path.name.startswith((".", "_"))
        )
        == []
    )
