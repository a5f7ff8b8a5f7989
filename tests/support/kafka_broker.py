"""A Kafka broker of one node for tests, with messages for it."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from java_options import QUICK_START
from ports import free_ports, wait_for_server

#: Limit of every wait: on a busy machine a broker is slow.
_PATIENCE_SECONDS = 300
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}/log
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=4000
"""
#: The output of `kafka-storage format`, written here to save the start of a Java process.
_FORMATTED = """\
version=1
cluster.id=MkU3OEVBNTcwNTJENDM2Qg
node.id=1
directory.id=AAAAAAAAAAAAAAAAAAAAag
"""


def find_broker(checkout: Path) -> Path:
    """The broker's jar; skips the test with the way to get it if there is none."""
    if shutil.which("java") is None:
        pytest.skip("Java is not installed (apt-get install openjdk-17-jre-headless)")
    pytest.importorskip("confluent_kafka", reason="needs pip install '.[stream]'")
    given = os.environ.get("LIMAML_KAFKA")
    jar = Path(given or checkout / "build" / "kafka" / "job-server.jar")
    if not jar.is_file():
        pytest.skip(f"no Kafka broker at {jar}: make kafka, or set LIMAML_KAFKA")
    return jar


class Broker:
    """A broker that can be started and stopped; its messages survive a restart."""

    def __init__(self, jar: Path, folder: Path) -> None:
        self._jar, self._folder = jar, folder
        self._port, controller = free_ports(2)
        self.address = f"127.0.0.1:{self._port}"
        text = _PROPERTIES.format(port=self._port, controller=controller, folder=folder)
        (folder / "server.properties").write_text(text)
        (folder / "log").mkdir()
        (folder / "log" / "meta.properties").write_text(_FORMATTED)

    def start(self) -> None:
        """Starts the broker, and waits until its port is open."""
        java = ["java", "-Xmx256m", *QUICK_START, "-cp", str(self._jar), "kafka.Kafka"]
        with open(self._folder / "broker.log", "ab") as log:
            self._process = subprocess.Popen(
                [*java, str(self._folder / "server.properties")],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for_server(self._port, self._process, self._folder / "broker.log")

    def pause(self) -> None:
        """Stops the process by SIGSTOP: the broker no longer answers, but keeps its connections."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continues a paused broker."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kills the broker with SIGKILL."""
        self._process.kill()
        self._process.wait(_PATIENCE_SECONDS)

    def make_topic(self, name: str, partitions: int = 2) -> str:
        """Creates a topic; returns its name."""
        from confluent_kafka.admin import AdminClient, NewTopic

        client = AdminClient({"bootstrap.servers": self.address})
        topics = [NewTopic(name, partitions, 1)]
        (made,) = client.create_topics(topics, request_timeout=_PATIENCE_SECONDS).values()
        made.result(_PATIENCE_SECONDS)
        return name

    def send(self, topic: str, *values: object) -> None:
        """Sends messages without keys to the two partitions in turn; dictionaries as JSON."""
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.address, "linger.ms": 0})
        for number, value in enumerate(values):
            content = json.dumps(value) if isinstance(value, dict) else value
            producer.produce(topic, content, partition=number % 2)
        assert producer.flush(_PATIENCE_SECONDS) == 0

    def committed(self, topic: str, group: str) -> int:
        """Number of messages of a topic that a group has committed."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.address, "group.id": group})
        try:
            partitions = [TopicPartition(topic, n) for n in range(2)]
            places = consumer.committed(partitions, timeout=_PATIENCE_SECONDS)
        finally:
            consumer.close()
        return sum(max(place.offset, 0) for place in places)

    def members(self, group: str) -> int:
        """Number of consumers in a group."""
        from confluent_kafka.admin import AdminClient

        client = AdminClient({"bootstrap.servers": self.address})
        (asked,) = client.describe_consumer_groups([group]).values()
        return len(asked.result(_PATIENCE_SECONDS).members)
