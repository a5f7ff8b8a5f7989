"""The sizes of tasks in the data card."""

from __future__ import annotations

import numpy as np
import pytest

from limaml_beam.build_tasks.data_card import describe_sizes


def test_quantiles_of_counted_sizes_are_those_of_the_sizes():
    draw = np.random.default_rng(5)
    pairs = np.stack([draw.integers(0, 9, 300), draw.integers(1, 40, 300)], axis=1)
    shards = []
    for part in (pairs[:100], pairs[100:]):
        distinct, counts = np.unique(part, axis=0, return_counts=True)
        shards.append(("member", {"test": np.concatenate([distinct, counts[:, None]], axis=1)}))
    card = describe_sizes([*shards, ("member", {"test": np.empty((0, 3), np.int64)})])["member"][
        "test"
    ]
    assert card["tasks"] == 300
    assert [card["support_rows"], card["query_rows"]] == pairs.sum(axis=0).tolist()
    for name, sizes in (("support", pairs[:, 0]), ("query", pairs[:, 1])):
        assert card[f"{name}_quantiles"] == {
            q: pytest.approx(np.percentile(sizes, int(q))) for q in card[f"{name}_quantiles"]
        }
    assert card["share_of_tasks_with_history"] == pytest.approx((pairs[:, 0] > 0).mean())
    assert card["share_of_query_rows_with_history"] == pytest.approx(
        pairs[pairs[:, 0] > 0, 1].sum() / pairs[:, 1].sum()
    )
