"""Features of the simulated world; see `tfrec_limaml.datasets.simulated`."""

from __future__ import annotations

from tfrec_limaml.datasets.profile_features import profile_category
from tfrec_limaml.schema.schema import Feature, History

TYPES = ("message", "invitation", "post", "job", "event", "digest")
INDUSTRIES = 12
SENIORITIES = 5
COUNTRIES = 8
TOPICS = 24

HISTORY = tuple(
    History(keys=keys, encoding="quantiles", per_token=True)
    for keys in (
        ("member_id",),
        ("item_id",),
        ("member_id", "notification_type"),
        ("member_id", "topic"),
    )
)


def features(type_is_key: bool) -> tuple[Feature, ...]:
    """All features; the notification's type is a meta feature if it is part of a task key."""
    return (
        profile_category("industry", INDUSTRIES, "members"),
        profile_category("seniority", SENIORITIES, "members"),
        profile_category("country", COUNTRIES, "members"),
        Feature(
            name="connections",
            encoding="quantiles",
            role="meta",
            normalise="log",
            table="members",
        ),
        Feature(
            name="account_age_days",
            encoding="quantiles",
            role="meta",
            normalise="log",
            table="members",
        ),
        Feature(
            name="notification_type",
            role="meta" if type_is_key else "other",
            dtype="string",
            encoding="vocabulary",
            max_vocabulary=len(TYPES),
        ),
        Feature(
            name="topic",
            dtype="string",
            encoding="vocabulary",
            max_vocabulary=TOPICS,
            embedding_width=8,
        ),
        Feature(name="item_quality", encoding="quantiles"),
        Feature(name="item_age_hours", encoding="quantiles", normalise="log"),
        Feature(name="sender_closeness", encoding="quantiles"),
        Feature(name="hour", dtype="int64", encoding="vocabulary", max_vocabulary=24),
        Feature(name="weekday", dtype="int64", encoding="vocabulary", max_vocabulary=7),
    )
