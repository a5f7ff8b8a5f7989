"""Checks of a user's own blocks when a model is built: the features that they read, their shapes.

Otherwise a wrong shape would be found late, or broadcast.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.adaptation.inner_weights import with_task_axis
from tfrec_limaml.blocks.base import GlobalBlock, MetaBlock
from tfrec_limaml.blocks.functional import FunctionalGlobalBlock
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.features import zero_row
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder

Shapes = Mapping[str, tuple[int | None, ...]]


@contextlib.contextmanager
def missing_features_named(block: keras.layers.Layer, shapes: Shapes) -> Iterator[None]:
    """Turns a block's `KeyError` of a feature that does not exist into a `LimamlError`."""
    try:
        yield
    except KeyError as error:
        (name,) = error.args or (None,)
        if not isinstance(name, str) or name in shapes:
            raise
        raise LimamlError(
            f"block {_named(block)} reads the feature {name!r}; there are {sorted(shapes)}"
        ) from error


def check_shapes(meta_block: MetaBlock, global_block: GlobalBlock, shapes: Shapes) -> None:
    """Raises `LimamlError` if a block of a user's own gives another shape than it must, or does not
    use what is adapted.

    Two rows of zeros run through the built blocks; those of this package are not checked.
    """
    width = meta_block.embedding_dim
    with tf.init_scope():
        rows = {name: tf.repeat(value, 2, 0) for name, value in zero_row(shapes).items()}
        if _is_own(meta_block):
            with missing_features_named(meta_block, shapes):
                _check(meta_block, "call_encoded", meta_block(rows), {"N": 2, "D": width})
                _check_adapted(meta_block, meta_block.encode_features(rows))
        if _is_own(global_block):
            with missing_features_named(global_block, shapes):
                logits = global_block(rows, tf.zeros([2, width]))
            _check(global_block, "head", logits, {"N": 2})
            _check_used(
                lambda embedding: global_block(rows, embedding),
                tf.zeros([2, width]),
                f"the logits of the block {_named(global_block)} do not depend on the meta "
                "embedding, so adaptation would have no effect; use the second argument of `head`",
            )


def check_ids(meta_block: MetaBlock, global_block: GlobalBlock, encoder: FeatureEncoder) -> None:
    """Raises `LimamlError` if an embedding of a user's own layers lacks an id of the encoder.

    It would end a later step, or on a GPU read zeros. Rows of the greatest ids run through the
    blocks, on the processor.
    """
    embeddings, shapes = encoder.embeddings(), encoder.output_shapes
    numbers = {name: number for name, (number, _) in embeddings.items() if len(shapes[name]) == 1}
    with tf.init_scope(), tf.device("cpu:0"):
        embedding = tf.zeros([1, meta_block.embedding_dim])
        inputs: list[tuple[keras.layers.Layer, tuple[tf.Tensor, ...]]]
        inputs = [(meta_block, ()), (global_block, (embedding,))]
        for block, further in inputs:
            if not (_is_own(block) or isinstance(block, FunctionalGlobalBlock)):
                continue
            for name, number in numbers.items():
                row = zero_row(shapes)
                row[name] += number - 1
                try:
                    block(row, *further)
                except tf.errors.InvalidArgumentError as error:
                    raise LimamlError(
                        f"block {_named(block)} has no row for the id "
                        f"{number - 1} of the feature {name!r}; make its embedding for {number} "
                        "ids, the number in encoder.embeddings()"
                    ) from error


def _check_adapted(block: MetaBlock, encoded: tf.Tensor) -> None:
    """Checks the embeddings of three tasks of two rows."""
    encoded = tf.nest.map_structure(lambda value: tf.stack([value] * 3), encoded)
    encoded = block.read_support(encoded, (), causal=True)
    try:
        weights = block.initial_weights(encoded)
        outputs = block.call_adapted(weights, encoded)
    except NotImplementedError:  # a block for `Vanilla` alone
        return
    _check(block, "call_adapted", outputs, {"T": 3, "S": 2, "D": block.embedding_dim})
    _check_used(
        lambda weights: block.call_adapted(weights, encoded),
        [with_task_axis(weight) for weight in weights],
        f"call_adapted of the block {_named(block)} gives embeddings that do not depend on its "
        "argument `weights`, so adaptation would have no effect; compute them from `weights`, not "
        "from the variables of the block",
    )


def _check_used(function: Callable[[Any], tf.Tensor], argument: Any, message: str) -> None:
    """Raises `LimamlError` if no gradient leads from the result to any part of the argument.

    The function is traced once, not run.
    """
    gradients = []

    def trace(argument: Any) -> None:
        with tf.name_scope("check"):  # a block's name need not be valid as the first of a graph
            gradients.extend(tf.gradients(function(argument), tf.nest.flatten(argument)))

    tf.function(trace, autograph=False).get_concrete_function(argument)
    if gradients and all(gradient is None for gradient in gradients):
        raise LimamlError(message)


def _check(
    block: keras.layers.Layer, method: str, outputs: tf.Tensor, axes: dict[str, int]
) -> None:
    expected = f"[{', '.join(axes)}]"
    received = tuple(getattr(outputs, "shape", ()))
    if received != tuple(axes.values()):
        width = f", with D = {axes['D']} (embedding_dim)" if "D" in axes else ""
        remedy = "; take [..., 0]" if received == (*axes.values(), 1) else ""
        raise LimamlError(
            f"{method} of the block {_named(block)} must give the shape "
            f"{expected}{width}; for {', '.join(f'{a} = {n}' for a, n in axes.items())} it gave "
            f"{received}{remedy}"
        )


def _named(block: keras.layers.Layer) -> str:
    return f"{block.name!r} ({type(block).__name__})"


def _is_own(block: keras.layers.Layer) -> bool:
    return not type(block).__module__.startswith("tfrec_limaml.")
