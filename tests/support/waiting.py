"""Waiting for something that another thread or process does."""

import time
from collections.abc import Callable

import pytest


def wait_for(
    condition: Callable[[], object], seconds: float = 300, why: Callable[[], str] = lambda: ""
) -> None:
    """Returns once `condition` is true; fails the test with `why()` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {why()}")
        time.sleep(0.01)
