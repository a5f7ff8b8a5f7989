"""The fixtures of `evaluation_fixtures`."""

from evaluation_fixtures import (  # noqa: F401
    make_model,
    tasks_folder,
    test_tasks,
)
