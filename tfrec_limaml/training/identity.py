"""The identity of a training run: the values that determine its weights.

A run can be resumed only with equal values.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.folder import EPISODE, STATISTICS_FILE, shard_pattern
from tfrec_limaml.training.options import TrainOptions

#: Names of the values that describe the machines, not the data or the settings.
MACHINES = ("number of workers", "replicas per worker")


def training_identity(
    tasks: str | Path, task: str | None, encoder: FeatureEncoder, options: TrainOptions
) -> dict[str, Any]:
    """Version, data and settings of a training run, by name; all JSON types.

    Args:
        tasks: Folder written by ``limaml prepare``.
        task: Task definition; None for the schema's first.
        encoder: Encoder of the folder.
        options: The settings.
    """
    statistics = (Path(tasks) / STATISTICS_FILE).read_bytes()
    values = dataclasses.asdict(options)
    model_values = values.pop("model")
    identity = {
        "version": version("tfrec-limaml"),
        "schema fingerprint": encoder.schema.fingerprint(),
        "statistics digest": hashlib.sha256(statistics).hexdigest()[:16],
        "task definitions": [task or encoder.schema.default_task, *encoder.nested],
        "digest of the record files": _record_files_digest(Path(tasks)),
        **{f"option {name}": value for name, value in {**values, **model_values}.items()},
    }
    normalised: dict[str, Any] = json.loads(json.dumps(identity))  # tuples become lists
    return normalised


def _record_files_digest(tasks: Path) -> str:
    """Digest of the names and sizes of the files of training and validation records."""
    files = sorted(
        (f"{file.parent.name}/{file.name}", file.stat().st_size)
        for split in (EPISODE, "train", "validation")
        for file in tasks.glob(f"*/{shard_pattern(split)}")
    )
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


def require_same_training(
    stored: Mapping[str, Any],
    expected: Mapping[str, Any],
    owner: str,
    ignore: Collection[str] = (),
) -> None:
    """Compares the identity of an earlier run with that of the requested one.

    Args:
        stored: Identity of the earlier run.
        expected: Identity of the requested run.
        owner: Names the checkpoint or model of the earlier run in the error message.
        ignore: Names whose values may differ.

    Raises:
        LimamlError: Names the first difference.
    """
    for name in {**stored, **expected}:
        if name not in ignore and stored.get(name) != expected.get(name):
            raise LimamlError(
                f"{owner} belongs to a training run with {name} {stored.get(name)!r}, received "
                f"{expected.get(name)!r}; train with the same settings and data, or from the start "
                "(--overwrite)"
            )
