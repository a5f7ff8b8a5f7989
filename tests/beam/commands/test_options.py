"""One set of defaults for the jobs, and the command line on top."""

import argparse
import dataclasses
import math

import pytest

from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.commands import embed_arguments, prepare_arguments, refresh
from limaml_beam.generate_embeddings.options import EmbedOptions
from limaml_beam.refresh.options import Thresholds
from tfrec_limaml.errors import LimamlError


def test_the_command_line_without_flags_has_the_defaults_of_python():
    parser = argparse.ArgumentParser()
    refresh.add_arguments(parser)
    given = parser.parse_args(["RAW", "--work", "W", "--export", "E", "--store", "lmdb:S"])
    assert refresh.options_from(given) == (PrepareOptions(raw="RAW"), EmbedOptions())
    limits = dataclasses.asdict(Thresholds())
    assert {name: getattr(given, name) for name in limits} == limits
    for command, options, default in (
        (prepare_arguments, ["RAW", "--output", "T"], PrepareOptions(raw="RAW")),
        (embed_arguments, ["T", "--export", "E", "--output", "O"], EmbedOptions()),
    ):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        assert command.options_from(parser.parse_args(options)) == default


def test_flags_change_what_they_name_and_nothing_else():
    parser = argparse.ArgumentParser()
    refresh.add_arguments(parser)
    line = (
        "--work=W --export=E --store=lmdb:S --schema=s.yaml --interactions=a --interactions=b "
        "--table=t=c --table=t=d --max-samples=3 --shards=2 --window-days=7 "
        "--window-end=2024-01-01 --workers=2 --batch-size=9 --max-bad-fraction=0.2 "
        "--max-bad-rows=0.3"
    )
    made = refresh.options_from(parser.parse_args(line.split()))
    assert made[0] == PrepareOptions(
        schema="s.yaml",
        interactions=("a", "b"),
        tables={"t": ["c", "d"]},
        max_samples=3,
        shards=2,
        window_days=7.0,
        window_end="2024-01-01",
        max_bad_fraction=0.3,
    )
    assert made[1] == EmbedOptions(workers=2, batch_size=9, max_bad_fraction=0.2)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ([], "^give the folder RAW, or both --schema and --interactions"),
        (["RAW", "--history-prior=0.5"], "^--history-prior needs --recent-only"),
    ],
)
def test_the_command_line_is_told_of_its_own_options(line, said):
    parser = argparse.ArgumentParser()
    prepare_arguments.add_arguments(parser)
    with pytest.raises(LimamlError, match=said):
        prepare_arguments.options_from(parser.parse_args([*line, "--output=T"]))


@pytest.mark.parametrize(
    ("options", "changes", "said"),
    [
        (PrepareOptions, {"raw": "R", "max_bad_fraction": 2.0}, "max_bad_fraction .*received 2.0"),
        (PrepareOptions, {}, "folder raw, or both schema and interactions, received schema=None"),
        (
            PrepareOptions,
            {"raw": "R", "history_prior": 0.5},
            "^history_prior=0.5 needs recent_only",
        ),
        (Thresholds, {"min_finite": 3}, "min_finite must be between 0 and 1, received 3"),
        (Thresholds, {"min_finite": -0.1}, "min_finite must be between 0 and 1, received -0.1"),
        (Thresholds, {"max_drift": math.nan}, "max_drift must be at least 0, received nan"),
        (Thresholds, {"max_lost_days": -1}, "max_lost_days must be at least 0, received -1"),
        (
            Thresholds,
            {"min_loss_improvement": 1.5},
            "min_loss_improvement must be at most 1, received 1.5",
        ),
        (
            Thresholds,
            {"min_norm_ratio": 3},
            "min_norm_ratio must not exceed max_norm_ratio, received 3 and 2",
        ),
        (EmbedOptions, {"workers": 0}, "workers must be at least 1, received 0"),
        (EmbedOptions, {"batch_size": 0}, "batch_size must be at least 1, received 0"),
        (EmbedOptions, {"keep_generations": 0}, "keep_generations must be at least 1, received 0"),
        (EmbedOptions, {"max_age_days": -1.0}, "max_age_days must not be negative, received -1"),
        (
            EmbedOptions,
            {"max_age_days": float("nan")},
            "max_age_days must not be negative, received nan",
        ),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(options, changes, said):
    with pytest.raises(LimamlError, match=said):
        options(**changes)


def test_limits_may_be_infinite_and_a_loss_may_rise():
    assert Thresholds(max_drift=math.inf, min_loss_improvement=-9.0).max_drift == math.inf


def test_worker_processes_share_the_cores_unless_their_threads_are_given():
    assert (EmbedOptions().worker_flags, EmbedOptions().threads_per_worker) == ([], 0)
    many = EmbedOptions(workers=10**6)
    assert many.threads_per_worker == 1
    assert "--direct_num_workers=1000000" in many.worker_flags
    assert EmbedOptions(workers=2, intra_op_threads=5).threads_per_worker == 5
