"""A work folder, its raw rows and its store."""

import pytest
from update_world import World


@pytest.fixture(scope="session")
def make_world(schema, export):
    """Makes a `World` of no rows in a folder."""

    def make(folder):
        (folder / "raw").mkdir()
        schema.save(folder / "raw" / "schema.yaml")
        return World(folder, export)

    return make


@pytest.fixture
def world(tmp_path, make_world):
    return make_world(tmp_path)
