"""Which optional methods a block's own class defines; see `MetaBlock` and `GlobalBlock`."""

from __future__ import annotations

import keras


def _defines(block: keras.layers.Layer, method: str) -> bool:
    """Whether a block's own class defines an optional method.

    An inherited one may not match what the class computes.
    """
    return method in vars(type(block))


def calls_per_task(block: keras.layers.Layer) -> bool:
    """Whether a block's own class defines ``call_per_task``; see `MetaBlock` and `GlobalBlock`."""
    return _defines(block, "call_per_task")


def scores_once(block: keras.layers.Layer) -> bool:
    """Whether a block's own class defines ``encode_context_once``; see `GlobalBlock`."""
    return _defines(block, "encode_context_once")


def is_linear(block: keras.layers.Layer, parts: int) -> bool:
    """Whether a block's logit is linear in each of `parts` equal parts of the meta embedding.

    The other parts are fixed. False unless the block's own class defines ``linear_in``; see
    `GlobalBlock`.
    """
    return _defines(block, "linear_in") and bool(block.linear_in(parts))
