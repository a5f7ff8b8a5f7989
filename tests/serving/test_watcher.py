"""The version watcher goes on, whatever it finds; each fault is a state with a reason."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import tensorflow as tf
from serving_helpers import sample
from waiting import wait_for

from limaml_serving.server import VersionPolicy, manager, versions
from limaml_serving.server.errors import describe
from limaml_serving.server.runner import SavedModelRunner

AVAILABLE, END = 30, 50


def goes_on(server, client, add_version):
    """A later version is noticed by the thread that watches."""
    add_version(9, like=2)
    wait_for(lambda: client.status().get(9, (0, ""))[0] == AVAILABLE)
    return server.manager.is_watching() and client.logits() == [112.0, 2.0]


def test_a_version_deleted_while_another_one_loads(connected, add_version, base, monkeypatch):
    server, client = connected(poll_seconds=0.05)
    load = SavedModelRunner.__init__

    def slow(self, directory):
        if directory.name == "2":
            shutil.rmtree(base / "3")
        load(self, directory)

    monkeypatch.setattr(SavedModelRunner, "__init__", slow)
    # Both are found by one look, as a policy of two versions asks for.
    policy = """model_config_list { config { name: "m" base_path: "%s" model_type: TENSORFLOW
        model_version_policy { latest { num_versions: 2 } } } }"""
    client.reload(policy % base)
    add_version(3, like=2)
    add_version(2, like=2)
    wait_for(lambda: 3 in client.status() and client.status()[3][0] == END)
    assert "FileNotFoundError" in client.status()[3][1]
    assert goes_on(server, client, add_version)


def test_truncated_variables_of_a_tf1_model(connected, add_version, base):
    server, client = connected(poll_seconds=0.05)
    staged = base.parent / "tf1"
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None], "x")
        weights = tf.compat.v1.get_variable("weights", [1000])
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.saved_model.simple_save(
            session, str(staged), {"x": x}, {"y": x * tf.reduce_sum(weights)}
        )
    (data,) = staged.glob("variables/*.data*")
    data.write_bytes(data.read_bytes()[:100])
    staged.rename(base / "2")
    wait_for(lambda: client.status().get(2, (0, ""))[0] == END)
    assert "cannot load the SavedModel" in client.status()[2][1]
    assert goes_on(server, client, add_version)


def test_an_error_that_cannot_even_be_described(connected, add_version, monkeypatch):
    class Mute(Exception):
        def __str__(self):
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    load = SavedModelRunner.__init__

    def fail(self, directory):
        if directory.name == "2":
            raise Mute
        load(self, directory)

    server, client = connected(poll_seconds=0.05)
    monkeypatch.setattr(SavedModelRunner, "__init__", fail)
    add_version(2)
    wait_for(lambda: client.status().get(2, (0, ""))[0] == END)
    assert client.status()[2][1] == "Mute: Mute"
    assert describe(Mute()) == "Mute"
    assert goes_on(server, client, add_version)


def test_a_reload_with_a_nul_byte_in_its_path_is_refused_and_changes_nothing(
    connected, add_version, refusal
):
    server, client = connected(poll_seconds=0.05)
    text = 'model_config_list { config { name: "n" base_path: "/a\\000b" model_type: TENSORFLOW } }'
    code, message = refusal(client.reload, text)
    assert code == "INVALID_ARGUMENT"
    assert "NUL byte" in message
    assert goes_on(server, client, add_version)


def test_a_fault_of_one_model_is_counted_and_does_not_touch_the_others(
    serve, connect, add_version, base, tmp_path, monkeypatch, caplog
):
    shutil.copytree(base, tmp_path / "other")
    server = serve({"bad": tmp_path / "other", "m": base}, poll_seconds=0.05)
    client = connect(server.target, name="m")
    look = server.manager._versions_on_disk

    def broken(settings):
        if settings.name == "bad":
            raise OverflowError("no such thing was foreseen")
        return look(settings)

    monkeypatch.setattr(server.manager, "_versions_on_disk", broken)
    before = server.manager.last_check
    wait_for(lambda: sample(server, "check_errors_total") > 3)
    assert goes_on(server, client, add_version)
    assert len([r for r in caplog.records if "no such thing" in r.getMessage()]) == 1
    # The time of the last good look stands still, which a monitor sees.
    held = server.manager.last_check
    wait_for(lambda: sample(server, "check_errors_total") > 10)
    assert server.manager.last_check == held >= before
    assert sample(server, "last_check_timestamp_seconds") == held
    assert client.is_serving("limaml.VersionWatcher")
    server.manager.last_check -= 121.0
    assert not client.is_serving("limaml.VersionWatcher")


def test_health_tells_that_nobody_looks_any_more(connected, monkeypatch):
    server, client = connected()
    assert client.is_serving("limaml.VersionWatcher")
    monkeypatch.setattr(server.manager, "_progress", server.manager._progress - 36_001 * 1.0)
    assert not client.is_serving("limaml.VersionWatcher")
    assert client.is_serving()


def test_health_goes_on_while_several_large_versions_are_loaded(
    connected, add_version, base, monkeypatch
):
    server, _ = connected()
    clock, load, watching = [manager.time.monotonic()], versions.Version.load, []
    monkeypatch.setattr(manager.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(manager, "_STALE_SECONDS", 36_001.0)  # ten times that of a check

    def slow(self, base_path):
        clock[0] += 20_000.0
        watching.append(server.manager.is_watching())
        load(self, base_path)

    monkeypatch.setattr(versions.Version, "load", slow)
    for number in (2, 3, 4):
        add_version(number)
    settings = server.manager._settings["m"]
    every = dataclasses.replace(settings, policy=VersionPolicy(kind="all"))
    server.manager.reload({"m": every})
    assert watching == [True, True, True]


@pytest.mark.parametrize("name", ["load", "unchanged"])
def test_a_missing_directory_is_no_exception(tmp_path, name):
    version = versions.Version(model="m", number=1, directory=tmp_path / "gone")
    if name == "unchanged":
        assert not version.unchanged()
    else:
        version.load(tmp_path)
        assert version.state == END
        assert "gone" in version.error


def test_a_broken_version_and_a_missing_folder_are_counted(serve, connect, base, tmp_path):
    shutil.copytree(base, tmp_path / "models")
    server = serve({"m": tmp_path / "models"}, poll_seconds=0.05)
    assert sample(server, "check_errors_total") == 0
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"cut")
    (tmp_path / "broken").rename(tmp_path / "models" / "7")
    wait_for(lambda: sample(server, "check_errors_total") == 1)  # once, until its files change
    (tmp_path / "models").rename(tmp_path / "moved")
    wait_for(lambda: sample(server, "check_errors_total") > 4)


def test_a_fault_that_comes_back_after_it_was_gone_is_logged_again(connected, base, caplog):
    server, _ = connected()
    for times in (1, 2):
        base.rename(base.with_name("moved"))
        for _ in range(2):
            server.manager.refresh()
        assert sum("cannot read" in record.getMessage() for record in caplog.records) == times
        base.with_name("moved").rename(base)
        server.manager.refresh()
