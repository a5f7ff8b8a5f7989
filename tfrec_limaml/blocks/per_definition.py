"""Base class of meta blocks of several task definitions, with one block for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import keras

from tfrec_limaml.blocks.base import MetaBlock


class MetaBlockPerDefinition(MetaBlock):
    """Meta blocks of several task definitions; a row's embedding is the concatenation of theirs.

    Args:
        blocks: Task definition to meta block, all with the same `embedding_dim`.

    Attributes:
        definitions: The task definitions.
        blocks: The meta blocks, in the same order.
    """

    def __init__(self, blocks: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(sum(block.embedding_dim for block in blocks.values()), **kwargs)
        self.definitions = tuple(blocks)
        self.blocks = list(blocks.values())

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        config = super().get_config()
        del config["embedding_dim"]
        pairs = zip(self.definitions, self.blocks, strict=True)
        return {
            **config,
            "blocks": {name: keras.saving.serialize_keras_object(block) for name, block in pairs},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Inverse of `get_config`."""
        blocks = {
            name: keras.saving.deserialize_keras_object(block)
            for name, block in config["blocks"].items()
        }
        return cls(**{**config, "blocks": blocks})
