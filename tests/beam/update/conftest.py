"""Work folders with their raw rows and stores, and a Kafka broker."""

import pytest
from kafka_broker import Broker, find_broker
from two_sided_toy import ROWS as ROWS_OF_TWO_SIDES
from two_sided_toy import SCHEMA, TwoSidedWorld, export_toy
from update_world import ROWS, World


@pytest.fixture(scope="session")
def make_world(schema, export):
    """``make_world(folder)``: a `World` without rows in a folder."""

    def make(folder):
        (folder / "raw").mkdir()
        schema.save(folder / "raw" / "schema.yaml")
        return World(folder, export)

    return make


@pytest.fixture
def world(tmp_path, make_world):
    return make_world(tmp_path)


@pytest.fixture(scope="session")
def refreshed_once(tmp_path_factory, make_world):
    world = make_world(tmp_path_factory.mktemp("refreshed"))
    world.write(ROWS)
    assert world.refresh() == 0
    return world


@pytest.fixture
def refreshed(refreshed_once, tmp_path):
    """A world after a refresh, copied for each test."""
    return refreshed_once.copy(tmp_path / "refreshed")


@pytest.fixture(scope="session")
def two_sides_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_sides")
    (folder / "raw").mkdir()
    SCHEMA.save(folder / "raw" / "schema.yaml")
    world = TwoSidedWorld(folder, export_toy(folder / "export"))
    world.write(ROWS_OF_TWO_SIDES)
    assert world.refresh() == 0
    return world


@pytest.fixture
def two_sides(two_sides_once, tmp_path):
    """A world of users and videos after a refresh, copied for each test."""
    return two_sides_once.copy(tmp_path / "two_sides")


@pytest.fixture(scope="session")
def broker(checkout, tmp_path_factory):
    made = Broker(find_broker(checkout), tmp_path_factory.mktemp("kafka"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def topic(broker, request):
    return broker.make_topic(f"t{abs(hash(request.node.nodeid))}")
