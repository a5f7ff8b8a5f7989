"""The checks of a finished run of the embedding job, before it is published."""

import pytest

from limaml_beam.generate_embeddings.report import check_report
from tfrec_limaml.errors import LimamlError


def test_the_allowed_share_of_refused_tasks_may_be_reached_and_0_allows_none():
    def check(dead, allowed):
        used = 100 - dead
        check_report(
            {
                "tasks_read": 100,
                "embedded": used,
                "carried": 0,
                "kept_outside_window": 0,
                "nested": 0,
                "rows": used,
                "dead_letters": {"not_finite": dead},
                "unreadable_files": 0,
            },
            allowed,
        )

    check(0, 0.0)
    check(2, 0.02)
    for dead, allowed in ((1, 0.0), (3, 0.02)):
        with pytest.raises(LimamlError, match=rf"{dead} of 100 tasks are dead letters"):
            check(dead, allowed)
