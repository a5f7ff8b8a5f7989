"""Public, simulated and users' data sets, in one raw layout.

Examples:
    >>> from tfrec_limaml import datasets
    >>> settings = {"members": 500}
    >>> card = datasets.prepare("simulated", "raw", settings=settings)    # doctest: +SKIP
    >>> card["rows"], card["label_rate"]                                  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrec_limaml.datasets.text_format import TextFormat
from tfrec_limaml.paths import path_text


def prepare(
    name: str,
    output: str | Path,
    *,
    data_dir: str | Path | None = None,
    label: str | None = None,
    tasks: Sequence[str] | None = None,
    history: bool = False,
    id_feature: bool = False,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a built-in data set in the raw layout (see `tfrec_limaml.datasets.raw`).

    Args:
        name: One of `names`.
        output: Folder to write.
        data_dir: Folder with the official files; missing ones are downloaded into it.
        label: Label column; the data set's first by default.
        tasks: Task definitions; the data set's first by default.
        history: Declare point-in-time history features.
        id_feature: Declare the key of the first task definition as an embedded meta feature, for ID
            meta blocks.
        settings: Further settings of the data set, e.g. ``{"members": 500, "seed": 1}``.
        overwrite: Replace an earlier output.

    Returns:
        The data card.

    Raises:
        LimamlError: Unknown name or option, an existing output, or files that cannot be downloaded.
        SchemaError: Files with unexpected contents.
    """
    from tfrec_limaml.datasets import raw, registry

    path = raw.check_output(output, overwrite)
    dataset = registry.get(name)
    request = dataset.request(
        data_dir=data_dir, label=label, tasks=tuple(tasks or ()), history=history, settings=settings
    )
    data = dataset.load(request)
    return _finish(raw.with_id_feature(data) if id_feature else data, path)


def prepare_own(
    schema: str | Path,
    interactions: str | Path,
    output: str | Path,
    *,
    tables: Mapping[str, str | Path] | None = None,
    text: TextFormat | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Checks your own CSV or Parquet files against your schema, and writes them in the raw layout.

    Args:
        schema: YAML file, see `tfrec_limaml.schema.schema.Schema`.
        interactions: CSV, TSV or Parquet file with one row per interaction, a folder of such files,
            or a pattern.
        output: Folder to write.
        tables: Feature tables by their names in the schema's ``tables``.
        text: Format of text files, as far as it cannot be detected.
        overwrite: Replace an earlier output.

    Returns:
        The data card.

    Raises:
        SchemaError: The files do not fit the schema; see `tfrec_limaml.datasets.conform.conform`.
    """
    from tfrec_limaml.datasets import raw, user_files

    path = raw.check_output(output, overwrite)
    data = user_files.load_own(
        path_text(schema, "schema"),
        path_text(interactions, "interactions"),
        {name: path_text(file, f"table {name!r}") for name, file in (tables or {}).items()},
        text,
    )
    return _finish(data, path)


def describe(
    target: str | Path,
    *,
    schema: str | Path | None = None,
    write_schema: str | Path | None = None,
    text: TextFormat | None = None,
    label: str | None = None,
    timestamp: str | None = None,
    task: str | None = None,
) -> dict[str, Any]:
    """Describes a data set.

    Args:
        target: A prepared folder, a CSV or Parquet file of interactions (or a folder or pattern of
            such files), or the name of a built-in data set.
        schema: Schema of the file; guessed by default.
        write_schema: File for the guessed schema, as YAML.
        text: Format of text files, as far as it cannot be detected.
        label, timestamp, task: Columns of the guessed schema that need not be guessed.

    Returns:
        A data card. For a file without `schema`, it also has the guessed schema as ``schema_yaml``,
        and its ``warnings`` say what to check. For a built-in data set, its labels, task
        definitions, licence and other properties.

    Raises:
        SchemaError: The file cannot be read, does not fit the schema, or has no column like a
            label, a time or a task key.
        LimamlError: `target` is neither a file nor a built-in data set, or a schema is given for
            something other than a file.
    """
    from tfrec_limaml.datasets import description
    from tfrec_limaml.datasets.guess import Known

    known = Known(label=label, timestamp=timestamp, task=task)
    schema = None if schema is None else path_text(schema, "schema")
    return description.describe(path_text(target, "target"), schema, write_schema, text, known)


def names() -> list[str]:
    """Names of the built-in data sets."""
    from tfrec_limaml.datasets import registry

    return sorted(registry.all_datasets())


def _finish(data: Any, path: Path) -> dict[str, Any]:
    from tfrec_limaml.datasets import card, conform, raw

    conformed, invalid = conform.conform(data)
    result = card.data_card(conformed, invalid)
    raw.write_raw(conformed, result, path)
    return {**result, "written": str(path)}
