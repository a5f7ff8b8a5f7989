"""KuaiRand-Pure: impressions of a short-video app with clicks, long views and likes (Gao et al.,
CIKM 2022).

Read are the standard logs (and the log of randomly exposed videos, on request), the user features
and the basic video features. Two things of the archive are left alone on purpose:
``video_features_statistic_pure.csv`` holds averages over the whole month, so it tells about the
future, and the log's other columns (``play_time_ms``, ``is_follow``, ...) are outcomes of the
impression that is to be predicted.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tfrec_limaml.datasets.locate import locate
from tfrec_limaml.datasets.raw import RawData
from tfrec_limaml.datasets.registry import Dataset, Request
from tfrec_limaml.errors import LimamlError, SchemaError
from tfrec_limaml.schema.schema import Feature, History, Label, Schema, Split

URL = "https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz"
MD5 = "0820331067a3784d9691136f772b35a7"
FOLDER = "KuaiRand-Pure"
STANDARD_LOGS = ("log_standard_4_08_to_4_21_pure.csv", "log_standard_4_22_to_5_08_pure.csv")
RANDOM_LOG = "log_random_4_22_to_5_08_pure.csv"
USERS, VIDEOS = "user_features_pure.csv", "video_features_basic_pure.csv"

#: The app's local time. The log's own ``date`` disagrees with ``time_ms`` near midnight, in 1 % of
#: the rows; the cuts below move less than 0.1 % of the rows to the other side of what ``date``
#: says, and none from an earlier ``date`` to after a cut.
UTC_OFFSET = pd.Timedelta(hours=8)
SPLIT = Split(validation_start="2022-05-03T00:00:00+08:00", test_start="2022-05-06T00:00:00+08:00")

_LABELS = ("is_click", "long_view", "is_like")
_TASKS = {"user": ("user_id",), "user_tab": ("user_id", "tab")}

# Tokens kept of each anonymous one-hot column: all where there are few, the frequent ones of the
# long tails.
_ONE_HOT = {
    0: 2,
    1: 7,
    2: 50,
    3: 32,
    4: 15,
    5: 8,
    6: 3,
    7: 32,
    8: 32,
    9: 7,
    10: 5,
    11: 5,
    **dict.fromkeys(range(12, 18), 2),
}


def _load(request: Request) -> RawData:
    folder = locate(request.data_dir, FOLDER, _complete, URL, MD5) / "data"
    names = [name for name in STANDARD_LOGS if (folder / name).is_file()]
    if request.settings["random_log"]:
        if not (folder / RANDOM_LOG).is_file():
            raise LimamlError(
                f"{folder} lacks {RANDOM_LOG}; leave out --random-log, or fetch {URL}"
            )
        names.append(RANDOM_LOG)
    log = pd.concat([_read(folder / name) for name in names], ignore_index=True)
    local_time = _local(log["time_ms"])
    return RawData(
        schema=_schema(request, local_time),
        interactions=log.assign(hour=local_time.dt.hour),
        tables={"users": _read(folder / USERS), "videos": _read(folder / VIDEOS)},
        source=DATASETS[0].source(files=names),
    )


def _complete(folder: Path) -> bool:
    data = folder / "data"
    return all((data / name).is_file() for name in (USERS, VIDEOS)) and any(
        (data / name).is_file() for name in STANDARD_LOGS
    )


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise SchemaError(
            f"cannot read {path}: {error}; fetch the official archive again from {URL}"
        ) from error


def _local(time_ms: pd.Series) -> pd.Series:
    return pd.to_datetime(time_ms, unit="ms") + UTC_OFFSET


def _schema(request: Request, local_time: pd.Series) -> Schema:
    tasks = DATASETS[0].task_columns(request)
    tab_is_key = any("tab" in keys for keys in tasks.values())
    # The paper's setting needs the last logged week; with the first log alone, conform() cuts by
    # quantile instead.
    usual = local_time.max() > pd.Timestamp("2022-05-06")
    return Schema(
        name="kuairand-pure",
        label=Label(name=request.label),
        timestamp="time_ms",
        timestamp_unit="ms",
        tasks=tasks,
        features=(*_user_features(), *_context_features(tab_is_key), *_video_features()),
        tables={"users": "user_id", "videos": "video_id"},
        history=_HISTORY if request.history else (),
        split=SPLIT if usual else None,
    )


def _user_features() -> tuple[Feature, ...]:
    def category(name: str, tokens: int) -> Feature:
        return Feature(
            name=name,
            role="meta",
            dtype="string",
            encoding="vocabulary",
            max_vocabulary=tokens,
            table="users",
        )

    counts = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
    return (
        category("user_active_degree", 9),
        category("is_live_streamer", 2),
        category("is_video_author", 2),
        *(category(f"onehot_feat{i}", tokens) for i, tokens in _ONE_HOT.items()),
        *(
            Feature(name=name, encoding="quantiles", role="meta", normalise="log", table="users")
            for name in counts
        ),
    )


def _context_features(tab_is_key: bool) -> tuple[Feature, ...]:
    return (
        Feature(
            name="tab",
            role="meta" if tab_is_key else "other",
            dtype="string",
            encoding="vocabulary",
            max_vocabulary=16,
        ),
        Feature(name="hour", dtype="int64", encoding="vocabulary", max_vocabulary=24),
        Feature(name="duration_ms", encoding="quantiles", normalise="log"),
        Feature(
            name="video_id",
            dtype="string",
            encoding="vocabulary",
            max_vocabulary=8192,
            embedding_width=16,
        ),
    )


def _video_features() -> tuple[Feature, ...]:
    def category(name: str, tokens: int) -> Feature:
        return Feature(
            name=name, dtype="string", encoding="vocabulary", max_vocabulary=tokens, table="videos"
        )

    return (
        Feature(
            name="author_id",
            dtype="string",
            encoding="vocabulary",
            max_vocabulary=8192,
            embedding_width=16,
            table="videos",
        ),
        Feature(
            name="tag",
            dtype="string",
            encoding="vocabulary",
            max_vocabulary=128,
            embedding_width=16,
            separator=",",
            table="videos",
        ),
        category("video_type", 4),
        category("upload_type", 16),
        category("music_type", 8),
        Feature(name="server_width", encoding="quantiles", table="videos"),
        Feature(name="server_height", encoding="quantiles", table="videos"),
    )


_HISTORY = tuple(
    History(keys=keys, encoding="quantiles", per_token=True)
    for keys in (
        ("user_id",),
        ("video_id",),
        ("user_id", "tab"),
        ("video_id", "tab"),
        ("user_id", "tag"),
        ("user_id", "author_id"),
    )
)

DATASETS = (
    Dataset(
        name="kuairand-pure",
        summary="short-video impressions with clicks: 27,285 users, 7,583 videos, 1.4 million "
        "rows in the official logs",
        homepage="https://kuairand.com (archive: https://zenodo.org/records/10439422)",
        licence="CC BY-SA 4.0",
        citation=(
            "Gao et al., KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly "
            "Exposed Videos, CIKM 2022, "
            "doi 10.1145/3511808.3557624"
        ),
        labels=_LABELS,
        tasks=_TASKS,
        load=_load,
        settings={"random_log": False},
    ),
)
