"""Requests to rankers of the shared schema."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

#: Width of the meta embedding of the shared models.
DIM = 3


@pytest.fixture(scope="module")
def request_inputs(make_rows, as_columns):
    columns = {n: tf.constant(v) for n, v in as_columns(make_rows(6, seed=3)).items()}
    stored = np.random.default_rng(0).normal(size=(6, DIM)).astype("f")
    return {
        **columns,
        "meta_embedding": tf.constant(stored),
        "has_meta_embedding": tf.constant([True, False] * 3),
    }
