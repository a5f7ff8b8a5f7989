"""Finds the files that `PrepareOptions` name, and builds task records from them."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from typing import Any

from limaml_beam.build_tasks.inputs import Inputs
from limaml_beam.build_tasks.job import build_tasks
from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.build_tasks.settings import FAR_FUTURE, FAR_PAST, TaskSettings, date_fields
from limaml_beam.io import files, outcome
from limaml_beam.io.pipeline_options import use_options
from tfrec_limaml.datasets.text_format import text_format
from tfrec_limaml.errors import LimamlError, SchemaError
from tfrec_limaml.paths import path_text
from tfrec_limaml.schema.schema import Schema, Split
from tfrec_limaml.tasks.folder import DATA_CARD_FILE, SCHEMA_FILE

#: Bytes of interactions per partition, and the least and the largest number of partitions.
_PARTITION_BYTES, _MIN_PARTITIONS, _MAX_PARTITIONS = 2**21, 4, 4096


def prepare(
    options: PrepareOptions,
    output: str | os.PathLike[str],
    flags: Sequence[str] = (),
    overwrite: bool = False,
) -> dict[str, Any]:
    """Builds task records; `output` appears complete or not at all.

    Args:
        options: The input and the settings of the records.
        output: Folder to write, local or on any Beam filesystem.
        flags: Beam options (``--runner=...``).
        overwrite: Whether to replace an existing `output`, after the run has succeeded.

    Returns:
        The data card, with ``output``.

    Raises:
        LimamlError: The options name something that does not exist, or as `build_tasks`.
    """
    if not isinstance(options, PrepareOptions):
        raise LimamlError(
            "options must be PrepareOptions, for example PrepareOptions(raw=FOLDER), received "
            f"{options!r}"
        )
    output = path_text(output, "output")
    beam_options = use_options(flags)
    outcome.stage("match")
    schema, interactions, tables = sources(options)
    if options.split_per_task is not None:
        schema = schema.replace(split=Split(per_task=options.split_per_task))
    dates = _dates(options, schema)
    text = text_format(options.delimiter, options.null_words, options.quotes)
    date_range = dates.get("first", FAR_PAST), dates.get("last", FAR_FUTURE)
    inputs = Inputs.find(
        schema, interactions, tables, text, None if options.all_partitions else date_range
    )
    card = build_tasks(
        schema,
        inputs,
        output,
        _settings(options, schema, inputs.interactions.size, dates),
        options=beam_options,
        max_bad_fraction=options.max_bad_fraction,
        overwrite=overwrite,
    )
    return {"output": output, **card}


def _dates(options: PrepareOptions, schema: Schema) -> dict[str, Any]:
    """The date fields of `TaskSettings`."""
    return date_fields(
        schema,
        train_start=options.train_start,
        validation_start=options.validation_start,
        test_start=options.test_start,
        test_end=options.test_end,
        window_days=options.window_days,
        no_validation=options.no_validation,
        recent_only=options.recent_only,
        window_end=options.window_end,
    )


def _settings(
    options: PrepareOptions, schema: Schema, size: int, dates: dict[str, Any]
) -> TaskSettings:
    definitions = tuple(dict.fromkeys(options.tasks or schema.tasks))
    for definition in definitions:
        schema.task_columns(definition)
    by_size = max(_MIN_PARTITIONS, min(_MAX_PARTITIONS, size // _PARTITION_BYTES))
    return TaskSettings(
        definitions=definitions,
        max_samples=options.max_samples,
        max_query=options.max_query,
        shards=by_size if options.shards is None else options.shards,
        partitions=by_size,
        prior=_prior(options, schema),
        episodes=_episodes(options, schema),
        erased=options.erased,
        keep_rows=options.keep_rows,
        **dates,
    )


def _episodes(options: PrepareOptions, schema: Schema) -> int:
    allowed = bool(schema.history) and not options.recent_only
    if options.episodes is None:
        within_tasks = schema.split is not None and schema.split.per_task is not None
        return 8 if allowed and within_tasks else 0
    if options.episodes and not allowed:
        raise LimamlError(
            f"--episodes {options.episodes} needs history features in the schema and evaluation "
            "splits; leave it out"
        )
    return options.episodes


def _prior(options: PrepareOptions, schema: Schema) -> float | None:
    """The mean label of the model's training rows; None if the options do not give it.

    The options give a number, or a folder of task records whose data card has the number.
    """
    prior = options.history_prior
    if prior is None:
        if options.recent_only and schema.history:
            logging.getLogger(__name__).warning(
                "history rates are smoothed towards the mean label of this run's rows, not "
                "towards that of the training rows; "
                "give --history-prior with the folder that the model was trained on"
            )
        return None
    try:
        number = float(prior)
    except ValueError:
        return _trained_mean(str(prior), schema)
    binary = schema.label.kind == "binary"
    if not (0 <= number <= 1 if binary else math.isfinite(number)):
        allowed = "between 0 and 1" if binary else "a finite number"
        raise LimamlError(f"--history-prior must be {allowed}, a mean label, received {number:g}")
    return number


def _trained_mean(folder: str, schema: Schema) -> float:
    """The mean label of the training rows of task records."""
    path = files.join(folder, DATA_CARD_FILE)
    text = files.read_text(path)
    if text is None:
        raise LimamlError(
            f"no data card at {path}; --history-prior takes a folder from `limaml prepare`"
        )
    card = json.loads(text)
    if card["schema_fingerprint"] != schema.fingerprint():
        raise LimamlError(
            f"the schema of --history-prior {folder} ({card['name']!r}) differs from that of this "
            f"run ({schema.name!r}); give the records that the model was trained on"
        )
    return float(card["splits"]["train"]["label_rate"])


def sources(
    options: PrepareOptions,
) -> tuple[Schema, Sequence[str], dict[str, Sequence[str]]]:
    """Schema, interaction patterns and table patterns; those of `raw` where none are given.

    Raises:
        LimamlError: The folder or the schema file does not exist, or the schema is invalid.
    """
    raw = options.raw
    if raw is None:
        return _schema(str(options.schema)), options.interactions, dict(options.tables)
    if not files.exists(raw):
        raise LimamlError(
            f"no folder {raw}; make one with `limaml datasets prepare NAME --output {raw}`"
        )
    schema = _schema(options.schema or files.join(raw, SCHEMA_FILE))
    in_folder = {name: [files.join(raw, f"{name}.parquet")] for name in schema.tables}
    return (
        schema,
        options.interactions or [files.join(raw, "interactions.parquet")],
        {**in_folder, **options.tables},
    )


def _schema(path: str) -> Schema:
    """A schema on any Beam filesystem."""
    if files.is_local(path):
        return Schema.load(path)
    text = files.read_text(path)
    if text is None:
        raise SchemaError(
            f"no schema file at {path}; give --schema, or a folder of `limaml datasets prepare`"
        )
    return Schema.from_yaml(text, path)
