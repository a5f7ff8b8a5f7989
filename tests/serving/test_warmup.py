"""Warm-up requests: replayed before a version serves, and what happens where they fail."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tensorflow as tf
from serving_helpers import write_warmup
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from waiting import wait_for

from limaml_serving.export_hook import WARMUP_FILE


def test_warm_up_requests_are_replayed_before_a_version_serves(
    connected, add_version, rows, monkeypatch
):
    from limaml_serving.server import versions

    server, client = connected()
    replayed = []

    class Recording(versions.SavedModelRunner):
        def run(self, signature, inputs, *rest):
            replayed.append((signature.name, server.manager.statuses("m")[2][0]))
            return super().run(signature, inputs, *rest)

    write_warmup(
        add_version(2, like=2),
        [
            client.request(rows),
            client.request({"anything": np.ones(3, np.float32)}, signature="total"),
        ],
    )
    monkeypatch.setattr(versions, "SavedModelRunner", Recording)
    server.manager.refresh()
    assert replayed == [("serving_default", 20), ("total", 20)]
    assert client.logits() == [112.0, 2.0]


def test_a_version_whose_warm_up_fails_does_not_serve(connected, add_version, rows):
    server, client = connected()
    write_warmup(add_version(2), [client.request({**rows, "country": [1, 2]})])
    third = add_version(3)
    write_warmup(third, [client.request(rows)])
    (third / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"no TFRecord at all")
    server.manager.refresh()
    assert client.logits() == [111.0, 1.0]
    assert (
        "request 1 of assets.extra/tf_serving_warmup_requests fails: input country"
        in client.status()[2][1]
    )
    assert "cannot read record" in client.status()[3][1]


def test_more_warm_up_records_than_tensorflow_serving_takes_and_others_than_predict_are_refused(
    connected, add_version, rows, monkeypatch
):
    monkeypatch.setattr("limaml_serving.server.warmup.MAX_RECORDS", 2)
    server, client = connected()
    for number in (2, 3):
        write_warmup(add_version(number, like=2), [client.request(rows)] * number)
    write_warmup(fourth := add_version(4), [])
    with tf.io.TFRecordWriter(str(fourth / WARMUP_FILE)) as writer:
        log = PredictionLog()
        log.classify_log.request.model_spec.name = "m"
        writer.write(log.SerializeToString())
    server.manager.refresh()
    assert "holds more than 2 records; remove some" in client.status()[3][1]
    assert "may only hold predict_log records, found classify_log" in client.status()[4][1]
    assert client.status()[2] == (30, "")


def test_a_warm_up_record_that_would_fill_the_memory_keeps_its_version_from_serving(
    connected, add_version, rows
):
    server, client = connected()
    for number, size in ((2, 2**40), (3, 2**31)):
        huge = tf.make_tensor_proto(np.zeros((0, 1), np.float32))
        huge.tensor_shape.dim[0].size = size
        huge.float_val[:] = [1.0]
        write_warmup(add_version(number), [client.request({"anything": huge}, signature="total")])
    server.manager.refresh()
    assert client.logits() == [111.0, 1.0]
    for number in (2, 3):
        state, reason = client.status()[number]
        assert state == 50
        assert "bytes once decoded, more than" in reason
    add_version(4, like=2)
    server.manager.refresh()
    assert client.logits() == [112.0, 2.0]


def test_a_memory_error_while_warming_up_is_a_state_with_a_reason(
    connected, add_version, rows, monkeypatch
):
    server, client = connected()
    write_warmup(add_version(2), [client.request(rows)])
    monkeypatch.setattr(
        "limaml_serving.server.warmup.decode", lambda *given: (_ for _ in ()).throw(MemoryError())
    )
    server.manager.refresh()
    assert client.status()[2] == (50, "MemoryError: MemoryError")
    assert server.manager.is_watching()


@pytest.mark.parametrize("where", ["warm-up", "load"])
def test_a_server_that_stops_does_not_wait_for_a_version_that_is_being_loaded(
    connected, add_version, rows, monkeypatch, where
):
    from limaml_serving.server import manager, versions

    server, client = connected()
    loading, released = threading.Event(), threading.Event()

    class Slow(versions.SavedModelRunner):
        def __init__(self, directory):
            super().__init__(directory)
            if where == "load":
                loading.set()
                released.wait()

        def run(self, *arguments):
            loading.set()
            return super().run(*arguments)

    forever = client.request({"count": np.array([2**60])}, signature="spin")
    write_warmup(add_version(2), [forever, forever])
    monkeypatch.setattr(versions, "SavedModelRunner", Slow)
    monkeypatch.setattr(manager, "_STOP_SECONDS", 0.1 if where == "load" else 60.0)
    check = threading.Thread(target=server.manager.refresh, daemon=True)
    check.start()
    loading.wait()
    stop = threading.Thread(target=server.stop, args=(0.0,), daemon=True)
    stop.start()
    stop.join(60)
    assert not stop.is_alive()
    assert check.is_alive() == (where == "load")
    released.set()
    wait_for(lambda: not check.is_alive())
    state, error = server.manager.statuses("m")[2]
    assert state == versions.State.END
    assert "the server stops" in error or where == "warm-up"
