"""VK-LSVD, the VK Large Short-Video Dataset (WWW 2026).

Short videos shown to users over half a year, with watch time and reactions.

File names and columns are those of the official description (the README of
huggingface.co/datasets/deepvk/VK-LSVD): ``metadata/users_metadata.parquet``,
``metadata/items_metadata.parquet``, and one file per week, ``week_00.parquet`` to ``week_24`` under
``train/``, ``week_25`` under ``validation/`` and ``week_26`` under ``test/``, in ``interactions/``
(all rows) or ``subsamples/NAME/`` (``urX``: a share of random users, ``upX``: of the most active
ones; ``irX`` and ``ipX``: of videos). The names of subsamples could not be verified one by one, so
they are not checked against a list.

The rows have no time. They are ordered by time within a week, so each gets a nominal time: the rows
of a week are spread evenly over its seven days. The first day of week 0 is not published; `START`
is the Monday before January 2025. The order and the splits are right; recencies and hours are not.
Do not derive the hour of day from these times.

Left out on purpose: ``train_interactions_rank`` of users and videos counts over all training weeks,
which include the future; the reactions other than the label are outcomes; and
``item_embeddings.npz`` (2.4 GB) is not read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tfrec_limaml.datasets import download
from tfrec_limaml.datasets.locate import given_or_default
from tfrec_limaml.datasets.raw import RawData
from tfrec_limaml.datasets.registry import Dataset, Request
from tfrec_limaml.errors import LimamlError, SchemaError
from tfrec_limaml.schema.columns import Role
from tfrec_limaml.schema.schema import Feature, History, Label, Schema, Split

URL = "https://huggingface.co/datasets/deepvk/VK-LSVD"
FOLDER = "VK-LSVD"
TABLES = {"users": "metadata/users_metadata.parquet", "items": "metadata/items_metadata.parquet"}
#: The value of ``--subset`` that reads all rows.
FULL_DATASET = "whole"
#: Weeks of each official folder.
WEEKS = {"train": range(25), "validation": range(25, 26), "test": range(26, 27)}
#: Nominal beginning of week 0; see the module's docstring.
START = pd.Timestamp("2024-12-30", tz="UTC")
WEEK_MS = 7 * 24 * 3600 * 1000
#: Share of a video's length from which it counts as ``watched``.
WATCHED = 0.5

_REACTIONS = ("like", "share", "bookmark", "click_on_author", "open_comments", "dislike")
_CONTEXT = {"place": 24, "platform": 11, "agent": 29}  # ids of each
_COLUMNS = {
    "users": ("user_id", "age", "gender", "geo"),
    "items": ("item_id", "author_id", "duration"),
}


def _load(request: Request) -> RawData:
    subset = str(request.settings["subset"])
    if not re.fullmatch(r"[\w.+-]+", subset):
        raise LimamlError(
            f"--subset must be {FULL_DATASET!r} or the name of a folder in subsamples/, received "
            f"{subset!r}"
        )
    folder = _folder(request.data_dir, subset)
    weeks = _weeks(folder, subset)
    rows = pd.concat(
        [_week(folder / name, number, request.label) for number, name in weeks.items()],
        ignore_index=True,
    )
    tables = {
        name: _read(folder / path, _COLUMNS[name], rows[_COLUMNS[name][0]].unique())
        for name, path in TABLES.items()
    }
    if request.label == "watched":
        length = rows["item_id"].map(tables["items"].set_index("item_id")["duration"])
        rows["watched"] = (
            (rows["timespent"] >= WATCHED * length).where(length > 0).astype("Float32")
        )
    return RawData(
        schema=_schema(request, max(weeks)),
        interactions=rows,
        tables=tables,
        source=DATASETS[0].source(files=[*weeks.values(), *TABLES.values()]),
    )


def _paths(subset: str) -> dict[int, str]:
    """Week to file, by the official layout."""
    base = "interactions" if subset == FULL_DATASET else f"subsamples/{subset}"
    return {
        week: f"{base}/{part}/week_{week:02}.parquet"
        for part, weeks in WEEKS.items()
        for week in weeks
    }


def _folder(data_dir: Path | None, subset: str) -> Path:
    """The folder of the official files; downloads all of them if there is no week.

    Raises:
        SchemaError: There are weeks, but no tables.
    """
    base = given_or_default(data_dir, FOLDER)
    paths = _paths(subset).values()
    for folder in (base / FOLDER, base):
        if any((folder / path).is_file() for path in paths):
            missing = [path for path in TABLES.values() if not (folder / path).is_file()]
            if missing:
                raise SchemaError(f"{folder} lacks {missing}; take them from {URL}")
            return folder
    for path in (*TABLES.values(), *paths):
        target = base / FOLDER / path
        # A file's text in the repository is a pointer that contains its sha256.
        download.fetch(f"{URL}/resolve/main/{path}", target.parent, f"{URL}/raw/main/{path}")
    return base / FOLDER


def _weeks(folder: Path, subset: str) -> dict[int, str]:
    """Week to file, for the existing files.

    Raises:
        SchemaError: A week between others is missing, so histories would have a gap.
    """
    paths = _paths(subset)
    present = {week: path for week, path in paths.items() if (folder / path).is_file()}
    if not present:
        raise LimamlError(f"{folder} was downloaded from {URL}, but has no week of {subset!r}")
    holes = [paths[week] for week in range(min(present), max(present)) if week not in present]
    if holes:
        raise SchemaError(
            f"{folder} lacks {holes}, but has weeks before and after; take them from {URL}"
        )
    return present


def _week(path: Path, week: int, label: str) -> pd.DataFrame:
    outcome = "timespent" if label == "watched" else label
    rows = _read(path, ("user_id", "item_id", *_CONTEXT, outcome))
    start = int(START.timestamp() * 1000) + week * WEEK_MS
    position = np.arange(len(rows), dtype="int64")
    return rows.assign(time_ms=start + position * WEEK_MS // max(len(rows), 1))


def _read(path: Path, columns: tuple[str, ...], values: np.ndarray | None = None) -> pd.DataFrame:
    """Reads columns of a Parquet file as int64.

    With `values`, only rows whose first column is among them. Raises `SchemaError` naming the file
    and its missing columns.
    """
    try:
        missing = sorted(set(columns) - set(pq.read_schema(path).names))
        if missing:
            raise SchemaError(f"{path} has no columns {missing}; fetch it again from {URL}")
        table = pq.ParquetFile(path).read(columns=list(columns))
        if values is not None:
            value_set = pa.array(values).cast(table[columns[0]].type)
            table = table.filter(pc.is_in(table[columns[0]], value_set))
        return table.select(columns).to_pandas().astype({name: "Int64" for name in columns})
    except (pa.ArrowException, OSError) as error:
        raise SchemaError(f"cannot read {path}: {error}; fetch it again from {URL}") from error


def _schema(request: Request, last: int) -> Schema:
    tasks = DATASETS[0].task_columns(request)
    keyed = {key for keys in tasks.values() for key in keys}

    def category(name: str, tokens: int, role: Role = "other", **options: Any) -> Feature:
        return Feature(
            name=name,
            role=role,
            dtype="string",
            encoding="vocabulary",
            max_vocabulary=tokens,
            **options,
        )

    # The last two weeks are for validation and testing: officially weeks 25 and 26.
    marks = [START + pd.Timedelta(weeks=week) for week in (last - 1, last)]
    return Schema(
        name="vk-lsvd",
        label=Label(name=request.label),
        timestamp="time_ms",
        timestamp_unit="ms",
        tasks=tasks,
        features=(
            Feature(name="age", encoding="quantiles", role="meta", table="users"),
            category("gender", 4, "meta", table="users"),
            category("geo", 128, "meta", table="users"),
            *(category(n, size, "meta" if n in keyed else "other") for n, size in _CONTEXT.items()),
            category("item_id", 8192, embedding_width=16),
            category("author_id", 8192, embedding_width=16, table="items"),
            Feature(name="duration", encoding="quantiles", normalise="log", table="items"),
        ),
        tables={"users": "user_id", "items": "item_id"},
        history=_HISTORY if request.history else (),
        split=Split(validation_start=marks[0].isoformat(), test_start=marks[1].isoformat()),
    )


_HISTORY = tuple(
    History(keys=keys, encoding="quantiles")
    for keys in (
        ("user_id",),
        ("item_id",),
        ("author_id",),
        ("user_id", "place"),
        ("user_id", "author_id"),
    )
)

DATASETS = (
    Dataset(
        name="vk-lsvd",
        summary="short videos with watch time and reactions over half a year: 10 million users, "
        "20 million videos, 40.8 billion rows; read by --subset (default: ur0.01_ir0.01: about "
        "90,000 users, 4 million rows)",
        homepage=URL,
        licence="Apache-2.0",
        citation="VK-LSVD: A Large-Scale Industrial Dataset for Short-Video Recommendation, WWW "
        "2026, arXiv 2602.04567",
        labels=("watched", *_REACTIONS),
        tasks={"user": ("user_id",), "user_place": ("user_id", "place")},
        load=_load,
        settings={"subset": "ur0.01_ir0.01"},
    ),
)
