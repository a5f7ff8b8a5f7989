"""The one exception family that the toolkit raises on purpose."""

from __future__ import annotations


class LimamlError(ValueError):
    """Something the user can fix: bad arguments, bad data, mismatched artefacts.

    The message is one readable line (or a short list) that names the value received and the remedy.
    The command line prints it after ``limaml: error:`` and exits with code 2.
    """


class SchemaError(LimamlError):
    """A schema is inconsistent, or data do not fit it."""


class VersionMismatchError(LimamlError):
    """Artefacts of different models or schemas were about to be mixed."""


class StoreError(LimamlError):
    """An embedding store refused an operation (missing, incomplete or unreachable)."""


class NotCurrentError(StoreError):
    """An upsert named a generation that readers do not see (any more)."""


class ErasedMeanwhileError(StoreError):
    """Keys were erased while a generation was written, which may hold them: write it again."""
