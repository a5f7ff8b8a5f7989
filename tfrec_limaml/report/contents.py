"""The contents of a report, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.wording import counted

ALGORITHMS = {"vanilla": "Vanilla", "limaml": "LiMAML", "maml": "MAML", "id": "ID embedding"}
_WHOLE_NETWORKS = ("vanilla", "maml")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingMap:
    """Embeddings and the favourite kind of each member.

    Attributes:
        embeddings: ``[T, D]``.
        groups: One name per embedding, for example the member's most clicked tab.
        meaning: What the names stand for, for example ``"most clicked tab"``.
    """

    embeddings: npt.NDArray[np.float32]
    groups: Sequence[str]
    meaning: str

    def __post_init__(self) -> None:
        shape = np.shape(self.embeddings)
        if len(shape) != 2 or shape[0] != len(self.groups):
            raise LimamlError(
                f"an embedding map needs one group per row, received embeddings {shape} and "
                f"{counted(len(self.groups), 'group')}"
            )
        if not np.isfinite(self.embeddings).all():
            raise LimamlError(
                "an embedding map needs finite embeddings, received NaN or infinity; generate the "
                "embeddings again"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankedItem:
    """One candidate and its probability under three embeddings of the same member.

    Attributes:
        name: Item identifier.
        group: The kind of item, as in `EmbeddingMap.groups`.
        without: Probability without an embedding (the un-adapted model).
        before: Probability with the current embedding of the member.
        after: Probability with the embedding after a few more clicks.
    """

    name: str
    group: str
    without: float
    before: float
    after: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemberStory:
    """One member's candidates before and after a few more interactions.

    Attributes:
        task_key: The member.
        seen: Number of interactions behind the first embedding.
        clicks: Descriptions of the further interactions.
        items: The candidates.
    """

    task_key: str
    seen: int
    clicks: Sequence[str]
    items: Sequence[RankedItem]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Everything on the page; parts that are None or empty are left out.

    Attributes:
        title: Heading.
        summary: One paragraph of plain text.
        facts: Name and value of each line of the summary table.
        training: Contents of the ``*.training.json`` files.
        evaluation: Content of ``evaluation.json``.
        embedding_map: Embeddings to draw.
        story: One member's list.
        next_steps: Commands to try.
    """

    title: str
    summary: str
    facts: Sequence[tuple[str, str]] = ()
    training: Sequence[Mapping[str, Any]] = ()
    evaluation: Mapping[str, Any] | None = None
    embedding_map: EmbeddingMap | None = None
    story: MemberStory | None = None
    next_steps: Sequence[str] = ()


def algorithm_label(algorithm: str, fine_tune: bool | None = None, served: bool = False) -> str:
    """The name to show: ``LiMAML, fine-tuned``; whole networks cannot be stored per task."""
    name = ALGORITHMS.get(algorithm, algorithm)
    if served:
        return f"{name}, as served"
    if fine_tune is None:
        return name
    if not fine_tune:
        return f"{name}, un-adapted"
    return f"{name}, fine-tuned{' (cannot be stored)' if algorithm in _WHOLE_NETWORKS else ''}"


def series_of(algorithm: str, fine_tune: bool | None = None) -> int:
    """Number of a model's colour and shape, the same in all charts.

    The form that is trained has the lower one: un-adapted for ``vanilla``, adapted for others.
    """
    names = list(ALGORITHMS)
    number = names.index(algorithm) if algorithm in names else len(names) - 1
    is_trained = fine_tune is None or fine_tune == (algorithm != "vanilla")
    return number if is_trained else number + len(names)
