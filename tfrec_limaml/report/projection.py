"""Projects ``D`` dimensions onto two, and finds the kind of item that a member likes most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from tfrec_limaml.arrays import Floats

OTHER = "other"
NOTHING = "nothing yet"


def principal_components(
    vectors: npt.NDArray[np.floating],
) -> tuple[Floats, tuple[float, float]]:
    """Projects onto the two directions of largest variance.

    Args:
        vectors: ``[T, D]``, finite.

    Returns:
        Coordinates ``[T, 2]`` (zero if there are fewer directions) and the share of the variance
        along each. The sign of a direction is fixed by making its largest coefficient positive, so
        that the same vectors always give the same map.
    """
    centred = np.asarray(vectors, np.float64) - np.mean(vectors, axis=0, dtype=np.float64)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    count = min(2, len(singular))
    largest = np.abs(directions[:count]).argmax(axis=1)
    directions = directions[:count] * np.sign(directions[np.arange(count), largest])[:, None]
    coordinates = np.zeros((len(centred), 2))
    coordinates[:, :count] = centred @ directions.T
    total = float((singular**2).sum()) or 1.0
    shares = [float(s**2) / total for s in singular[:2]] + [0.0, 0.0]
    return coordinates, (shares[0], shares[1])


def favourite(values: Iterable[str]) -> str:
    """The most frequent value, the smallest of several; ``"nothing yet"`` without values."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value)) if counts else NOTHING


def largest_groups(groups: Sequence[str], keep: int) -> tuple[list[str], list[str]]:
    """Merges rare groups into ``"other"``, or ``"all other"`` if a group has that name.

    Returns:
        The groups with rare ones renamed, and the names that are left: the largest first, the
        merged one last.
    """
    names = [
        name for name, _ in sorted(Counter(groups).items(), key=lambda item: (-item[1], item[0]))
    ]
    if len(names) <= keep:
        return list(groups), names
    largest = names[: keep - 1]
    other = f"all {OTHER}" if OTHER in names else OTHER
    return [g if g in largest else other for g in groups], [*largest, other]
