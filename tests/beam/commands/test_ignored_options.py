"""Options that would do nothing beside the others are refused by name, with the remedy."""

import argparse

import pytest

from limaml_beam.commands import embed, stream, update
from limaml_beam.commands.ignored_options import refuse_ignored, refuse_workers
from tfrec_limaml.cli import main

FOLDER = "stream --from-folder in --work W --store lmdb:S"
KAFKA = "stream --from-kafka 127.0.0.1:9 --topic t --work W --store lmdb:S"
UPDATE = "update new.parquet --work W --store lmdb:S"
EMBED = "embed T --export E --output O"
REFRESH = "refresh RAW --work W --export E --store lmdb:S"


@pytest.mark.parametrize(
    ("line", "option", "said"),
    [
        (FOLDER, "--topic t", "--topic needs --from-kafka"),
        (FOLDER, "--group g", "--group needs --from-kafka"),
        (FOLDER, "--batch-seconds 2", "--batch-seconds needs --from-kafka"),
        (FOLDER, "--batch-messages 2", "--batch-messages needs --from-kafka"),
        (FOLDER, "--kafka-config f", "--kafka-config needs --from-kafka"),
        (FOLDER, "--as-pipeline", "--as-pipeline needs --from-kafka"),
        (FOLDER, "--expansion-service h:1", "--expansion-service needs --as-pipeline"),
        (FOLDER, "--beam=--runner=FlinkRunner", "limaml stream does nothing with --beam=--runner"),
        (KAFKA, "--poll-seconds 2", "--poll-seconds needs --from-folder"),
        (KAFKA, "--expansion-service h:1", "--expansion-service needs --as-pipeline"),
        (KAFKA, "--beam=--runner=FlinkRunner", "or give --as-pipeline"),
        (KAFKA, "--window-end 2026-01-01 --clock-skew-seconds 9", "--clock-skew-seconds does"),
        (UPDATE, "--window-end 2026-01-01 --clock-skew-seconds 9", "leave out --clock-skew"),
        (UPDATE, "--beam=--runner=FlinkRunner", "leave out --runner"),
        (EMBED, "--keep-generations 3", "--keep-generations needs --store"),
        (EMBED, "--max-age-days 3", "--max-age-days needs --previous"),
        (EMBED, "--workers 2 --beam=--runner=FlinkRunner", "--workers 2 does nothing with"),
        (REFRESH, "--workers 2 --beam=--runner=FlinkRunner", "--workers 2 does nothing with"),
        *(
            (command, f"--workers 2 {flag}", f"--workers 2 means {meant}, and {flag} says")
            for command in (EMBED, REFRESH)
            for flag, meant in (
                ("--beam=--direct_num_workers=3", "--direct_num_workers=2"),
                ("--beam=--direct_num_workers=1", "--direct_num_workers=2"),
                (
                    "--beam=--direct_running_mode=multi_threading",
                    "--direct_running_mode=multi_processing",
                ),
            )
        ),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(line, option, said, capsys, tmp_path):
    line = line.replace("lmdb:S", f"lmdb:{tmp_path}/S")
    assert main([*line.split(), *option.split()]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "leave" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (stream, "--from-folder in --poll-seconds 2 --work W --store S"),
        (stream, "--from-kafka h:1 --topic t --group g --batch-seconds 2 --work W --store S"),
        (update, "a --work W --store S --clock-skew-seconds 2"),
        (embed, "T --export E --output O --store S --keep-generations 3"),
        (embed, "T --export E --output O --previous P --max-age-days 3"),
    ],
)
def test_options_that_do_something_are_taken(command, line):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    refuse_ignored(parser.parse_args(line.split()), command.add_arguments, command.IGNORED)


@pytest.mark.parametrize(
    "line",
    [
        "--workers 2 --beam=--direct_num_workers=2",
        "--workers 2 --beam=--direct_num_workers --beam=2",
        "--beam=--direct_num_workers=3 --beam=--direct_running_mode=multi_threading",
    ],
)
def test_flags_for_beam_that_agree_with_the_workers_are_taken(line):
    parser = argparse.ArgumentParser()
    embed.add_arguments(parser)
    refuse_workers(parser.parse_args(f"T --export E --output O {line}".split()))
