"""The daily job: publication and refusal."""

import argparse
import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from daily_rows import expected, sums

from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.refresh.job import prepare_options
from tfrec_limaml.cli import main
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.store import open_store


def test_every_day_publishes_a_generation_and_adapts_only_what_changed(
    raw, arguments, result, tmp_path
):
    store = open_store(f"lmdb:{tmp_path}/store")
    assert main(["refresh", raw(1), *arguments]) == 0
    assert (result()["embedded"], result()["carried"]) == (30, 0)
    np.testing.assert_array_equal(sums(store), expected(1))
    assert main(["refresh", raw(2), *arguments, "--max-drift", "3"]) == 0
    assert (result()["embedded"], result()["carried"]) == (10, 20)
    np.testing.assert_array_equal(sums(store), expected(2))
    assert main(["refresh", raw(2), *arguments]) == 0
    assert (result()["embedded"], result()["carried"]) == (0, 30)
    assert len(store.generations(7)) == 3
    assert store.current(7).identifier == result()["published"]


def test_a_failed_check_refuses_with_the_reason_and_leaves_the_published_generation(
    raw, arguments, result, tmp_path, capsys
):
    store = open_store(f"lmdb:{tmp_path}/store")
    assert main(["refresh", raw(1), *arguments]) == 0
    before = store.current(7)
    assert main(["refresh", raw(1, members=20), *arguments]) == 2
    assert (
        "number of tasks relative to the published run is 0.6667, allowed 0.8 to 1.5"
        in capsys.readouterr().err
    )
    assert store.current(7) == before
    assert result()["published"] is None
    assert main(["refresh", raw(1, members=20), *arguments, "--min-count-ratio", "0.5"]) == 0
    assert store.current(7).count == 20


def test_a_refresh_with_bad_rows_says_which_option_accepts_them(
    raw, arguments, result, tmp_path, capsys
):
    folder = raw(1)
    rows = pq.read_table(f"{folder}/interactions.parquet")
    labels = pa.array([7] * 3 + [1] * 27)  # a label is 0 or 1
    at = rows.column_names.index("click")
    pq.write_table(rows.set_column(at, "click", labels), f"{folder}/interactions.parquet")
    assert main(["refresh", folder, *arguments]) == 2
    said = capsys.readouterr().err
    assert "3 of 30 rows are invalid, more than the allowed share 0.05" in said
    assert "--max-bad-rows of limaml refresh" in said
    assert list((tmp_path / "work" / "tasks.next.rejected").glob("*.jsonl"))
    assert main(["refresh", folder, *arguments, "--max-bad-fraction", "0.2"]) == 2  # for tasks
    assert main(["refresh", folder, *arguments, "--max-bad-rows", "0.2"]) == 0
    assert result()["embedded"] == 27
    assert not (tmp_path / "work" / "tasks.next.rejected").exists()


@pytest.mark.parametrize("share", ["5", "nan"])
def test_a_share_of_bad_rows_that_cannot_be_is_refused_by_name(raw, arguments, capsys, share):
    assert main(["refresh", raw(1), *arguments, "--max-bad-rows", share]) == 2
    assert "--max-bad-rows of limaml refresh) must lie between 0 and 1" in capsys.readouterr().err


def test_the_metrics_of_a_refused_refresh_keep_the_last_success_and_count_both_jobs(
    raw, arguments, tmp_path
):
    file = tmp_path / "refresh.prom"
    metrics = ["--metrics-file", str(file)]

    def value(line):
        return [float(x.split()[-1]) for x in file.read_text().splitlines() if x.startswith(line)]

    command = 'command="refresh"'
    success = f"limaml_run_last_success_timestamp_seconds{{{command}}}"
    assert main(["refresh", raw(1), *arguments, *metrics]) == 0
    assert value(f"limaml_run_success{{{command}}}") == [1]
    assert value(f'limaml_run_rows{{{command},state="read"}}') == [30]
    assert value(f'limaml_run_tasks{{{command},state="embedded"}}') == [30]
    (before,) = value(success)
    assert main(["refresh", raw(1, members=20), *arguments, *metrics]) == 2
    assert value(f'limaml_run_outcome{{{command},outcome="refused"}}') == [1]
    assert value(f"limaml_run_success{{{command}}}") == [0]
    assert value(success) == [before]


def test_after_a_rollback_the_next_refresh_builds_on_what_readers_see(
    raw, arguments, result, tmp_path
):
    store = open_store(f"lmdb:{tmp_path}/store")
    assert main(["refresh", raw(1), *arguments]) == 0
    assert main(["refresh", raw(2), *arguments, "--max-drift", "3"]) == 0
    store.rollback(7)
    assert main(["refresh", raw(1), *arguments]) == 0
    assert (result()["embedded"], result()["carried"]) == (0, 30)


def test_the_help_shows_an_example_and_every_limit():
    from limaml_beam.commands.refresh import COMMAND
    from limaml_beam.refresh.checks import Thresholds

    parser = argparse.ArgumentParser(description=COMMAND.description)
    COMMAND.add_arguments(parser)
    text = " ".join(parser.format_help().split())
    assert "example" in text
    assert "The work folder must be local" in text
    for name in Thresholds.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text


def test_a_refresh_prepares_with_the_mean_label_of_the_model_s_training(export):
    manifest = dataclasses.replace(
        Manifest.read(export / "adapter" / "7"), training_label_mean=1 / 3
    )
    made = prepare_options(PrepareOptions(raw="RAW", window_days=7), manifest)
    assert made == PrepareOptions(
        raw="RAW", window_days=7, tasks=("user",), recent_only=True, history_prior=1 / 3
    )


def test_a_full_refresh_adapts_unchanged_tasks_again(raw, arguments, result):
    for more, counts in (([], (30, 0)), ([], (0, 30)), (["--full"], (30, 0))):
        assert main(["refresh", raw(1), *arguments, *more]) == 0
        assert (result()["embedded"], result()["carried"]) == counts
