"""What the server uses of TensorFlow without a promise: each use gives what it is used for, and a
version without it is named.
"""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

from limaml_serving.server import tensorflow_internals as internals
from tfrec_limaml.errors import LimamlError


def _graph():
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None], "x")
        tf.multiply(x, 2.0, name="y")
    return graph


def test_a_session_runs_on_endpoints_as_session_run_does_on_names():
    graph = _graph()
    x, y = (internals.endpoint(graph, name) for name in ("x:0", "y:0"))
    with tf.compat.v1.Session(graph=graph) as session:
        (found,) = internals.run_session(session, {x: np.float32([1, 3])}, [y], 1000)
        assert found.tolist() == session.run("y:0", {"x:0": [1, 3]}).tolist() == [2, 6]


def test_a_run_beyond_its_time_is_given_up():
    with tf.Graph().as_default() as graph:
        queue = tf.queue.FIFOQueue(1, tf.float32)
        waits = queue.dequeue().name
    with (
        tf.compat.v1.Session(graph=graph) as session,
        pytest.raises(tf.errors.DeadlineExceededError),
    ):
        internals.run_session(session, {}, [internals.endpoint(graph, waits)], 20)


def test_a_graph_that_was_taken_apart_is_freed_without_the_collector():
    graph = _graph()
    gone = weakref.ref(graph.get_operation_by_name("y"))
    gc.disable()
    try:
        internals.dismantle(graph)
        del graph
        assert gone() is None
    finally:
        gc.enable()


def test_what_a_version_lacks_is_named_with_the_version():
    class Graph:
        def get_tensor_by_name(self, name):
            return Tensor()

    class Tensor:
        pass

    with pytest.raises(
        LimamlError, match=rf"tensorflow {tf.__version__} has no Tensor\._as_tf_output"
    ):
        internals.endpoint(Graph(), "x:0")
    with pytest.raises(LimamlError, match=rf"tensorflow {tf.__version__} has no Graph\._session"):
        internals.run_session(Graph(), {}, [], 1000)
