"""Finds the encoded features that a meta block reads."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from tfrec_limaml.blocks.base import MetaBlock
from tfrec_limaml.features import feature_specs


def features_read(block: MetaBlock, shapes: Mapping[str, tuple[int | None, ...]]) -> set[str]:
    """Names of the features that a built block's encoded features depend on.

    Args:
        block: The block.
        shapes: Shapes ``[N, ...]`` of all encoded features, by name.
    """
    specs = feature_specs(shapes)
    function = tf.function(block.encode_features, autograph=False).get_concrete_function(specs)
    operations = [tensor.op for tensor in function.outputs]
    visited = set(operations)
    while operations:
        operation = operations.pop()
        predecessors = {tensor.op for tensor in operation.inputs} | set(operation.control_inputs)
        operations += predecessors - visited
        visited |= predecessors
    # The inputs of a traced dictionary come in the order of its sorted keys.
    pairs = zip(sorted(specs), function.inputs, strict=False)
    return {name for name, tensor in pairs if tensor.op in visited}
