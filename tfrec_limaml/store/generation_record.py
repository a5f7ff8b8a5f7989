"""The record of a generation, as JSON, in both backends."""

from __future__ import annotations

import dataclasses
import functools
import json
import zlib
from typing import Any

import numpy as np

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store.base import Generation

DTYPES = ("float32", "float16")


#: Format of new values: 2 has checksums, 1 (release 0.1.0) has none.
FORMAT = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A generation as stored, with everything that readers need to decode its values.

    Attributes:
        format: `FORMAT` of its values; missing in records of release 0.1.0.
        condemned: When it was condemned (seconds since the epoch); 0 if it was not.
        overlay: Token of the overlay of upserted embeddings; empty without one.
        data: Suffix of the LMDB folder of a rewritten generation; empty otherwise.
        erasing: Whether it may contain erased keys: readers then check tombstones.
        model: Digest of the manifest of the model that computed it; empty if unknown.
    """

    model_version: int
    identifier: str
    count: int
    embedding_dim: int
    dtype: str
    published: float
    format: int = 1
    condemned: float = 0.0
    overlay: str = ""
    data: str = ""
    erasing: bool = False
    model: str = ""

    def to_bytes(self) -> bytes:
        """The record as JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True).encode()

    @classmethod
    @functools.lru_cache(maxsize=256)  # readers decode the same few records repeatedly
    def from_bytes(cls, content: bytes) -> Record:
        """Inverse of `to_bytes`."""
        try:
            record = cls(**json.loads(content))
            usable = record.embedding_dim > 0 and record.dtype in DTYPES and record.format >= 1
            usable = usable and isinstance(record.identifier, str)
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"the store holds a generation record that cannot be read: {content[:200]!r}; "
                "publish again, or use the release that wrote it"
            ) from error
        if not usable or record.format > FORMAT:
            raise StoreError(
                f"the store holds a generation record that this release cannot use: "
                f"{content[:200]!r}; publish again, or use the release that wrote it"
            )
        return record

    def check_version(self, model_version: int) -> Record:
        """Returns itself; raises `StoreError` if it belongs to another model version."""
        if self.model_version != model_version:
            raise StoreError(
                f"the current generation of model version {model_version} is a record of version "
                f"{self.model_version}: the store was changed by hand; publish again"
            )
        return self

    def generation(self, current: bool, lost: bool = False) -> Generation:
        """The public view of this record."""
        state = "condemned" if self.condemned else "published"
        return Generation(
            model_version=self.model_version,
            identifier=self.identifier,
            count=self.count,
            embedding_dim=self.embedding_dim,
            state="lost" if lost else "current" if current else state,
            published=self.published,
            checked=self.format >= 2,
            overlay=bool(self.overlay),
            model=self.model,
        )

    @property
    def folder(self) -> str:
        """Name of its LMDB folder."""
        return f"{self.identifier}~{self.data}" if self.data else self.identifier

    def without_overlay(self) -> Record:
        """The record without an overlay."""
        return dataclasses.replace(self, overlay="") if self.overlay else self

    @functools.cached_property
    def stored_dtype(self) -> np.dtype[Any]:
        """Element type of the stored vectors, little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    @functools.cached_property
    def vector_bytes(self) -> int:
        """Bytes of one stored vector, without its checksum."""
        return self.embedding_dim * self.stored_dtype.itemsize

    @functools.cached_property
    def header(self) -> bytes:
        """The generation's description inside its data."""
        parts = (self.model_version, self.identifier, self.embedding_dim, self.dtype)
        return json.dumps(parts).encode()

    @functools.cached_property
    def seed(self) -> int:
        """Initial value of checksums, so that values of other generations fail."""
        return zlib.crc32(self.header)


def check_dtype(dtype: str) -> str:
    """Returns `dtype`, or raises `StoreError` if the stores do not support it."""
    if dtype not in DTYPES:
        raise StoreError(f"dtype must be one of {list(DTYPES)}, received {dtype!r}")
    return dtype


def record_of_pointer(content: bytes | None, model_version: int) -> Record | None:
    """The record in a pointer, if there is one.

    Raises:
        StoreError: The record belongs to another model version.
    """
    return None if content is None else Record.from_bytes(content).check_version(model_version)
