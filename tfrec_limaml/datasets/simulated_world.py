"""A simulated world of notifications in which the best possible prediction is known.

Members have a latent taste vector. A third of its variance follows from their profile (industry,
seniority, country); the rest is individual, drifts from day to day, and can only be learned from
their clicks. Each item has a topic, and topics are vectors in the same latent space, so a few
clicks inform about many topics. A click is drawn with probability

    sigmoid(base + bias_m + taste_m(day) . topic_i + type_m + quality_i - age_i + hour fit)

and ``bayes_probability`` has this probability, the best possible prediction, for every row.

With a ``catalogue`` of items that stay for the whole period, each item has its own vector in
addition to its topic's, and an appeal that no feature shows: models can then learn items like
members.

Activity follows Zipf's law; some members are cold (first seen in the test period) and some dormant
(silent for the middle of the period, about half of them back for the test).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from tfrec_limaml.arrays import Array
from tfrec_limaml.datasets.simulated_schema import (
    COUNTRIES,
    INDUSTRIES,
    SENIORITIES,
    TOPICS,
    TYPES,
)

LATENT = 3

#: Standard deviations of the parts of the logit that can be learned from a member's clicks only.
_BIAS, _TASTE, _AFFINITY = 0.6, 1.3, 0.2
_FROM_PROFILE = 0.35  # share of the taste's variance that the profile explains
_DRIFT_DAYS = 150.0  # the individual part of a taste decays by exp(-days / 150)
# Standard deviations of the vectors and the appeal of a catalogue's items.
_OWN_VECTOR, _APPEAL = 1.0, 0.7
_ITEM_ZIPF = 0.6
_COLD, _DORMANT = 0.06, 0.10


@dataclasses.dataclass(frozen=True)
class World:
    """Latent parameters of members (axis ``M``), items (``I``) and topics (``K``)."""

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


def evaluation_days(days: int) -> tuple[int, int]:
    """First days of validation and test."""
    return round(0.7 * days), round(0.8 * days)


def _profile(
    rng: np.random.Generator, industry: Array, seniority: Array, country: Array, bias: Array
) -> pd.DataFrame:
    """The members' table."""
    members = len(bias)
    connections = np.round(
        np.exp(rng.normal(5.0, 1.0, members) + 0.5 * bias)
    )  # a weak hint: more active members have more connections
    return pd.DataFrame(
        {
            "member_id": np.char.add("m", np.char.zfill(np.arange(members).astype(str), 5)),
            "industry": np.char.add("industry_", industry.astype(str)),
            "seniority": np.char.add("seniority_", seniority.astype(str)),
            "country": np.char.add("country_", country.astype(str)),
            "connections": connections,
            "account_age_days": np.round(rng.gamma(2.0, 600.0, members)),
        }
    )


def make_world(rng: np.random.Generator, members: int, days: int) -> World:
    """A world of items that come and go."""
    industry, seniority, country = (
        rng.integers(0, n, members) for n in (INDUSTRIES, SENIORITIES, COUNTRIES)
    )
    expected = sum(
        rng.normal(size=(n, LATENT))[codes]
        for n, codes in ((INDUSTRIES, industry), (SENIORITIES, seniority), (COUNTRIES, country))
    )
    expected = standardise(np.asarray(expected))
    taste = _tastes(rng, expected, days)
    topics = rng.normal(size=(TOPICS, LATENT))
    topics *= _TASTE / np.linalg.norm(topics, axis=1, keepdims=True)
    bias = rng.normal(scale=_BIAS, size=members)
    profile = _profile(rng, industry, seniority, country, bias)
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


def with_catalogue(rng: np.random.Generator, world: World, items: int) -> World:
    """The world with a catalogue of items that stay in place of items that come and go."""
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
    """Tastes ``[members, days, LATENT]``.

    A part is expected from the profile ``[members, LATENT]``, the rest is individual and drifts.
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
    return_day = np.where(rng.uniform(size=members) < 0.5, test, days)
    silence = np.stack(
        [np.where(dormant, round(0.25 * days), days), np.where(dormant, return_day, days)], axis=1
    )
    return first, silence


def standardise(values: Array) -> Array:
    """Values with mean 0 and standard deviation 1 along the first axis."""
    return np.asarray((values - values.mean(axis=0)) / values.std(axis=0))
