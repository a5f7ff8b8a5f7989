"""The daily job on input that lacks something, is damaged or is older than the published run's."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from daily_rows import START

from tfrec_limaml.cli import main


def test_a_column_that_loses_its_values_is_refused_before_anything_is_adapted(
    raw, arguments, result, tmp_path, capsys
):
    assert main(["refresh", raw(1), *arguments]) == 0
    folder = raw(2)
    path = tmp_path / "raw" / "interactions.parquet"
    table = pq.read_table(path)
    nulls = pa.nulls(table.num_rows, pa.float32())
    pq.write_table(table.set_column(1, "x", nulls), path)
    assert main(["refresh", folder, *arguments]) == 2
    assert "share of filled values of feature x is 1" in capsys.readouterr().err
    assert (result()["outcome"], result()["stage"]) == ("refused", "check")
    assert result()["quality"]["filled"] == {"x": 1.0}
    assert result()["published"] is None
    assert "embedded" not in result()


@pytest.fixture
def with_texts(raw, tmp_path):
    """``with_texts(days, *bad)``: x is a text, with a decimal comma on the bad days; the folder."""

    def write(days, *bad):
        folder = raw(days, members=60)
        path = tmp_path / "raw" / "interactions.parquet"
        rows = pq.read_table(path)
        day = (rows["time"].to_numpy() - START) // 86_400_000
        texts = [
            f"{x:.1f}".replace(".", "," if d in bad else ".")
            for x, d in zip(rows["x"].to_pylist(), day, strict=True)
        ]
        pq.write_table(rows.set_column(1, "x", pa.array(texts)), path)
        return folder

    return write


def test_a_day_whose_values_cannot_be_read_is_refused_and_reported_until_it_leaves(
    with_texts, arguments, result, capsys
):
    wide = [*arguments, "--window-days", "9", "--max-drift", "9", "--max-norm-ratio", "9"]
    assert main(["refresh", with_texts(2), *wide, "--window-end", "2022-04-17"]) == 0
    assert result()["warnings"] == []
    today = ["refresh", with_texts(3, 2), *wide, "--window-end", "2022-04-18"]
    assert main(today) == 2
    error = capsys.readouterr().err
    assert "unreadable values of feature x on one day is 1 (2022-04-17, such as '3,0'), al" in error
    assert "correct the column, and deliver these days again" in error
    text = "20 values of x cannot be read, such as '3,0', on 2022-04-17: they became 0.0; correct"
    (warning,) = result()["warnings"]
    assert text in warning
    assert main([*today, "--max-filled-increase", "1"]) == 0
    assert f"check: {text}" in capsys.readouterr().out
    # The accepted day is known, and reported until it leaves the window.
    assert main(["refresh", with_texts(4, 2), *wide, "--window-end", "2022-04-19"]) == 0
    assert text in capsys.readouterr().out


def test_a_newest_day_that_is_missing_is_refused(raw, arguments, capsys):
    days = [*arguments, "--max-drift", "9", "--max-norm-ratio", "9"]
    assert main(["refresh", raw(3), *days, "--window-end", "2022-04-18"]) == 0
    assert main(["refresh", raw(3), *days, "--window-end", "2022-04-19"]) == 2
    assert "age of the newest row in days is" in capsys.readouterr().err
    assert main(["refresh", raw(4), *days, "--window-end", "2022-04-19"]) == 0


def test_an_old_run_that_is_repeated_is_refused_until_its_window_is_accepted(
    raw, arguments, result, capsys
):
    days = ["refresh", raw(4), *arguments, "--max-drift", "9", "--max-norm-ratio", "9"]
    assert main([*days, "--window-end", "2022-04-19"]) == 0
    published = result()["published"]
    assert main([*days, "--window-end", "2022-04-19"]) == 0
    old = [*days, "--window-end", "2022-04-17", "--max-age-increase-days", "9"]
    assert main(old) == 2
    assert "the window ends before that of the published run is 2 (" in capsys.readouterr().err
    assert (result()["outcome"], result()["stage"]) == ("refused", "check")
    assert main([*old, "--max-days-back", "2"]) == 0
    assert result()["published"] > published


def test_a_refusal_names_rows_that_were_left_out_beside_the_days_that_they_left_empty(
    raw, arguments, tmp_path, capsys
):
    command = [*arguments, "--window-days", "9", "--max-bad-rows", "0.5"]
    assert main(["refresh", raw(3), *command, "--window-end", "2022-04-18"]) == 0
    path = tmp_path / "raw" / "interactions.parquet"
    rows = pq.read_table(path)
    times = rows["time"].to_numpy()
    seconds = np.where(times >= START + 86_400_000, times // 1000, times)
    pq.write_table(rows.set_column(4, "time", pa.array(seconds)), path)
    assert main(["refresh", f"{tmp_path}/raw", *command, "--window-end", "2022-04-18"]) == 2
    assert ". 20 rows were left out: implausible_time. Fix" in capsys.readouterr().err


def test_a_day_in_the_middle_that_was_not_delivered_is_refused_until_it_comes_or_is_accepted(
    raw, arguments, result, tmp_path, capsys
):
    command = [*arguments, "--max-drift", "9", "--max-norm-ratio", "9"]
    assert main(["refresh", raw(4), *command, "--window-end", "2022-04-19"]) == 0
    folder = raw(5)
    path = tmp_path / "raw" / "interactions.parquet"
    whole = pq.read_table(path)
    third_day = pc.equal(pc.divide(pc.subtract(whole["time"], START), 86_400_000), 2)
    pq.write_table(whole.filter(pc.invert(third_day)), path)
    today = ["refresh", folder, *command, "--window-end", "2022-04-20"]
    assert main(today) == 2
    assert "half of the published run's rows is 1 (2022-04-17), allowed" in capsys.readouterr().err
    assert (result()["outcome"], result()["published"]) == ("refused", None)
    assert main([*today, "--max-lost-days", "1"]) == 0
    assert "check:" not in capsys.readouterr().out
    # The accepted run is now the published one: the gap is known.
    assert main(today) == 0
    pq.write_table(whole, path)
    assert main(today) == 0
    assert "2022-04-17" in result()["quality"]["rows_by_day"]


def test_a_day_that_was_empty_from_the_start_is_a_warning_of_the_first_run(
    raw, arguments, result, tmp_path, capsys
):
    folder = raw(1)
    path = tmp_path / "raw" / "interactions.parquet"
    later = pc.add(pq.read_table(path)["time"], 2 * 86_400_000)
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.set_column(4, "time", later)]), path)
    assert main(["refresh", folder, *arguments]) == 0
    assert "check: no rows on 2022-04-16; were" in capsys.readouterr().out
    assert result()["warnings"] == ["no rows on 2022-04-16; were these days delivered?"]
    assert main(["refresh", folder, *arguments]) == 0
    assert "check:" not in capsys.readouterr().out
    assert result()["warnings"] == []
