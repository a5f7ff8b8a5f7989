"""The calls and the results of the ranking protocol."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from limaml_serving.client.columns import Candidates, Rows
from limaml_serving.errors import RequestError
from tfrec_limaml.arrays import Mask
from tfrec_limaml.manifest import LOGIT, PREDICTION, PROBABILITY

Request = tuple[Mapping[str, Any], Candidates]


@dataclasses.dataclass(slots=True, kw_only=True)
class Ranked:
    """Scored candidates, best first; every array has one entry per candidate returned.

    Attributes:
        order: Positions in the given candidates, by decreasing logit or prediction. Candidates with
            equal values keep their order; NaN comes last.
        probability: float32; NaN if the model predicts no probability.
        logit: float32; it still orders candidates whose probability rounds to 1. NaN if the model
            predicts no probability.
        prediction: float32; the probability, or the output of a model that was trained with a
            regression loss, or with a custom loss and ``compile(binary=False)``.
        is_probability: Whether the model predicts a probability.
        used_embedding: Whether the score used the member's meta embedding (the first task
            definition's, if the model has several).
        model_version: The version that scored, whose embeddings were used.
        filled: Features with missing or invalid values that the schema's default value replaced.
    """

    order: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float32]
    logit: npt.NDArray[np.float32]
    prediction: npt.NDArray[np.float32]
    is_probability: bool
    used_embedding: Mask
    model_version: int
    filled: tuple[str, ...] = ()


def seconds_of(timeout: Any) -> float:
    """A time limit as a float; gRPC adds it to the time of day, for which float32 is too coarse.

    Raises:
        RequestError: `timeout` is not a finite number.
    """
    if not isinstance(timeout, numbers.Real) or not math.isfinite(timeout):
        raise RequestError(f"timeout must be a number of seconds, received {timeout!r}")
    return float(timeout)


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
    scores: Mapping[str, npt.NDArray[np.float32]],
    used: npt.NDArray[np.bool_],
    version: int,
    top: int | None,
) -> Ranked:
    """One request's candidates, best first.

    Args:
        rows: The request.
        scores: The model's outputs ``[N]`` by name; see `Manifest.outputs`.
        used: Whether an embedding was used, bool ``[1]`` or ``[N]``.
        version: The version that scored.
        top: How many candidates to return.
    """
    is_probability = PREDICTION not in scores
    order = (-scores[LOGIT if is_probability else PREDICTION]).argsort(kind="stable")[:top]
    ordered = {name: values.take(order) for name, values in scores.items()}
    unknown = np.full(len(order), np.nan, np.float32)
    return Ranked(
        order=order,
        probability=ordered.get(PROBABILITY, unknown),
        logit=ordered.get(LOGIT, unknown),
        prediction=ordered[PROBABILITY if is_probability else PREDICTION],
        is_probability=is_probability,
        used_embedding=used.repeat(len(order)) if len(used) == 1 else used.take(order),
        model_version=version,
        filled=rows.filled,
    )


def empty_ranking(rows: Rows, outputs: Sequence[str], version: int, top: int | None) -> Ranked:
    """The answer to a request without candidates."""
    scores = dict.fromkeys(outputs, np.zeros(0, np.float32))
    return best_first(rows, scores, np.zeros(0, np.bool_), version, top)
