"""TensorFlow functions without graphs, or with graphs as they were traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def without_graphs() -> Iterator[None]:
    """Inside it, TensorFlow functions run without graphs, which cost more to build than they save
    in a few steps; exported models keep theirs.
    """
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def optimise(graphs: bool) -> None:
    """Whether TensorFlow optimises graphs before their first run.

    For a short training that takes a tenth to a fourth of the time.
    """
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not graphs})
