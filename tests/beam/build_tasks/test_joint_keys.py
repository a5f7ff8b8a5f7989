"""Records of one of two definitions, neither of which refines the other, hold the other's keys."""

from __future__ import annotations

import pandas as pd
import pytest
import tensorflow as tf

from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.build_tasks.prepare import prepare
from tfrec_limaml.schema.schema import Feature, Label, Schema, Split
from tfrec_limaml.tasks.parsing import parse_tasks

SCHEMA = Schema(
    name="joint",
    label=Label(name="click"),
    timestamp="time",
    tasks={"user": ("user_id",), "user_tab": ("user_id", "tab"), "shop": ("shop", "city")},
    features=(
        Feature(name="x", role="meta", normalise="none"),
        Feature(name="tab", dtype="string", encoding="hash", buckets=5),
    ),
    split=Split(validation_start="2024-01-03", test_start="2024-01-04"),
)
ROWS = pd.DataFrame(
    {
        "user_id": [1, 2, 1, 3, 1, 2],
        "tab": ["a", "b", "a|", "a", "b", "b"],
        "shop": ["s|1", "t", "t", "s|1", "t", "%"],
        "city": [7, 7, 8, 7, 7, 7],
        "x": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
        "click": [0, 1, 0, 1, 0, 1],
        "time": [pd.Timestamp(2024, 1, 1 + n // 2).value // 1_000_000 + n for n in range(6)],
    }
)


@pytest.fixture
def prepared(tmp_path):
    SCHEMA.save(tmp_path / "schema.yaml")
    ROWS.to_parquet(tmp_path / "rows.parquet")

    def make(*definitions):
        options = PrepareOptions(
            schema=str(tmp_path / "schema.yaml"),
            interactions=[str(tmp_path / "rows.parquet")],
            tasks=definitions,
            recent_only=True,
            window_end="2024-02-01",
            shards=2,
        )
        folder = tmp_path / "_".join(definitions)
        prepare(options, str(folder))
        return folder

    return make


def read(folder, definition, other_definitions):
    """Each row's x with its task's key and its keys under the definitions beside it."""
    files = sorted(map(str, (folder / definition).glob("recent*")))
    records = list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())
    tasks = parse_tasks(tf.constant(records), SCHEMA, other_definitions)
    keys = [key.decode() for key in tasks.task_key.numpy()]
    own = [key for key, n in zip(keys, tasks.counts.numpy(), strict=True) for _ in range(n)]
    others = [
        [v.decode() for v in tasks.columns[f"task_key:{name}"].numpy()]
        for name in other_definitions
    ]
    return sorted(zip(tasks.columns["x"].numpy().tolist(), own, *others, strict=True))


USERS = ["1", "2", "1", "3", "1", "2"]
TABS = ["1|a", "2|b", "1|a%7C", "3|a", "1|b", "2|b"]
SHOPS = ["s%7C1|7", "t|7", "t|8", "s%7C1|7", "t|7", "%25|7"]


def test_each_row_holds_its_keys_under_the_definitions_beside_its_own(prepared):
    folder = prepared("user", "shop", "user_tab")
    x = ROWS["x"].tolist()
    assert read(folder, "user", ["shop"]) == list(zip(x, USERS, SHOPS, strict=True))
    assert read(folder, "shop", ["user", "user_tab"]) == list(
        zip(x, SHOPS, USERS, TABS, strict=True)
    )
    assert read(folder, "user_tab", ["shop"]) == list(zip(x, TABS, SHOPS, strict=True))


def test_definitions_that_refine_one_another_hold_nothing_further(prepared):
    alone, both = prepared("user"), prepared("user", "user_tab")
    for file in sorted((alone / "user").glob("recent*")):
        assert file.read_bytes() == (both / "user" / file.name).read_bytes()
    with pytest.raises(tf.errors.InvalidArgumentError, match="task_key:shop"):
        read(both, "user", ["shop"])


def test_several_definitions_may_be_named_at_once(tmp_path):
    import argparse

    from limaml_beam.commands import prepare_arguments as command

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = parser.parse_args(["raw", "--output", "x", "--task", "user,shop", "--task", "tab"])
    assert command.options_from(arguments).tasks == ("user", "shop", "tab")
