"""The fixtures of `evaluation_fixtures`."""

from evaluation_fixtures import tasks_folder  # noqa: F401
