"""Distributes the answer of one look-up to its requests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, cast

import numpy as np

from limaml_serving.client.columns import Rows
from limaml_serving.client.versions import KnownVersion
from tfrec_limaml.arrays import Mask
from tfrec_limaml.store.base import Matrix


def keys_of(rows: Sequence[Rows]) -> tuple[str, ...]:
    """The task keys of all requests under all task definitions, to be looked up at once.

    They are distinct if there are several requests.
    """
    if len(rows) == 1:  # a request's keys are distinct under each definition
        keys = tuple(chain.from_iterable(task_keys.keys for task_keys in rows[0].keys))
        if None not in keys:
            return cast("tuple[str, ...]", keys)
    distinct = dict.fromkeys(
        chain.from_iterable(task_keys.keys for r in rows for task_keys in r.keys)
    )
    distinct.pop(None, None)
    return cast("tuple[str, ...]", tuple(distinct))


def size_problem(answer: Any, keys: Sequence[str]) -> str:
    """What is wrong with the size of a look-up's answer; empty if nothing is."""
    if answer[0].ndim == 2 and len(answer[0]) == len(keys) == len(answer[1]):
        return ""
    return f"it answered {len(answer[0])} vectors and {len(answer[1])} flags for {len(keys)} keys"


def model_problem(answer: Any, model: KnownVersion) -> str:
    """Why the embeddings of a look-up are not those of the model; empty if they are."""
    width, digest = answer[0].shape[1], getattr(answer, "model", "")
    if width != model.embedding_dim:
        problem = "none are published" if width == 0 else f"the store's have width {width}"
        return (
            f"model version {model.version} needs meta embeddings of width {model.embedding_dim}, "
            f"but {problem}: run `limaml embed`"
        )
    if digest and model.digest and digest != model.digest:
        return (
            f"the store's meta embeddings are those of another model with the same version number, "
            f"{model.version}: run `limaml embed` with this export, or number each model by "
            "`limaml export --model-version`"
        )
    return ""


def check_answer(answer: Any) -> tuple[Matrix, Mask, int]:
    """Embeddings, found mask and number of damaged values of a look-up.

    A found embedding that is not finite counts as damaged, whatever the store: one NaN would make
    all scores of its member NaN.
    """
    matrix = np.asarray(answer[0], np.float32)
    found = np.asarray(answer[1], np.bool_)
    damaged = int(getattr(answer, "damaged", 0))
    flat = matrix.reshape(-1)
    if not np.isfinite(np.vdot(flat, flat)):  # true also if only squares overflow
        finite = np.asarray(np.isfinite(matrix).all(axis=1), np.bool_)
        damaged += int(np.count_nonzero(found & ~finite))
        found = found & finite
        matrix = np.where(finite.reshape(-1, 1), matrix, np.float32(0))
    return matrix, found, damaged


def split_by_request(
    rows: Sequence[Rows], keys: tuple[str, ...], matrix: Matrix, found: Mask
) -> tuple[list[list[Matrix]], list[list[Mask]]]:
    """Embeddings ``[1 or N, D]`` and masks ``[1 or N]`` of each request, by task definition.

    Args:
        rows: The requests.
        keys: The keys of the look-up.
        matrix: The answer, ``[keys, D]``.
        found: Which of them were found, ``[keys]``.
    """
    if len(rows) == 1 and sum(len(task_keys.keys) for task_keys in rows[0].keys) == len(keys):
        # The usual case: every key is given and none occurs twice. The keys are consecutive.
        indices: list[Any] = []
        start = 0
        for task_keys in rows[0].keys:
            end = start + len(task_keys.keys)
            in_order = len(task_keys.position) == len(task_keys.keys)
            indices.append(slice(start, end) if in_order else task_keys.position + start)
            start = end
        indices_by_request = [indices]
    else:
        # One more row, of zeros, for the key None.
        matrix = np.concatenate([matrix, np.zeros((1, matrix.shape[1]), np.float32)])
        found = np.append(found, False)
        position: dict[str | None, int] = {key: index for index, key in enumerate((*keys, None))}
        indices_by_request = [
            [
                np.array([position[key] for key in task_keys.keys])[task_keys.position]
                for task_keys in r.keys
            ]
            for r in rows
        ]
    return (
        [[matrix[index] for index in request] for request in indices_by_request],
        [[found[index] for index in request] for request in indices_by_request],
    )
