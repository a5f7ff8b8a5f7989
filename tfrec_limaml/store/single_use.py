"""Base class of both backends' writers, which publish or abort once."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tfrec_limaml.errors import StoreError


class SingleUse:
    """A writer of one generation, which is aborted if its `with` block ends without publication.

    Attributes:
        identifier: Identifier of the generation.
    """

    identifier: str
    _open: bool

    def abort(self) -> None:
        """See `GenerationWriter.abort`."""
        raise NotImplementedError

    def _check_open(self) -> None:
        if not self._open:
            raise StoreError(
                f"generation {self.identifier!r} is already published or aborted; open a new one"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()
