"""The schema of KuaiRand's releases."""

from __future__ import annotations

import pandas as pd

from tfrec_limaml.datasets.profile_features import profile_category
from tfrec_limaml.datasets.registry import Dataset, Request
from tfrec_limaml.schema.schema import Feature, History, Label, Schema, Split

SPLIT = Split(validation_start="2022-05-03T00:00:00+08:00", test_start="2022-05-06T00:00:00+08:00")

LABELS = ("is_click", "long_view", "is_like")
TASKS = {"user": ("user_id",), "user_tab": ("user_id", "tab"), "video": ("video_id",)}

# Tokens kept of each anonymous one-hot column: all if there are few, otherwise the most frequent
# ones.
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


def kuairand_schema(dataset: Dataset, request: Request, last: pd.Timestamp) -> Schema:
    """The schema of a release.

    Args:
        dataset: The release's entry in the registry.
        request: The user's choices.
        last: Local time of the last row. The paper's split needs the last logged week; without it
            the split is by quantile.
    """
    tasks = dataset.task_columns(request)
    tab_is_key = any("tab" in keys for keys in tasks.values())
    return Schema(
        name=dataset.name,
        label=Label(name=request.label),
        timestamp="time_ms",
        timestamp_unit="ms",
        tasks=tasks,
        features=(*_user_features(), *_context_features(tab_is_key), *_video_features()),
        tables={"users": "user_id", "videos": "video_id"},
        history=_HISTORY if request.history else (),
        split=SPLIT if last > pd.Timestamp("2022-05-06") else None,
    )


def _user_features() -> tuple[Feature, ...]:
    counts = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
    return (
        profile_category("user_active_degree", 9, "users"),
        profile_category("is_live_streamer", 2, "users"),
        profile_category("is_video_author", 2, "users"),
        *(profile_category(f"onehot_feat{i}", tokens, "users") for i, tokens in _ONE_HOT.items()),
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
