"""Task records without validation rows: for the model that is deployed."""

from __future__ import annotations

import numpy as np
import pytest
from task_building import run

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Split

#: Later than all rows of the shop.
AFTER_ALL = "2030-01-01"


@pytest.fixture(scope="module")
def open_ended(shop_schema):
    """The schema without an end of the test rows."""
    start, end = shop_schema.split.starts()
    return shop_schema.replace(split=Split(validation_start=start, test_start=end))


@pytest.fixture(scope="module")
def raw(tmp_path_factory, shop_schema, shop_frames, write_raw):
    return write_raw(tmp_path_factory.mktemp("raw"), shop_schema, shop_frames(rows=300))


def content(folder, split):
    files = sorted((folder / "member").glob(f"{split}-*"))
    return [file.read_bytes() for file in files]


@pytest.mark.parametrize("split", [None, Split(per_task=(0.6, 0.2, 0.2))])
def test_validation_rows_become_training_rows_and_test_records_stay(
    tmp_path, raw, shop_schema, read_tasks, split
):
    # Without history rates, which are smoothed towards the mean label of the training rows.
    schema = shop_schema.replace(split=split or shop_schema.split, history=())
    usual = run(raw, schema, tmp_path / "usual", max_samples=1000, max_query=1000)
    card = run(raw, schema, tmp_path / "all", max_samples=1000, max_query=1000, no_validation=True)
    rows = {name: part["rows"] for name, part in usual["splits"].items()}
    assert rows["validation"] > 20
    assert {name: part["rows"] for name, part in card["splits"].items()} == {
        "train": rows["train"] + rows["validation"],
        "validation": 0,
        "test": rows["test"],
    }
    assert content(tmp_path / "all", "test") == content(tmp_path / "usual", "test")
    assert not read_tasks(tmp_path / "all", "member", "validation")
    trained = read_tasks(tmp_path / "all", "member", "train")
    tested = read_tasks(tmp_path / "all", "member", "test")
    for key in trained.keys() & tested.keys():
        start, steps = tested[key]
        assert trained[key][1] == steps[:start]
    assert trained.keys() & tested.keys()


def test_all_rows_may_be_training_rows(tmp_path, raw, open_ended):
    card = run(raw, open_ended, tmp_path / "all", no_validation=True, test_start=AFTER_ALL)
    assert card["splits"]["train"]["rows"] == card["rows"]["used"]
    assert not [warning for warning in card["warnings"] if "tested" in warning]


def test_other_records_need_validation_and_test_rows(tmp_path, raw, open_ended):
    with pytest.raises(LimamlError, match="no rows in test"):
        run(raw, open_ended, tmp_path / "a", test_start=AFTER_ALL)
    dates = {"validation_start": "1990-01-01", "test_start": "1990-01-02"}
    with pytest.raises(LimamlError, match="no rows in train"):
        run(raw, open_ended, tmp_path / "b", no_validation=True, **dates)
    with pytest.raises(LimamlError, match=r"no_validation .* and recent_only .* combined"):
        run(raw, open_ended, tmp_path / "c", no_validation=True, recent_only=True)


def test_query_rows_of_episodes_lie_in_as_long_a_period_as_with_validation_rows(
    tmp_path, raw, shop_schema, read_tasks
):
    run(raw, shop_schema, tmp_path / "all", no_validation=True, episodes=2)
    days = np.timedelta64(1, "D").astype("timedelta64[ms]").astype(int)
    start, end = (np.datetime64(day) for day in shop_schema.split.starts())
    period = (end - start).astype("timedelta64[ms]").astype(int)
    spans = []
    for number in range(2):
        episode = read_tasks(tmp_path / "all", "member", f"episode-{number}")
        for first, steps in episode.values():
            times = [step["timestamp"] for step in steps[first:]]
            spans.append(max(times) - min(times))
    assert days < max(spans) <= period
