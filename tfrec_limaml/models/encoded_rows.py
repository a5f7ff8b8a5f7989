"""The parts of rows that adaptation does not change."""

from __future__ import annotations

from typing import Any, NamedTuple

from tfrec_limaml.adaptation.real_rows import RealRows


class EncodedRows(NamedTuple):
    """The parts of rows ``[T, N, ...]`` that adaptation does not change.

    Attributes:
        encoded: The meta block's input.
        context: The global block's context of the real rows ``[M, ...]``.
        real: Which rows are real.
    """

    encoded: Any
    context: Any
    real: RealRows
