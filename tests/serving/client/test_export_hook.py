"""Warm-up requests have the shapes that clients send."""

from __future__ import annotations

import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from limaml_serving.export_hook import write_warmup


@pytest.fixture
def warmed(make_manifest, tmp_path):
    """Of each request: its signature, and the number of rows of each input."""
    path = write_warmup(tmp_path, make_manifest())
    requests = [
        PredictionLog.FromString(record).predict_log.request
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    return [
        (
            request.model_spec.signature_name,
            {name: tensor.tensor_shape.dim[0].size for name, tensor in request.inputs.items()},
        )
        for request in requests
    ]


def test_under_rank_the_members_columns_have_one_row_as_the_client_sends_them(
    warmed, make_ranker, server, member, candidates
):
    make_ranker().rank(member, candidates)
    sent = {
        name: tensor.tensor_shape.dim[0].size for name, tensor in server.requests[0].inputs.items()
    }
    of_four = {name: 4 if rows == 100 else rows for name, rows in warmed[6][1].items()}
    assert warmed[6][0] == "rank"
    assert of_four == sent
    assert set(sent.values()) == {1, 4}


def test_under_serving_default_all_columns_are_as_long_as_the_candidates(warmed):
    lengths = [set(rows.values()) for signature, rows in warmed if signature == "serving_default"]
    assert lengths == [{1}, {10}, {100}, {500}]
