"""The demo's story: whom it is about, what is offered, and which clicks are imagined."""

from __future__ import annotations

import numpy as np
import pytest
from toys import toy_schema

from tfrec_limaml.demo.history import SplitRows, kinds, likes
from tfrec_limaml.demo.story import CANDIDATES, CLICKS, choose_scene, imagine_clicks
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Feature

KIND = Feature(name="tag", dtype="string", encoding="vocabulary", separator=",")


@pytest.fixture
def schema():
    return toy_schema(
        Feature(name="age", role="meta"),
        KIND,
        Feature(name="item", dtype="string", encoding="vocabulary"),
        label="clicked",
        timestamp="t",
    )


def history(lengths, items=50):
    total = sum(lengths)
    index = np.arange(total)
    return SplitRows(
        keys=tuple(f"u{i}%7Cx" for i in range(len(lengths))),
        splits=np.concatenate([[0], np.cumsum(lengths)]),
        columns={
            "age": np.repeat(np.arange(len(lengths), dtype=np.float32), lengths),
            "tag": np.array([f"{'ab'[i % 2]},c".encode() for i in index], dtype=object),
            "item": np.array([f"i{i % items}".encode() for i in index], dtype=object),
            "label": (index % 4 == 0).astype(np.float32),
            "timestamp": 1000 * index,
        },
    )


@pytest.fixture
def scene(schema):
    return choose_scene(schema, history([30, 7, 2]), history([100]), KIND, ("item",))


def test_the_member_has_a_short_history_and_keeps_their_own_features(scene):
    assert scene.key == "u1%7Cx"
    assert len(scene.rows) == 7
    assert scene.request["member"] == {"user_id": "u1|x", "age": 1.0}


def test_candidates_are_different_items_without_the_members_columns(scene):
    items = [candidate["item"] for candidate in scene.request["candidates"]]
    assert len(set(items)) == CANDIDATES
    assert all(set(candidate) == {"tag", "item"} for candidate in scene.request["candidates"])
    assert list(scene.names) == items


def test_spare_items_are_not_among_the_candidates(scene):
    spare = {item["item"] for items in scene.spare.values() for _, item in items}
    assert spare
    assert not spare & set(scene.names)


def test_imagined_clicks_go_to_another_kind_than_the_first_and_follow_the_history_in_time(scene):
    scores = np.linspace(0.9, 0.1, CANDIDATES)
    rows, reactions = imagine_clicks(scene, scores)
    first = scene.kinds[0]
    wanted = [kinds(row, KIND)[0] for row in rows if row["label"]]
    assert len(wanted) == CLICKS
    assert first not in wanted
    assert {kinds(row, KIND)[0] for row in rows if not row["label"]} == {first}
    times = [scene.rows[-1]["timestamp"], *(row["timestamp"] for row in rows)]
    assert (np.diff(times) > 0).all()
    assert [reaction.name for reaction in reactions] == [row["item"] for row in rows]
    assert [reaction.clicked for reaction in reactions] == [row["label"] > 0 for row in rows]
    last = max(i for i, kind in enumerate(scene.kinds) if kind == wanted[0])
    assert reactions[0].name == scene.names[last], "the last one of the list is clicked first"
    assert all(row["age"] == 1.0 for row in rows)


def test_too_few_items_are_an_error_that_says_how_many(schema):
    with pytest.raises(
        LimamlError, match=f"only 4 different items; the demo needs {CANDIDATES + CLICKS}"
    ):
        choose_scene(schema, history([8]), history([60], items=4), KIND, ("item",))


def test_a_member_likes_the_kind_that_they_clicked_most_not_the_one_they_saw_most():
    shown = SplitRows(
        keys=("m",),
        splits=np.array([0, 4]),
        columns={
            "tag": np.array([b"a", b"a", b"a", b"b,c"], dtype=object),
            "label": np.array([0, 0, 0, 1.0]),
        },
    )
    assert likes(shown, KIND) == ["b"]
