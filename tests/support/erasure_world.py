"""Outputs and a store from which keys are erased: the command, and what the files hold."""

from __future__ import annotations

from limaml_beam.io.tfrecords import read_records

ERASED = "3"


def command(world, *more, keys=(ERASED,)):
    return [
        *("erase", *keys, "--store", f"lmdb:{world}/store"),
        *("--manifest-of-outputs", str(world / "outputs.yaml"), *more),
    ]


def records_in(folder):
    return [r for file in sorted(folder.glob("*.tfrecord.gz")) for r in read_records(str(file))]
