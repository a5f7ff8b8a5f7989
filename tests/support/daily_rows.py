"""Interactions day by day, and the expected embeddings."""

import pyarrow as pa

START = 1_650_000_000_000


def daily_rows(days, members, scale):
    """One interaction of each member on the first day, and of a third of them on each later one."""
    rows = [
        (f"u{m}", day)
        for day in range(days)
        for m in range(members)
        if day == 0 or m % 3 == day % 3
    ]
    return pa.table(
        {
            "user_id": [user for user, _ in rows],
            "x": pa.array([scale * (day + 1) for _, day in rows], pa.float32()),
            "note": ["n"] * len(rows),
            "click": [1] * len(rows),
            "time": [START + day * 86_400_000 + n for n, (_, day) in enumerate(rows)],
        }
    )


def sums(store, members=30):
    """The sum of x of each member, in a store that holds all of them."""
    matrix, found = store.get_many([f"u{m}" for m in range(members)], 7)
    assert found.all()
    return matrix[:, 1]


def expected(days, members=30):
    """The expected `sums` after this number of days, for scale 1."""
    return [
        sum(day + 1 for day in range(days) if day == 0 or m % 3 == day % 3) for m in range(members)
    ]
