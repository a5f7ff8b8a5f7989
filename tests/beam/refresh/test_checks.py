"""Checks before publication."""

import argparse
import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from limaml_beam.build_tasks.settings import FAR_FUTURE, FAR_PAST
from limaml_beam.commands.refresh import add_arguments
from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.embedding_statistics import describe, drift
from limaml_beam.refresh import days
from limaml_beam.refresh.checks import Thresholds, check_input, check_run, require
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import parse_time


def write(folder, embeddings, losses=(1.0, 0.5), files=2):
    folder.mkdir()
    embeddings = np.asarray(embeddings, np.float32)
    count = len(embeddings)
    table = tables.embeddings_table(
        keys=[f"u{n}" for n in range(count)],
        definitions=["user"] * count,
        embeddings=embeddings,
        timestamps=np.zeros(count, np.int64),
        sample_counts=np.ones(count, np.int64),
        losses=(np.full(count, losses[0], np.float32), np.full(count, losses[1], np.float32)),
        digests=[b""] * count,
        model_version=1,
        generation=folder.name,
    )
    for n in range(files):
        pq.write_table(
            table.slice(n * count // files, (n + 1) * count // files - n * count // files),
            folder / f"embeddings-{n}.parquet",
        )
    return {
        "generation": folder.name,
        "rows": count,
        "embedded": count,
        "dead_letters": {},
        "manifest_digest": "same",
        "statistics": describe(str(folder)),
    }


def failed(tmp_path, old, new, **changes):
    reference, report = (
        write(tmp_path / "old", old),
        write(tmp_path / "new", **({"embeddings": new} | changes)),
    )
    measured = check_run(f"{tmp_path}/new", report, f"{tmp_path}/old", reference, Thresholds())
    return [check.name.split()[0] for check in measured if not check.passed]


BASE = np.array([[3, 4], [6, 8], [0, 5], [5, 0]] * 5)


def test_statistics_are_those_of_all_files_together(tmp_path):
    statistics = write(tmp_path / "run", BASE, losses=(2.0, 1.5))["statistics"]
    assert statistics["mean_norm"] == pytest.approx(25 / 4)
    assert statistics["max_norm"] == pytest.approx(10)
    assert statistics["norm_of_mean"] == pytest.approx(np.hypot(14, 17) / 4)
    assert statistics["loss_improvement"] == pytest.approx(0.25)


def test_drift_is_the_relative_root_mean_square_change(tmp_path):
    write(tmp_path / "old", BASE)
    write(tmp_path / "new", BASE * 1.1)
    assert drift(f"{tmp_path}/old", f"{tmp_path}/new") == pytest.approx(0.1, rel=1e-5)
    assert drift(f"{tmp_path}/old", f"{tmp_path}/old") == 0.0


def test_drift_is_measured_on_the_same_tasks_of_both_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("limaml_beam.generate_embeddings.embedding_statistics.SAMPLED_TASKS", 7)
    write(tmp_path / "old", BASE)
    write(tmp_path / "new", -BASE)
    assert drift(f"{tmp_path}/old", f"{tmp_path}/new") == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (BASE, []),
        (BASE[:15], ["number"]),
        (BASE * 0.3, ["mean"]),
        (-BASE, ["drift"]),
        (np.tile(BASE, (2, 1)), ["number"]),
    ],
)
def test_each_change_is_noticed_by_its_check(tmp_path, new, expected):
    assert failed(tmp_path, BASE, new) == expected


def test_an_adaptation_that_does_not_lower_the_loss_is_noticed(tmp_path):
    assert failed(tmp_path, BASE, BASE, losses=(1.0, 1.1)) == ["loss"]


def test_losses_that_are_not_numbers_are_left_out_of_the_mean(tmp_path):
    assert (
        write(tmp_path / "run", BASE, losses=(np.nan, 0.5))["statistics"]["loss_improvement"]
        is None
    )


def test_vectors_of_another_model_are_not_compared(tmp_path):
    reference, report = write(tmp_path / "old", BASE), write(tmp_path / "new", -BASE * 9)
    other = report | {"manifest_digest": "other"}
    assert all(
        check.passed
        for check in check_run(f"{tmp_path}/new", other, f"{tmp_path}/old", reference, Thresholds())
    )


def test_too_many_vectors_that_are_not_finite_are_noticed(tmp_path):
    report = write(tmp_path / "run", BASE) | {"dead_letters": {tables.NOT_FINITE: 5}}
    (check, *_) = check_run(f"{tmp_path}/run", report, None, None, Thresholds())
    assert check.value == pytest.approx(0.8)
    assert not check.passed


def test_a_refusal_names_every_failed_check_and_its_limits(tmp_path):
    report = write(tmp_path / "run", BASE, losses=(1.0, 2.0))
    with pytest.raises(LimamlError, match=r"loss improvement is -1, allowed 0.2 to 1"):
        require(
            check_run(
                f"{tmp_path}/run",
                report,
                None,
                None,
                dataclasses.replace(Thresholds(), min_loss_improvement=0.2),
            )
        )


ALWAYS = FAR_PAST, FAR_FUTURE


def at(date):
    return parse_time(f"2022-04-{date}")


def days_of(first, last, *without, rows=10, **changed):
    """`rows` rows on each day from the first to the last; ``d05=3``: three on the fifth."""
    days = (f"{day:02}" for day in range(int(first), int(last) + 1))
    counts = {day: changed.get(f"d{day}", rows) for day in days if day not in without}
    return {"rows_by_day": {f"2022-04-{day}": number for day, number in counts.items()}}


@pytest.mark.parametrize(
    ("now", "published", "window", "lost"),
    [
        (days_of("02", "09"), days_of("01", "08"), (at("02"), at("10")), ""),
        (days_of("02", "09", "05"), days_of("01", "08"), (at("02"), at("10")), "2022-04-05"),
        (days_of("02", "09", "05"), days_of("01", "08", "05"), (at("02"), at("10")), ""),
        (
            days_of("04", "09", "05", "06", "08"),
            days_of("01", "08"),
            (at("02"), at("10")),
            "2022-04-02 to 2022-04-03, 2022-04-05 to 2022-04-06, 2022-04-08",
        ),
        # A day that is delivered in part, and a local day that overlaps two.
        (days_of("02", "09", d05=5), days_of("01", "08"), (at("02"), at("10")), "2022-04-05"),
        (days_of("02", "09", d05=6), days_of("01", "08"), (at("02"), at("10")), ""),
        (days_of("02", "09", d05=7, d06=3), days_of("01", "08"), ALWAYS, "2022-04-01, 2022-04-06"),
        (days_of("01", "09", rows=20), days_of("01", "08"), ALWAYS, ""),
        # Days that are not whole within the window may have lost their rows to it.
        (days_of("03", "09"), days_of("01", "08"), (at("02") + 1, at("10")), ""),
        (days_of("02", "06"), days_of("01", "08"), (at("02"), at("08") - 1), ""),
        (days_of("02", "06"), days_of("01", "08"), (at("02"), at("08")), "2022-04-07"),
        (days_of("02", "06"), days_of("01", "08"), ALWAYS, "2022-04-01, 2022-04-07 to 2022-04-08"),
    ],
)
def test_a_day_of_the_window_that_loses_half_its_rows_is_refused_and_named(
    now, published, window, lost
):
    (check,) = check_input(now, {}, published, Thresholds(), window)
    assert (check.passed, check.detail) == (not lost, lost)
    if lost:
        remedy = rf"deliver .* accept them with --max-lost-days {check.value}\. "
        with pytest.raises(LimamlError, match=rf"is \d \({lost}\), allowed 0 to 0: {remedy}"):
            require([check])
    (wide,) = check_input(now, {}, published, Thresholds(max_lost_days=5), window)
    assert wide.passed


def test_days_are_not_compared_with_a_run_that_did_not_write_them():
    assert check_input(days_of("02", "06"), {}, {"filled": {}}, Thresholds(), ALWAYS) == []


@pytest.mark.parametrize(
    ("published", "expected"),
    [({}, ["05", "08"]), (days_of("01", "06", "05"), ["08"]), (days_of("01", "08"), [])],
)
def test_an_empty_day_is_warned_about_by_the_first_run_that_sees_it(published, expected):
    found = days.newly_empty(days_of("02", "09", "05", "08"), published)
    assert [f"{day:%d}" for day in found] == expected


@pytest.mark.parametrize(
    ("quality", "trained", "reference", "failing"),
    [
        ({"filled": {"age": 0.1}}, {"filled": {}}, {}, []),
        ({"filled": {"age": 0.3}}, {"filled": {}}, {}, ["share of filled values of feature age"]),
        ({"filled": {"age": 0.3}}, {"filled": {"age": 0.2}}, {}, []),
        ({"filled": {"age": 1.0}}, {}, {}, ["share of filled values of feature age"]),
        ({"filled": {"age": 0.9}}, {}, {}, []),
        (
            {"filled": {"age": 0.9}},
            {},
            {"filled": {"age": 0.1}},
            ["share of filled values of feature age"],
        ),
        (
            {"unknown_keys": {"users": 1.0}},
            {"unknown_keys": {"users": 0.1}},
            {},
            ["share of unknown keys of table users"],
        ),
        ({"newest_row_age_days": 1.2}, {}, {"newest_row_age_days": 0.4}, []),
        (
            {"newest_row_age_days": 1.4},
            {},
            {"newest_row_age_days": 0.4},
            ["age of the newest row in days"],
        ),
        ({"newest_row_age_days": 9.0}, {}, {}, []),
        ({"rows_per_day": 60.0}, {}, {"rows_per_day": 100.0}, []),
        (
            {"rows_per_day": 40.0},
            {},
            {"rows_per_day": 100.0},
            ["rows per day relative to the published run"],
        ),
        (
            {"rows_per_day": 300.0},
            {},
            {"rows_per_day": 100.0},
            ["rows per day relative to the published run"],
        ),
    ],
)
def test_input_is_judged_by_the_training_data_and_the_published_run(
    quality, trained, reference, failing
):
    measured = check_input(quality, trained, reference, Thresholds(), ALWAYS)
    assert [check.name for check in measured if not check.passed] == failing


@pytest.mark.parametrize(
    ("quality", "trained", "published", "options"),
    [
        ({"rows_per_day": 40.0}, {}, {"rows_per_day": 100.0}, ["--min-rows-per-day-ratio"]),
        ({"rows_per_day": 300.0}, {}, {"rows_per_day": 100.0}, ["--max-rows-per-day-ratio"]),
        ({"filled": {"age": 1.0}}, {"filled": {}}, {}, ["--max-filled-increase"]),
        ({"filled": {"age": 1.0}}, {}, {}, []),
        (
            {"unknown_keys": {"a": 1.0, "b": 1.0}, "newest_row_age_days": 9.0},
            {"unknown_keys": {}},
            {"newest_row_age_days": 0.0},
            ["--max-unknown-increase", "--max-age-increase-days"],
        ),
    ],
)
def test_a_refusal_names_the_options_that_widen_its_limits(quality, trained, published, options):
    remedy = f", or widen {', '.join(options)} if the change is intended" if options else ""
    with pytest.raises(LimamlError, match=rf"\. Fix the cause{remedy}$"):
        require(check_input(quality, trained, published, Thresholds(), ALWAYS))


def test_each_check_of_a_run_has_an_option_of_the_command(tmp_path):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    known = {option for action in parser._actions for option in action.option_strings}
    for name, vectors in (("less", BASE[:9] * 0.1), ("more", np.tile(-9 * BASE, (4, 1)))):
        reference = write(tmp_path / f"{name}-old", BASE)
        report = write(tmp_path / name, vectors, losses=(1.0, 3.0))
        report |= {"dead_letters": {tables.NOT_FINITE: 50}}
        old = f"{tmp_path}/{name}-old"
        limits = Thresholds(max_drift=0.01)
        checks = check_run(f"{tmp_path}/{name}", report, old, reference, limits)
        assert len(checks) == 5
        assert {check.option for check in checks} <= known
