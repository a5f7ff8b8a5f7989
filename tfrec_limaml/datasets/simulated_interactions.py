"""Interactions of the simulated world: who sees which item when, and whether they click."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from tfrec_limaml.arrays import Array
from tfrec_limaml.datasets.simulated_schema import (
    TOPICS,
    TYPES,
)
from tfrec_limaml.datasets.simulated_world import (
    World,
    make_world,
    standardise,
    with_catalogue,
)
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.columns import DAY_MS

START = pd.Timestamp("2025-01-06", tz="UTC")  # a Monday
#: Standard deviations of the parts of the logit that columns show.
_SEEN = {"type": 0.45, "quality": 0.45, "age": 0.25, "sender": 0.2}
_BASE = -1.1
_MEDIAN_ROWS, _ZIPF, _MAX_ROWS = 30, 0.35, 400


def simulate(
    members: int = 4000, seed: int = 0, days: int = 42, catalogue: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draws a world and its interactions.

    Args:
        members: Number of members, at least 20.
        seed: Seed of all random numbers.
        days: Length of the period, at least 10; the last fifth is for testing, the tenth before it
            for validation.
        catalogue: Number of items that stay for the whole period; 0 for items that come and go.

    Returns:
        The interactions and the members' features.

    Raises:
        LimamlError: `members`, `days` or `catalogue` is too small.
    """
    if members < 20 or days < 10:
        raise LimamlError(
            f"simulated: members must be >= 20 and days >= 10, received members={members}, "
            f"days={days}"
        )
    if catalogue < 0:
        raise LimamlError(f"simulated: catalogue must not be negative, received {catalogue}")
    rng = np.random.default_rng(seed)
    world = make_world(rng, members, days)
    if catalogue:
        world = with_catalogue(np.random.default_rng((seed, catalogue)), world, catalogue)
    return _interactions(rng, world, days), world.profile


def _with_visible_effects(
    hidden: Array, kind: Array, quality: Array, age: Array, closeness: Array, hours: Array
) -> Array:
    """Logits: the hidden effects plus the effects of the row's columns.

    Args:
        hidden: The effects that no column shows.
        kind, quality, age, closeness: The row's columns.
        hours: The row's hour minus the member's favourite one.
    """
    off = np.abs((hours + 12) % 24 - 12)
    type_effect = standardise(np.array([1.5, 1.0, 0.0, -0.2, -0.6, -1.4]))
    return np.asarray(
        hidden
        + _SEEN["type"] * type_effect[kind]
        + _SEEN["quality"] * quality
        - _SEEN["age"] * (np.log1p(age) - 0.8)
        + _SEEN["sender"] * (closeness - 0.33) / 0.19
        - 0.04 * (off - 4.0)
    )


def _awake_visits(rng: np.random.Generator, world: World, days: int) -> tuple[Array, Array]:
    """Member and time, in days, of each visit in time order; silent members have no visits."""
    member = _visits(rng, len(world.profile))
    moment = rng.uniform(world.first_day[member], days)
    awake = ~((moment >= world.silence[member, 0]) & (moment < world.silence[member, 1]))
    order = np.argsort(moment[awake], kind="stable")
    return member[awake][order], moment[awake][order]


def _interactions(rng: np.random.Generator, world: World, days: int) -> pd.DataFrame:
    member, moment = _awake_visits(rng, world, days)
    day = moment.astype(int)
    hour = np.round(rng.normal(world.favourite_hour[member], 5.0)).astype(int) % 24
    moment = day + (hour + rng.uniform(size=len(member))) / 24.0
    item = _pick_items(rng, world, moment)
    kind = rng.choice(len(TYPES), size=len(member), p=[0.12, 0.10, 0.34, 0.18, 0.10, 0.16])
    topic = world.items["topic"].to_numpy()[item]
    vectors = world.topic_vectors[topic] + world.item_vectors[item]
    quality = world.items["quality"].to_numpy()[item]
    age = np.maximum(moment - world.items["born"].to_numpy()[item], 0.0)
    closeness = rng.beta(1.5, 3.0, len(member))
    hidden = (
        _BASE
        + world.bias[member]
        + np.einsum("nr,nr->n", world.taste[member, day], vectors)
        + world.appeal[item]
        + world.affinity[member, kind]
    )
    hours = hour - world.favourite_hour[member]
    logit = _with_visible_effects(hidden, kind, quality, age, closeness, hours)
    probability = 1.0 / (1.0 + np.exp(-logit))
    frame = pd.DataFrame(
        {
            "member_id": world.profile["member_id"].to_numpy()[member],
            "timestamp": START.value // 1_000_000 + (moment * DAY_MS).astype(np.int64),
            "clicked": (rng.uniform(size=len(member)) < probability).astype(np.int64),
            "notification_type": _format_all("{}", TYPES)[kind],
            "item_id": _format_all("i{}", range(len(world.items)))[item],
            "topic": _format_all("topic_{}", range(TOPICS))[topic],
            "item_quality": quality.astype(np.float32),
            "item_age_hours": (24.0 * age).astype(np.float32),
            "sender_closeness": closeness.astype(np.float32),
            "hour": hour,
            "weekday": day % 7,
            "bayes_probability": probability.astype(np.float32),
        }
    )
    return frame.sort_values("timestamp", kind="stable").reset_index(drop=True)


def _visits(rng: np.random.Generator, members: int) -> Array:
    """Index of the member of each row.

    Rows per member fall with the member's rank by Zipf's law.
    """
    rank = rng.permutation(members) + 1
    rows = np.clip(np.round(_MEDIAN_ROWS * (rank / (members / 2)) ** -_ZIPF), 1, _MAX_ROWS).astype(
        int
    )
    return np.repeat(np.arange(members), rows)


def _pick_items(rng: np.random.Generator, world: World, moment: Array) -> Array:
    """Draws an item for each time.

    Items are published before the time, recent ones more often; in a catalogue they are drawn by
    their shares.
    """
    if world.shares is not None:
        return np.asarray(rng.choice(len(world.items), len(moment), p=world.shares))
    born = world.items["born"].to_numpy()
    newest = np.searchsorted(born, moment, side="right") - 1
    age_rank = np.floor(rng.exponential(40.0, len(moment))).astype(int)
    return np.asarray(np.maximum(newest - age_rank, 0))


def _format_all(form: str, values: Iterable[object]) -> Array:
    """One text object for each value: rows with the same value take eight bytes each."""
    return np.array([form.format(value) for value in values], object)
