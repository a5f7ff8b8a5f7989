"""``limaml store`` on both backends."""

import argparse

import numpy as np
import pytest

from tfrec_limaml.commands import store as command
from tfrec_limaml.errors import LimamlError, StoreError


@pytest.fixture
def limaml_store(store_address):
    """``limaml_store("list", "--keep", "1")``: the result and its text."""

    def run(action, *options, address=store_address):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        result = command.run(parser.parse_args([action, address, *options]))
        return result, command.render(result)

    return run


def write(store, identifier, value, version=1):
    with store.new_generation(version, 2, identifier) as writer:
        writer.put(["a", "b"], np.full((2, 2), value, np.float32))
        writer.publish(2)


def test_an_empty_store_is_listed_as_such(limaml_store):
    result, text = limaml_store("list")
    assert result["generations"] == []
    assert text == f"the store {result['store']} holds no generation"


@pytest.mark.parametrize("action", ["show", "rollback"])
def test_in_an_empty_store_nothing_can_be_done(limaml_store, action):
    with pytest.raises(LimamlError, match=r"the store \S+:\S+ holds no generation; check"):
        limaml_store(action)


@pytest.mark.parametrize("version", [None, 3])
def test_in_an_empty_store_there_is_nothing_to_prune(limaml_store, version):
    options = [] if version is None else ["--model-version", str(version)]
    result, text = limaml_store("prune", *options)
    assert (result["model_version"], result["removed"], result["left"]) == (version, [], [])
    assert text == f"the store {result['store']} is empty: there is nothing to prune"


def test_a_misspelt_version_is_refused_before_anything_is_removed(store, limaml_store, monkeypatch):
    write(store, "g1", 1)
    monkeypatch.setattr(type(store), "prune", None)  # a call would fail
    with pytest.raises(StoreError, match=r"version 9 to prune; the store holds .*\[1\]"):
        limaml_store("prune", "--model-version", "9")


def test_generations_are_listed_with_their_state(store, limaml_store):
    write(store, "g1", 1)
    write(store, "g2", 2)
    result, text = limaml_store("list")
    assert [(g["identifier"], g["state"], g["count"]) for g in result["generations"]] == [
        ("g1", "published", 2),
        ("g2", "current", 2),
    ]
    assert [line.split()[:4] for line in text.splitlines()[1:]] == [
        ["1", "g1", "published", "2"],
        ["1", "g2", "current", "2"],
    ]


def test_after_a_rollback_and_a_publish_the_good_generation_is_kept(store, limaml_store):
    write(store, "good", 1)
    write(store, "worse", 2)
    result, _ = limaml_store("rollback")
    assert (result["current"]["identifier"], result["condemned"]) == ("good", "worse")
    assert store.get_many(["a"], 1)[0][0, 0] == 1
    write(store, "znext", 3)
    result, _ = limaml_store("prune", "--keep", "2", "--grace-seconds", "0")
    assert (result["removed"], result["left"]) == (["worse"], ["good", "znext"])


def test_a_rollback_skips_condemned_generations_and_a_named_one_is_good_again(store, limaml_store):
    for number in (1, 2, 3):
        write(store, f"g{number}", number)
    assert limaml_store("condemn", "--generation", "g2")[0]["state"] == "condemned"
    assert limaml_store("rollback")[0]["current"]["identifier"] == "g1"
    result, _ = limaml_store("rollback", "--generation", "g2")
    assert (result["current"]["identifier"], result["condemned"]) == ("g2", None)
    assert [g.state for g in store.generations(1)] == ["published", "current", "condemned"]


def test_of_two_rollbacks_at_the_same_time_the_second_does_nothing(
    store, open_another, limaml_store, monkeypatch
):
    for number in (1, 2, 3):
        write(store, f"g{number}", number)
    other, read = open_another(), type(store).current

    def current_and_another_rollback(self, version):
        current = read(self, version)
        monkeypatch.undo()
        other.rollback(version)
        return current

    monkeypatch.setattr(type(store), "current", current_and_another_rollback)
    with pytest.raises(StoreError, match="from 'g3' to 'g2' meanwhile; nothing was done"):
        limaml_store("rollback")
    assert [g.state for g in store.generations(1)] == ["published", "current", "condemned"]


def test_a_rollback_expects_the_current_generation(store):
    for number in (1, 2, 3):
        write(store, f"g{number}", number)
    with pytest.raises(StoreError, match="from 'g2' to 'g3' meanwhile; nothing was done"):
        store.rollback(1, "g1", expected="g2")
    assert store.rollback(1, expected="g3").identifier == "g2"


def test_show_names_the_current_generation_and_looks_a_key_up(store, limaml_store):
    write(store, "g1", 1)
    write(store, "g2", 2)
    result, _ = limaml_store("show", "--key", "a")
    assert result["identifier"] == "g2"
    assert result["key"] == {"key": "a", "found": True, "damaged": False, "embedding": [2.0, 2.0]}
    assert limaml_store("show", "--key", "nobody")[0]["key"]["found"] is False
    assert limaml_store("show", "--generation", "g1")[0]["state"] == "published"


def test_the_text_has_one_name_and_value_per_line(store, limaml_store):
    for number in (1, 2):
        write(store, f"g{number}", number)
    lines = limaml_store("show", "--key", "a")[1].splitlines()
    assert {"identifier: g2", "model_version: 1", "count: 2"} <= set(lines)
    found = ["key:", "  key: a", "  found: yes", "  damaged: no", "  embedding: 2.0, 2.0"]
    assert lines[-5:] == found
    assert limaml_store("show", "--key", "b2")[1].splitlines()[-1] == "  embedding: none"
    lines = limaml_store("rollback")[1].splitlines()
    assert (lines[0], lines[-1]) == ("current:", "condemned: g2")
    assert "  identifier: g1" in lines
    text = limaml_store("prune")[1]
    assert text.splitlines() == ["model_version: 1", "removed: none", "left: g1, g2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("condemn",), "needs --generation"),
        (("condemn", "--generation", "g2", "--model-version", "1"), "is current: roll back"),
        (("condemn", "--generation", "g9", "--model-version", "1"), "'g9'"),
        (("show", "--generation", "g9", "--model-version", "1"), "'g9'"),
        (("show", "--model-version", "7"), "is current"),
        (("show",), r"--model-version is missing: .*\[1, 5\]"),
        (("prune", "--model-version", "9"), r"version 9 to prune; the store holds .*\[1, 5\]"),
        (("list", "--key", "a"), "--key needs the action show, received list"),
        (
            ("prune", "--keep", "-1", "--model-version", "1"),
            "keep must not be negative, received -1",
        ),
        (
            ("prune", "--grace-seconds", "nan", "--model-version", "1"),
            "grace_seconds must not be negative, received nan",
        ),
    ],
)
def test_what_cannot_be_done_is_explained(store, limaml_store, arguments, message):
    write(store, "g1", 1)
    write(store, "g2", 2)
    write(store, "h1", 1, version=5)
    with pytest.raises(LimamlError, match=message):
        limaml_store(*arguments)


def test_a_key_is_looked_up_in_the_current_generation_only(store, limaml_store):
    write(store, "g1", 1)
    write(store, "g2", 2)
    assert limaml_store("show", "--key", "a")[0]["key"]["embedding"] == [2, 2]
    with pytest.raises(LimamlError, match="--key looks up the current generation; leave out"):
        limaml_store("show", "--key", "a", "--generation", "g1")


@pytest.mark.parametrize(
    ("keys", "said"), [("a", r"received the text 'a': pass \['a'\]"), ([7], "task keys are texts")]
)
def test_keys_that_are_no_list_of_texts_are_refused(store, keys, said):
    write(store, "g1", 1)
    with pytest.raises(StoreError, match=said):
        store.get_many(keys, 1)
