"""A seeded world of notifications in which the best possible prediction is known.

Members have a latent taste vector. A third of its variance follows from what the platform knows
about them (industry, seniority, country); the rest is their own, drifts from day to day, and can
only be learned from what they clicked. Items carry topics, and topics live in the same latent
space, so a few clicks tell about many topics. A click is drawn with probability

    sigmoid(base + bias_m + taste_m(day) . topic_i + type_m + quality_i - age_i + hour fit)

and that probability, which no model can beat, travels with every row in ``bayes_probability``.

With a ``catalogue`` of items that stay for the whole period, each item has a vector of its own
beside its topic's, and an appeal that no feature tells: items can then be learned as members are.

Activity follows Zipf's law; some members are cold (first seen in the test period) and some dormant
(silent for the middle of the period, about half of them back for the test).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfrec_limaml.datasets.simulated_schema import (
    COUNTRIES,
    INDUSTRIES,
    SENIORITIES,
    TOPICS,
    TYPES,
)
from tfrec_limaml.errors import LimamlError

Array = npt.NDArray[Any]

START = pd.Timestamp("2025-01-06", tz="UTC")  # a Monday
DAY_MS = 86_400_000
LATENT = 3

# Standard deviations of the parts of the logit: what any model can see ...
_SEEN = {"type": 0.45, "quality": 0.45, "age": 0.25, "sender": 0.2}
# ... and what only a member's own clicks can tell.
_BIAS, _TASTE, _AFFINITY = 0.6, 1.3, 0.2
_FROM_PROFILE = 0.35  # share of the taste's variance that the profile explains
_DRIFT_DAYS = 150.0  # the own part of a taste keeps exp(-days / 150) of itself
_BASE = -1.1
# Of the items of a catalogue: the own part of their vectors, and their appeal.
_OWN_VECTOR, _APPEAL = 1.0, 0.7
_ITEM_ZIPF = 0.6
_MEDIAN_ROWS, _ZIPF, _MOST_ROWS = 30, 0.35, 400
_COLD, _DORMANT = 0.06, 0.10


@dataclasses.dataclass(frozen=True)
class World:
    """Who lives there: latent parameters of members (axis ``M``), items (``I``) and topics
    (``K``).
    """

    profile: pd.DataFrame  # [M] observable features
    taste: Array  # [M, days, LATENT]
    bias: Array  # [M]
    affinity: Array  # [M, types]
    favourite_hour: Array  # [M]
    topic_vectors: Array  # [K, LATENT]
    items: pd.DataFrame  # topic, quality, publication time in days
    first_day: Array  # [M] first day on which the member may be notified
    silence: Array  # [M, 2] days between which a dormant member is silent
    item_vectors: Array  # [I, LATENT] own vectors beside the topics'; zero without a catalogue
    appeal: Array  # [I]
    shares: Array | None = None  # [I] how often each item of a catalogue is shown


def simulate(
    members: int = 4000, seed: int = 0, days: int = 42, catalogue: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draws a world and what happens in it.

    Args:
        members: Number of members, at least 20.
        seed: Everything follows from it.
        days: Length of the period, at least 10; the last fifth tests, the tenth before it
            validates.
        catalogue: Number of items that are there all the time; 0 for items that come and go.

    Returns:
        The interactions and the members' features.
    """
    if members < 20 or days < 10:
        raise LimamlError(
            f"simulated: members must be >= 20 and days >= 10, received members={members}, "
            f"days={days}"
        )
    if catalogue < 0:
        raise LimamlError(f"simulated: catalogue must not be negative, received {catalogue}")
    rng = np.random.default_rng(seed)
    world = _world(rng, members, days)
    if catalogue:
        world = _with_catalogue(np.random.default_rng((seed, catalogue)), world, catalogue)
    return _interactions(rng, world, days), world.profile


def evaluation_days(days: int) -> tuple[int, int]:
    """First days of validation and test."""
    return round(0.7 * days), round(0.8 * days)


def _world(rng: np.random.Generator, members: int, days: int) -> World:
    industry, seniority, country = (
        rng.integers(0, n, members) for n in (INDUSTRIES, SENIORITIES, COUNTRIES)
    )
    expected = sum(
        rng.normal(size=(n, LATENT))[codes]
        for n, codes in ((INDUSTRIES, industry), (SENIORITIES, seniority), (COUNTRIES, country))
    )
    expected = _standardise(np.asarray(expected))
    taste = _tastes(rng, expected, days)
    topics = rng.normal(size=(TOPICS, LATENT))
    topics *= _TASTE / np.linalg.norm(topics, axis=1, keepdims=True)
    bias = rng.normal(scale=_BIAS, size=members)
    connections = np.round(
        np.exp(rng.normal(5.0, 1.0, members) + 0.5 * bias)
    )  # livelier members know more people: a weak hint
    profile = pd.DataFrame(
        {
            "member_id": np.char.add("m", np.char.zfill(np.arange(members).astype(str), 5)),
            "industry": np.char.add("industry_", industry.astype(str)),
            "seniority": np.char.add("seniority_", seniority.astype(str)),
            "country": np.char.add("country_", country.astype(str)),
            "connections": connections,
            "account_age_days": np.round(rng.gamma(2.0, 600.0, members)),
        }
    )
    items = 25 * days
    table = pd.DataFrame(
        {
            "topic": rng.integers(0, TOPICS, items),
            "quality": rng.normal(size=items),
            "born": np.sort(rng.uniform(-3, days, items)),
        }
    )
    first_day, silence = _presence(rng, members, days)
    return World(
        profile=profile,
        taste=taste,
        bias=bias,
        affinity=rng.normal(scale=_AFFINITY, size=(members, len(TYPES))),
        favourite_hour=rng.normal(14.0, 4.0, members),
        topic_vectors=topics,
        items=table,
        first_day=first_day,
        silence=silence,
        item_vectors=np.zeros((items, LATENT)),
        appeal=np.zeros(items),
    )


def _with_catalogue(rng: np.random.Generator, world: World, items: int) -> World:
    table = pd.DataFrame(
        {
            "topic": rng.integers(0, TOPICS, items),
            "quality": rng.normal(size=items),
            "born": rng.uniform(-3, 0, items),
        }
    )
    shares = (1.0 + np.arange(items)) ** -_ITEM_ZIPF
    return dataclasses.replace(
        world,
        items=table,
        item_vectors=rng.normal(scale=_OWN_VECTOR, size=(items, LATENT)),
        appeal=rng.normal(scale=_APPEAL, size=items),
        shares=rng.permutation(shares / shares.sum()),
    )


def _tastes(rng: np.random.Generator, expected: np.ndarray, days: int) -> np.ndarray:
    """Tastes ``[members, days, LATENT]``: in part what the profile lets expect ``[members,
    LATENT]``, in part a member's own, which drifts.
    """
    personal = np.empty((days, *expected.shape))
    personal[0] = rng.normal(size=expected.shape)
    keep = np.exp(-1.0 / _DRIFT_DAYS)
    for day in range(1, days):
        change = np.sqrt(1 - keep**2) * rng.normal(size=expected.shape)
        personal[day] = keep * personal[day - 1] + change
    shares = np.sqrt(_FROM_PROFILE), np.sqrt(1 - _FROM_PROFILE)
    return shares[0] * expected[:, None] + shares[1] * personal.transpose(1, 0, 2)


def _presence(rng: np.random.Generator, members: int, days: int) -> tuple[Array, Array]:
    _, test = evaluation_days(days)
    fate = rng.uniform(size=members)
    first = np.where(fate < _COLD, test, 0)
    dormant = (fate >= _COLD) & (fate < _COLD + _DORMANT)
    back = np.where(rng.uniform(size=members) < 0.5, test, days)
    silence = np.stack(
        [np.where(dormant, round(0.25 * days), days), np.where(dormant, back, days)], axis=1
    )
    return first, silence


def _interactions(rng: np.random.Generator, world: World, days: int) -> pd.DataFrame:
    member = _visits(rng, len(world.profile))
    moment = rng.uniform(world.first_day[member], days)
    awake = ~((moment >= world.silence[member, 0]) & (moment < world.silence[member, 1]))
    order = np.argsort(moment[awake], kind="stable")
    member, moment = member[awake][order], moment[awake][order]
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
    off = np.abs((hour - world.favourite_hour[member] + 12) % 24 - 12)
    type_effect = _standardise(np.array([1.5, 1.0, 0.0, -0.2, -0.6, -1.4]))
    logit = (
        _BASE
        + world.bias[member]
        + np.einsum("nr,nr->n", world.taste[member, day], vectors)
        + world.appeal[item]
        + world.affinity[member, kind]
        + _SEEN["type"] * type_effect[kind]
        + _SEEN["quality"] * quality
        - _SEEN["age"] * (np.log1p(age) - 0.8)
        + _SEEN["sender"] * (closeness - 0.33) / 0.19
        - 0.04 * (off - 4.0)
    )
    probability = 1.0 / (1.0 + np.exp(-logit))
    frame = pd.DataFrame(
        {
            "member_id": world.profile["member_id"].to_numpy()[member],
            "timestamp": START.value // 1_000_000 + (moment * DAY_MS).astype(np.int64),
            "clicked": (rng.uniform(size=len(member)) < probability).astype(np.int64),
            "notification_type": _named("{}", TYPES)[kind],
            "item_id": _named("i{}", range(len(world.items)))[item],
            "topic": _named("topic_{}", range(TOPICS))[topic],
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
    """Index of the member behind each row; rows per member fall with the member's rank by Zipf's
    law.
    """
    rank = rng.permutation(members) + 1
    rows = np.clip(np.round(_MEDIAN_ROWS * (rank / (members / 2)) ** -_ZIPF), 1, _MOST_ROWS).astype(
        int
    )
    return np.repeat(np.arange(members), rows)


def _pick_items(rng: np.random.Generator, world: World, moment: Array) -> Array:
    """Items published before the moment, recent ones more often; of a catalogue any, by their
    shares.
    """
    if world.shares is not None:
        return np.asarray(rng.choice(len(world.items), len(moment), p=world.shares))
    born = world.items["born"].to_numpy()
    newest = np.searchsorted(born, moment, side="right") - 1
    back = np.floor(rng.exponential(40.0, len(moment))).astype(int)
    return np.asarray(np.maximum(newest - back, 0))


def _named(form: str, values: Iterable[object]) -> Array:
    """One text object for each value: rows that share it take eight bytes each, not a text of their
    own.
    """
    return np.array([form.format(value) for value in values], object)


def _standardise(values: Array) -> Array:
    return np.asarray((values - values.mean(axis=0)) / values.std(axis=0))
