"""Checks before publication."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from limaml_beam.build_tasks.settings import FAR_FUTURE, FAR_PAST
from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.embedding_statistics import describe, drift
from limaml_beam.refresh.checks import Check, Thresholds, check_run, require
from limaml_beam.refresh.input_checks import check_input
from tfrec_limaml.errors import LimamlError


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


def test_losses_are_those_of_the_tasks_that_have_two_finite_ones(tmp_path):
    """Nested tasks have none."""
    number = np.arange(len(BASE))
    losses = np.where(number % 4, 2.0, np.nan), np.where(number == 1, np.inf, 1.5)
    statistics = write(tmp_path / "run", BASE, losses)["statistics"]
    assert (statistics["mean_loss_before"], statistics["mean_loss_after"]) == (2.0, 1.5)
    assert statistics["loss_improvement"] == 0.25


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


def test_a_refusal_names_the_option_of_the_limit_that_a_value_exceeds():
    check = Check("ratio", 3.0, 0.5, 2.0, options=("--min-ratio", "--max-ratio"))
    fixed = Check("share", 1.0, 0.0, 0.95)
    wider = r"Fix the cause, or set the options in brackets to wider limits if the change"
    with pytest.raises(LimamlError, match=rf"allowed 0.5 to 2 \(--max-ratio\)\. {wider}"):
        require([check])
    with pytest.raises(LimamlError, match=r"allowed 0.5 to 2 \(--min-ratio\)\. "):
        require([dataclasses.replace(check, value=0.1)])
    with pytest.raises(LimamlError, match=r"allowed 0 to 0.95\. Fix the cause$"):
        require([fixed])


def test_a_refusal_does_not_repeat_the_remedies_that_its_checks_name():
    own = Check("days", 3.0, 0.0, 1.0, remedy="deliver them", options=("", "--max-days"))
    other = Check("ratio", 3.0, 0.0, 1.0, options=("", "--max-ratio"))
    with pytest.raises(LimamlError, match=r"\(--max-days\): deliver them$"):
        require([own, own])
    with pytest.raises(LimamlError, match=r"deliver them\. 1 row was left out: bad$"):
        require([own], {"bad": 1})
    with pytest.raises(LimamlError, match=r": deliver them; ratio .*\. Fix the cause, or set"):
        require([own, other])


def test_every_threshold_is_named_by_a_check_with_its_option(tmp_path):
    reference, report = write(tmp_path / "old", BASE), write(tmp_path / "new", BASE)
    measured = check_run(f"{tmp_path}/new", report, f"{tmp_path}/old", reference, Thresholds())
    quality = {"filled": {"x": 0}, "unknown_keys": {"t": 0}, "newest_row_age_days": 0}
    quality |= {"rows_per_day": 1, "rows_by_day": {"2022-04-01": 1}, "window_end": 0}
    measured += check_input(quality, quality, quality, Thresholds(), (FAR_PAST, FAR_FUTURE))
    named = {option for check in measured for option in check.options if option}
    assert named == {f"--{n.replace('_', '-')}" for n in Thresholds.__dataclass_fields__}


@pytest.mark.parametrize(
    ("skipped", "text"),
    [
        ({}, ""),
        ({"duplicate": 5, "outside_dates": 9, "erased": 1}, ""),
        ({"implausible_time": 572, "duplicate": 5}, "572 rows were left out: implausible_time. "),
        ({"invalid_label": 1}, "1 row was left out: invalid_label. "),
        (
            {"invalid_label": 1, "implausible_time": 2},
            r"3 rows were left out: implausible_time \(2\), invalid_label \(1\). ",
        ),
    ],
)
def test_a_refusal_names_the_reasons_for_which_rows_were_left_out(skipped, text):
    with pytest.raises(LimamlError, match=rf"allowed 0 to 1. {text}Fix the cause"):
        require([Check("share", 2.0, 0.0, 1.0)], skipped)
