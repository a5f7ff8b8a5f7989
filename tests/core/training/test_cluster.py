"""What TF_CONFIG must say, and a start for which other workers do not come."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import pytest
from ports import free_ports

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.training.cluster import check_cluster
from tfrec_limaml.training.lost_workers import TimeLimit

SCRIPT = Path(__file__).with_name("start_of_a_worker.py")


def config(workers, index=0, kind="worker", **more):
    return json.dumps(
        {"cluster": {"worker": workers, **more}, "task": {"type": kind, "index": index}}
    )


@pytest.mark.parametrize(
    "text",
    [
        config(["a:1"]),
        config(["a:1", "b:1"], 1),
        config(["a:1"], kind="chief", chief=["b:2"]),
        config(["[::1]:1"]),
        config(["a:1", "b:1"], "1"),
        config([], kind="chief", chief=["b:2"]),
    ],
)
def test_a_cluster_of_chief_and_workers_is_right(text):
    check_cluster(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "needs TF_CONFIG in the environment.*received None"),
        ("{", "needs TF_CONFIG.*received '{'"),
        ("[]", "needs TF_CONFIG"),
        (config(["a:1"], ps=["b:1"]), r"may name chief and worker, received \['ps', 'worker'\]"),
        (config(["a:1"], kind="chief"), r"task type 'chief' is none of \['worker'\]"),
        (config(["a:1"], kind=["worker"]), r"task type \['worker'\] is none of"),
        (config([]), r"task type 'worker' is none of"),
        ('{"cluster": ["worker"], "task": {"type": "worker", "index": 0}}', "addresses by kind"),
        (config(["a:1", "b:1"], 2), "the index of a worker is 0 to 1, received 2"),
        (config(["a:1"], -1), "is 0 to 0, received -1"),
        (config(["a:1", "b:1"], 0.7), "received 0.7"),
        (config(["a:1", "b:1"], 1.0), "received 1.0"),
        (config(["a:1", "b:1"], True), "received True"),
        (config(["a:1", "b:1"], "one"), "received 'one'"),
        (config("a:1"), "worker must be a list of addresses, received 'a:1'"),
        (config(["a"]), "must be HOST:PORT, received 'a'"),
        (config([":1"]), "must be HOST:PORT, received ':1'"),
        (config(["a:http"]), "received 'a:http'"),
        (config(["a:70000"]), "received 'a:70000'"),
        (config([7]), "received 7"),
        (config(["a:1", "a:1"]), "the address 'a:1' is there twice"),
    ],
)
def test_another_one_is_refused_with_what_is_wrong(text, said):
    with pytest.raises(LimamlError, match=said):
        check_cluster(text)


@pytest.mark.slow
def test_a_worker_whose_peers_do_not_come_ends_with_a_message_when_the_time_is_over(forks):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    done = forks().start(SCRIPT, 2, TF_CONFIG=config(addresses)).wait(120)
    assert done.returncode == -signal.SIGKILL
    assert "not all workers have started within 2 s (--worker-timeout)" in done.stderr


@pytest.mark.slow
def test_after_the_start_sigterm_has_the_handler_of_before(forks):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(1)]
    done = forks().start(SCRIPT, 100, TF_CONFIG=config(addresses)).wait(120)
    assert done.returncode == 7, done.stderr


def test_a_paused_time_limit_ends_nothing_until_it_goes_on():
    ended = threading.Event()
    with TimeLimit(0.2, "the others", lambda message: ended.set()) as limit:
        with limit.paused():
            assert not ended.wait(1.0)
        assert ended.wait(30)
