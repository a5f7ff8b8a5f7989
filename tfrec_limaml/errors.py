"""The errors of the toolkit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class LimamlError(ValueError):
    """An error that the user can fix: invalid arguments, invalid data, mismatched artefacts.

    The message is one readable line (or a short list) that names the value received and the remedy.
    The command line prints it after ``limaml: error:`` and exits with code 2.
    """


class SchemaError(LimamlError):
    """A schema is inconsistent, or data do not fit it."""


class VersionMismatchError(LimamlError):
    """Artefacts belong to different models or schemas."""


class StoreError(LimamlError):
    """An embedding store refused an operation (missing, incomplete or unreachable)."""


class NotCurrentError(StoreError):
    """An upsert named a generation that is not current."""


class ErasedMeanwhileError(StoreError):
    """Keys were erased while a generation that may contain them was written; write it again."""


class UnconfirmedErasureError(StoreError):
    """Keys were erased from a store, but may come back: no replica has confirmed the erasure.

    Args:
        message: Why the erasure is not confirmed.
        places: Where keys were removed (`tfrec_limaml.store.Place`).
    """

    def __init__(self, message: str, places: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.places = list(places)
