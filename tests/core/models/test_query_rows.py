"""What predictions say of each query row besides its score."""

import tensorflow as tf

from tfrec_limaml.models.query_rows import describe_query


def test_a_task_was_last_seen_at_its_latest_support_row_and_never_without_one():
    """Padding points at a row of the same task, whose time is another one."""
    batch = {
        "support": {
            "weight": tf.constant([[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]]),
            "timestamp": tf.constant([[3, 5, 9], [7, 7, 7]], tf.int64),
        },
        "query": {
            "weight": tf.constant([[1.0, 0.0], [1.0, 1.0]]),
            "label": tf.constant([[1.0, 0.0], [0.0, 1.0]]),
        },
        "task_key": tf.constant([b"a", b"b"]),
    }
    rows = {name: value.numpy().tolist() for name, value in describe_query(batch).items()}
    assert rows == {
        "label": [1.0, 0.0, 1.0],
        "history": [2, 0, 0],
        "last_seen": [5, 0, 0],
        "task_key": [b"a", b"b", b"b"],
    }
