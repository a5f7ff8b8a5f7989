"""``limaml prepare`` as people type it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from limaml_beam.build_tasks.data_card import describe_sizes
from limaml_beam.build_tasks.settings import TaskSettings, date_fields
from limaml_beam.build_tasks.validation import validate
from limaml_beam.commands.beam_flags import wrap_beam_flags
from limaml_beam.commands.prepare import add_arguments
from limaml_beam.io.pipeline_options import LOCAL_RUNNER, local_by_default
from limaml_beam.io.sources import Source
from limaml_beam.rows import columnar
from limaml_beam.rows.feature_tables import FeatureTable, join
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
        (["RAW", "--window-days", "-1"], "--window-days must be positive"),
        (["RAW", "--interactions", "RAW/none-*.parquet"], "no file matches"),
        (["RAW", "--history-prior", "RAW"], "--history-prior needs --recent-only"),
        (["RAW", "--recent-only", "--history-prior", "RAW"], "no data card at"),
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


def test_dates_come_from_the_arguments_before_the_schema(shop_schema):
    dates = date_fields(shop_schema, test_start="2024-01-08", window_days=2)
    assert dates["test_start"] == parse_time("2024-01-08")
    assert dates["validation_start"] == parse_time("2024-01-07")
    assert dates["first"] == parse_time("2024-01-05")
    assert dates["last"] == parse_time("2024-01-11")
    with pytest.raises(LimamlError, match="has no split"):
        date_fields(shop_schema.replace(split=None))
    with pytest.raises(LimamlError, match="needs --recent-only"):
        date_fields(shop_schema, window_end="2024-01-08")
    assert (
        date_fields(
            shop_schema.replace(split=Split(validation_start="2020-01-01", test_start="2020-01-02"))
        )["last"]
        > 2**60
    )


def test_a_feature_table_with_two_rows_of_one_key_is_refused_unless_they_agree(
    tmp_path, shop_schema
):
    frame = pd.DataFrame({"member": [1, 2, 1], "country": "de", "age": [3, 4, 3]})
    frame.to_parquet(tmp_path / "members.parquet")
    source = Source.match("m", str(tmp_path / "members.parquet"))
    table = FeatureTable(shop_schema, "members", source)
    assert (table.find(pa.array(["1", "2", "3"])) >= 0).tolist() == [True, True, False]
    frame.assign(age=[3, 4, 5]).to_parquet(tmp_path / "members.parquet")
    with pytest.raises(LimamlError, match="key member = '1' more than once"):
        FeatureTable(shop_schema, "members", Source.match("m", str(tmp_path / "members.parquet")))


@pytest.mark.parametrize("hashed", ["as always", "all alike"])
def test_rows_of_a_feature_table_are_found_by_key_and_by_nothing_else(
    tmp_path, shop_schema, monkeypatch, hashed
):
    if hashed == "all alike":
        monkeypatch.setattr(
            columnar, "stable_hash", lambda column: np.zeros(len(column), np.uint64)
        )
    frame = pd.DataFrame(
        {"member": [7, 5, 6], "country": ["de", None, "fr"], "age": [1.0, 2.0, np.nan]}
    )
    frame.to_parquet(tmp_path / "members.parquet")
    table = FeatureTable(
        shop_schema, "members", Source.match("m", str(tmp_path / "members.parquet"))
    )
    rows = table.find(pa.array(["6", "x", "5", None, "", "7", "6"]))
    assert rows.tolist() == [2, -1, 1, -1, -1, 0, 2]
    country, age = (
        next(f for f in shop_schema.features if f.name == name) for name in ("country", "age")
    )
    default = country.default_value
    assert table.column(country, rows).to_pylist() == [
        "fr",
        default,
        default,
        default,
        default,
        "de",
        "fr",
    ]
    assert table.invalid(country, rows).tolist() == [False, True, True, True, True, False, False]
    assert table.column(age, rows).to_pylist() == [0.0, 0.0, 2.0, 0.0, 0.0, 1.0, 0.0]
    assert table.invalid(age, rows).tolist() == [True, True, False, True, True, False, True]


def test_keys_meet_across_types_and_odd_keys_stay_whole(tmp_path, shop_schema, shop_frames):
    frames = shop_frames(rows=20)
    frames["members"].astype({"member": str}).to_csv(tmp_path / "members.csv", index=False)
    frames["items"].to_parquet(tmp_path / "items.parquet")
    how = TaskSettings(definitions=("member_kind",), **date_fields(shop_schema))
    files = {"members": "members.csv", "items": "items.parquet"}
    tables = {
        n: FeatureTable(shop_schema, n, Source.match(n, str(tmp_path / f)))
        for n, f in files.items()
    }
    log = frames["interactions"].astype({"member": float})
    block, reasons, counts = validate(
        shop_schema, how, tables, pa.Table.from_pandas(log, preserve_index=False)
    )
    assert set(reasons) == {""}
    assert counts == {"rows_read": 20}
    assert (
        join(shop_schema, tables, block)["age"].to_pylist()
        == frames["members"].set_index("member").age[log.member.astype(int)].tolist()
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


def test_quantiles_of_counted_sizes_are_those_of_the_sizes():
    draw = np.random.default_rng(5)
    pairs = np.stack([draw.integers(0, 9, 300), draw.integers(1, 40, 300)], axis=1)
    shards = []
    for part in (pairs[:100], pairs[100:]):
        distinct, counts = np.unique(part, axis=0, return_counts=True)
        shards.append(("member", {"test": np.concatenate([distinct, counts[:, None]], axis=1)}))
    card = describe_sizes([*shards, ("member", {"test": np.empty((0, 3), np.int64)})])["member"][
        "test"
    ]
    assert card["tasks"] == 300
    assert [card["support_rows"], card["query_rows"]] == pairs.sum(axis=0).tolist()
    for name, sizes in (("support", pairs[:, 0]), ("query", pairs[:, 1])):
        assert card[f"{name}_quantiles"] == {
            q: pytest.approx(np.percentile(sizes, int(q))) for q in card[f"{name}_quantiles"]
        }
    assert card["share_of_tasks_with_history"] == pytest.approx((pairs[:, 0] > 0).mean())
    assert card["share_of_query_rows_with_history"] == pytest.approx(
        pairs[pairs[:, 0] > 0, 1].sum() / pairs[:, 1].sum()
    )
