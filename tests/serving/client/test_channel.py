"""A channel to several servers."""

import os
import signal
import subprocess
import sys
from concurrent import futures

import grpc
import pytest
from waiting import wait_for

from limaml_serving.client import channel

SERVER = """
import grpc
from concurrent import futures

method = grpc.unary_unary_rpc_method_handler(lambda request, context: b"answer")
service = grpc.method_handlers_generic_handler("S", {"M": method})
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((service,))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
"""


@pytest.fixture
def servers():
    """Two processes, and the target of both."""
    run = [sys.executable, "-c", SERVER]
    processes = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    addresses = [f"127.0.0.1:{int(process.stdout.readline())}" for process in processes]
    yield processes, f"ipv4:{','.join(addresses)}"
    for process in processes:
        process.kill()
        process.wait()


def test_of_two_servers_one_that_is_frozen_gets_no_calls_after_a_while(servers, monkeypatch):
    monkeypatch.setitem(channel._OUTLIER_DETECTION, "interval", "0.5s")
    processes, target = servers
    with grpc.insecure_channel(target, channel.channel_options(0, None)) as made:
        call = made.unary_unary("/S/M")

        def answers():
            calls = [call.future(b"", timeout=0.5) for _ in range(20)]
            return [each.exception() is None for each in calls]

        wait_for(lambda: all(answers()))
        os.kill(processes[0].pid, signal.SIGSTOP)
        assert not all(answers())
        wait_for(lambda: all(answers()))


def test_an_answer_may_be_larger_than_the_usual_limit_of_a_channel():
    answer = b"x" * (5 << 20)
    method = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    service = grpc.method_handlers_generic_handler("S", {"M": method})
    server.add_generic_rpc_handlers((service,))
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with grpc.insecure_channel(target, channel.channel_options(0, None)) as made:
        assert made.unary_unary("/S/M")(b"", timeout=60) == answer
    server.stop(None).wait()
