"""KuaiRand: impressions of a short-video app with clicks, long views and likes.

Source: Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed
Videos", CIKM 2022. There are three releases: Pure, 1K and 27K.

This module reads the standard logs (and the log of randomly exposed videos, on request), the user
features and the basic video features. It does not read two parts of the archives, on purpose:
``video_features_statistic_*.csv`` has averages over the whole month, which include the future, and
the log's other columns (``play_time_ms``, ``is_follow``, ...) are other outcomes of the same
impression.

File names, columns and sizes are those of the official description (the README of
github.com/chongminggao/KuaiRand); in 27K each standard log has two parts.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from tfrec_limaml.datasets.kuairand_schema import LABELS, TASKS, kuairand_schema
from tfrec_limaml.datasets.locate import locate
from tfrec_limaml.datasets.raw import RawData
from tfrec_limaml.datasets.registry import Dataset, Request
from tfrec_limaml.errors import LimamlError, SchemaError

URL = "https://zenodo.org/records/10439422/files"
#: Offset of the app's local time. The log's ``date`` disagrees with ``time_ms`` near midnight, in
#: 1 % of the rows of Pure. For fewer than 0.1 % of the rows the two are on different sides of a
#: split date; in all of these the time is before the split date and ``date`` is not.
UTC_OFFSET = pd.Timedelta(hours=8)
#: Rows read at a time if only some members are kept.
CHUNK = 2_000_000

_LOG_COLUMNS = ("user_id", "video_id", "time_ms", "tab", "duration_ms")


@dataclasses.dataclass(frozen=True)
class Release:
    """One of the official archives.

    Attributes:
        folder: Name of its folder.
        md5: The archive's published checksum.
        parts: Suffixes of the file names of each standard log.
    """

    folder: str
    md5: str
    parts: tuple[str, ...] = ("",)

    @property
    def suffix(self) -> str:
        """``pure``, ``1k`` or ``27k``."""
        return self.folder.removeprefix("KuaiRand-").lower()

    @property
    def url(self) -> str:
        """Address of the archive."""
        return f"{URL}/{self.folder}.tar.gz"

    @property
    def standard_logs(self) -> tuple[tuple[str, ...], ...]:
        """File names by period; the parts of a period belong together."""
        return tuple(
            tuple(f"log_standard_{period}_{self.suffix}{part}.csv" for part in self.parts)
            for period in ("4_08_to_4_21", "4_22_to_5_08")
        )

    @property
    def random_log(self) -> str:
        """File name of the log of randomly exposed videos."""
        return f"log_random_4_22_to_5_08_{self.suffix}.csv"

    @property
    def tables(self) -> dict[str, str]:
        """File names of the tables, by table."""
        return {
            "users": f"user_features_{self.suffix}.csv",
            "videos": f"video_features_basic_{self.suffix}.csv",
        }

    def missing(self, data: Path) -> list[str]:
        """Files that the folder lacks; one of the two periods is enough."""
        missing_tables = [name for name in self.tables.values() if not (data / name).is_file()]
        periods = [
            [name for name in logs if not (data / name).is_file()] for logs in self.standard_logs
        ]
        incomplete = [names for names in periods if len(names) < len(self.parts)]
        return [*missing_tables, *(name for names in incomplete or periods for name in names)]

    def logs(self, data: Path) -> list[str]:
        """The existing standard logs."""
        return [n for logs in self.standard_logs for n in logs if (data / n).is_file()]


def _load(release: Release, request: Request) -> RawData:
    _check_user_folder(release, request.data_dir)
    complete = functools.partial(_complete, release)
    data = locate(request.data_dir, release.folder, complete, release.url, release.md5) / "data"
    names = release.logs(data)
    if request.settings["random_log"]:
        if not (data / release.random_log).is_file():
            raise LimamlError(
                f"{data} lacks {release.random_log}; leave out --random-log, or download "
                f"{release.url}"
            )
        names.append(release.random_log)
    users, videos = (data / release.tables[name] for name in ("users", "videos"))
    people = _read(users, release)
    members = _members(people, request.settings["members"])
    columns = {*_LOG_COLUMNS, request.label}
    log = pd.concat(
        [_read(data / name, release, columns, members, "user_id") for name in names],
        ignore_index=True,
    )
    video_ids = None if members is None else set(log["video_id"])
    tables = {"users": people, "videos": _read(videos, release, None, video_ids, "video_id")}
    local_time = pd.to_datetime(log["time_ms"], unit="ms") + UTC_OFFSET
    dataset = next(d for d in DATASETS if d.name == release.folder.lower())
    return RawData(
        schema=kuairand_schema(dataset, request, local_time.max()),
        interactions=log.assign(hour=local_time.dt.hour),
        tables=tables,
        source=dataset.source(files=names),
    )


def _check_user_folder(release: Release, data_dir: Path | None) -> None:
    """Raises `SchemaError` if the user's folder has only some of the files.

    The archive is not downloaded into such a folder.
    """
    for folder in [] if data_dir is None else [data_dir / release.folder, data_dir]:
        data = folder / "data"
        file_names = [
            *release.tables.values(),
            *(n for logs in release.standard_logs for n in logs),
        ]
        missing = release.missing(data)
        if missing and any((data / name).is_file() for name in file_names):
            raise SchemaError(f"{data} lacks {missing}; download them from {release.url}")


def _complete(release: Release, folder: Path) -> bool:
    return not release.missing(folder / "data")


def _members(users: pd.DataFrame, number: int | None) -> set[int] | None:
    """IDs of this number of users, always the same ones; None for all."""
    if number is None:
        return None
    if number < 1:
        raise LimamlError(f"--members must be at least 1, received {number}")
    everyone = np.sort(users["user_id"].to_numpy())
    return set(np.random.default_rng(0).permutation(everyone)[:number].tolist())


def _read(
    path: Path,
    release: Release,
    columns: Collection[str] | None = None,
    ids: Collection[int] | None = None,
    key: str = "",
) -> pd.DataFrame:
    """Reads a file: all of it, some columns, or the rows whose `key` is in `ids`.

    Raises `SchemaError` naming the file.
    """
    column_names = None if columns is None else sorted(columns)
    try:
        if ids is None:
            return pd.read_csv(path, usecols=column_names)
        with pd.read_csv(path, usecols=column_names, chunksize=CHUNK) as chunks:
            return pd.concat([chunk[chunk[key].isin(ids)] for chunk in chunks])
    except (ValueError, KeyError) as error:  # unreadable, or without the column
        raise SchemaError(
            f"cannot read {path}: {error}; download the official archive again from {release.url}"
        ) from error


def _dataset(release: Release, summary: str) -> Dataset:
    return Dataset(
        name=release.folder.lower(),
        summary=summary,
        homepage="https://kuairand.com (archive: https://zenodo.org/records/10439422)",
        licence="CC BY-SA 4.0",
        citation=(
            "Gao et al., KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly "
            "Exposed Videos, CIKM 2022, "
            "doi 10.1145/3511808.3557624"
        ),
        labels=LABELS,
        tasks=TASKS,
        load=functools.partial(_load, release),
        settings={"random_log": False, "members": None},
    )


DATASETS = (
    _dataset(
        Release("KuaiRand-Pure", "0820331067a3784d9691136f772b35a7"),
        "short-video impressions with clicks: 27,285 users, 7,583 videos, 1.4 million rows in the "
        "official logs",
    ),
    _dataset(
        Release("KuaiRand-1K", "6b0b9c8222d67fcd4c676218edca3f1f"),
        "like kuairand-pure, with long histories: 1,000 users, 4.4 million videos, 11.7 million "
        "rows (1.1 GB download, 4.3 GB unpacked)",
    ),
    _dataset(
        Release("KuaiRand-27K", "3e3c799a24e2d23a4d2c757fbf9adf59", ("_part1", "_part2")),
        "all interactions of the users of kuairand-pure: 27,285 users, 32 million videos, 322 "
        "million rows (9.9 GB download, 46 GB unpacked); --members N reads N of the users",
    ),
)
