"""TensorFlow without graphs, with graphs as they were traced, and with kernels that it keeps."""

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


@contextlib.contextmanager
def kept_kernels() -> Iterator[None]:
    """Inside it, TensorFlow keeps the kernels of single operations when a random seed is set.

    It drops them to restart those with a random state of their own. Keras and this project draw
    random numbers from states in variables, and most tests set a seed: to make the kernels again
    would take a seventh of their time. At the end the kernels are dropped: each takes some memory.
    """
    import tensorflow as tf
    from tensorflow.python.eager import context

    drop = context.pywrap_tfe.TFE_ContextClearCaches
    context.pywrap_tfe.TFE_ContextClearCaches = lambda handle: None
    try:
        yield
    finally:
        context.pywrap_tfe.TFE_ContextClearCaches = drop
        tf.random.set_seed(0)  # drops them
