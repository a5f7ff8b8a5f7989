"""Orderings and gains of lines that differ by rounding alone."""

from __future__ import annotations

import pytest
from toy_tables import TABLE, runs, world

from tfrec_limaml.reproduction.run import failed, markdown
from tfrec_limaml.reproduction.summary import _ordering, summarise
from tfrec_limaml.reproduction.table import Ordering


def test_what_differs_by_rounding_is_equal_and_no_ordering():
    data = world()
    base, other = TABLE.lines
    made = {base.setup.name: runs(data, 1.0, 1.0), other.setup.name: runs(data, 1.0, 1.0)}
    result = summarise(TABLE, made, {None: data})
    (ordering,) = result["orderings"]
    assert (ordering["holds"], ordering["equal"]) == (False, True)
    assert failed(result) == ["toy: equal: *LiMAML* and *vanilla*"]
    text = markdown(result)
    assert "- equal: *LiMAML* and *vanilla*" in text
    assert "| LiMAML | 400 of 40 tasks | +1.47 | equal |  | " in text
    assert "| vanilla | 400 of 40 tasks |  | +0.00 (0.00) | +0.00 to +0.00 | " in text


@pytest.mark.parametrize(("gap", "equal"), [(1e-14, True), (-9e-5, True), (2e-4, False)])
def test_gains_are_equal_up_to_a_millionth_of_auc(gap, equal):
    lines = [
        {"label": label, "auc_mean": 0.7, "slices": [{"slice": "all", "gain": gain}]}
        for label, gain in (("a", 1.0 + gap), ("b", 1.0))
    ]
    ordering = _ordering(Ordering("a", "b"), lines)
    assert (ordering["equal"], ordering["holds"]) == (equal, not equal)
