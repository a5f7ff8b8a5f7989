"""The calls and the results of the ranking protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from limaml_serving.client.columns import Candidates, Rows
from tfrec_limaml.store.base import Mask

Request = tuple[Mapping[str, Any], Candidates]


@dataclasses.dataclass(slots=True, kw_only=True)
class Ranked:
    """Scored candidates, best first; every array has one entry per candidate returned.

    Attributes:
        order: Positions in the candidates given, by falling logit (equal ones keep their order;
            NaN comes last).
        probability: float32.
        logit: float32; it still orders candidates whose probability rounds to 1.
        used_embedding: Whether the score used the member's meta embedding (the first task
            definition's, where the model has several).
        model_version: The version that scored, whose embeddings were used.
        filled: Features with missing or invalid values that the schema's default value replaced.
    """

    order: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float32]
    logit: npt.NDArray[np.float32]
    used_embedding: Mask
    model_version: int
    filled: tuple[str, ...] = ()


class Resolve(NamedTuple):
    """Asks the server for the version number of a label, or of the newest version."""

    request: Any
    timeout: float


class LookUp(NamedTuple):
    """Asks the store for embeddings."""

    keys: Sequence[str]
    model_version: int
    timeout: float


class Predict(NamedTuple):
    """Asks the server for scores."""

    request: bytes
    timeout: float


Steps = Generator[Resolve | LookUp | Predict, Any, list[Ranked]]


def best_first(
    rows: Rows,
    probability: npt.NDArray[Any],
    logit: npt.NDArray[Any],
    used: npt.NDArray[np.bool_],
    version: int,
    top: int | None,
) -> Ranked:
    """One request's candidates, best first; `used` is bool ``[1]`` or ``[N]``."""
    order = (-logit).argsort(kind="stable")[:top]
    return Ranked(
        order=order,
        probability=probability.take(order),
        logit=logit.take(order),
        used_embedding=used.repeat(len(order)) if len(used) == 1 else used.take(order),
        model_version=version,
        filled=rows.filled,
    )


def empty_ranking(rows: Rows, version: int, top: int | None) -> Ranked:
    """The answer to a request without candidates."""
    scores = np.zeros(0, np.float32)
    return best_first(rows, scores, scores, np.zeros(0, np.bool_), version, top)
