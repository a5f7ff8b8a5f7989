"""The parts of a table of the paper: lines, the paper's figures, and expected orderings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from tfrec_limaml.reproduction.setups import Setup

#: The task records of a table: plain, with the task's ID as a feature, or of several task
#: definitions.
Records = Literal["plain", "id", "definitions"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a table.

    Attributes:
        label: Text for readers, unique within the table.
        setup: The trained and scored model.
        paper: The paper's gain in per cent of AUC, by slice (``"all"`` for all rows).
        paper_time: The paper's training time in per cent relative to the reference.
        reference: Label of the line that it is compared with; None for that of the table.
    """

    label: str
    setup: Setup
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    paper_time: float | None = None
    reference: str | None = None


#: Largest difference of gains, in per cent, that rounding explains: 1e-6 in AUC, and less.
EQUAL = 1e-4


@dataclasses.dataclass(frozen=True)
class Ordering:
    """An ordering that is expected: `more` has the larger AUC, or with `time` takes longer.

    Lines whose difference is at most `EQUAL` are equal, and the ordering does not hold.

    Attributes:
        more, less: Labels of lines.
        time: Compare training times.
        slice: The slice of rows to compare on.
        robust: Also holds on the small simulated world; never set for times, which vary.
    """

    more: str
    less: str
    time: bool = False
    slice: str = "all"
    robust: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """An experiment.

    Attributes:
        name: Name on the command line.
        title: Heading.
        text: Text that says what is compared, and how it differs from the paper's experiment.
        reference: Label of the line that the others are compared with.
        lines: The lines, in order.
        orderings: Orderings in the paper, or expected ones.
        records: The task records of the table.
        slices: ``"all"`` rows, the ``"paper"``'s slices by test rows of the task, or ``"cohorts"``.
    """

    name: str
    title: str
    text: str
    reference: str
    lines: Sequence[Line]
    orderings: Sequence[Ordering] = ()
    records: Records = "plain"
    slices: Literal["all", "paper", "cohorts"] = "all"
