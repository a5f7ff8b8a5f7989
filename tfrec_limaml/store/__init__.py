"""Embedding stores: one protocol, two backends (LMDB and Redis).

`open_store` opens the store at an address::

    lmdb:/var/lib/limaml/store                     a folder on this machine, no server
    lmdb:/var/lib/limaml/store?dtype=float16       half the space, about three decimal digits
    redis://127.0.0.1:6379/0?prefix=limaml         a Redis server shared by many readers
"""

from tfrec_limaml.arrays import Mask
from tfrec_limaml.store.address import open_store
from tfrec_limaml.store.base import (
    EmbeddingStore,
    EventTimes,
    Generation,
    GenerationWriter,
    LookUpResult,
    Matrix,
    Place,
    Upserted,
)

__all__ = [
    "EmbeddingStore",
    "EventTimes",
    "Generation",
    "GenerationWriter",
    "LookUpResult",
    "Mask",
    "Matrix",
    "Place",
    "Upserted",
    "open_store",
]
