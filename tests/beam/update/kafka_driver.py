"""``limaml stream`` that kills itself, as kill -9 does, at a named point."""

import os
import signal
import sys

from limaml_beam.update import kafka_topic
from limaml_beam.update.job import UpdateState
from tfrec_limaml.cli import main
from tfrec_limaml.store.lmdb_store import LmdbStore

POINTS = {
    "before the store": (LmdbStore, "upsert"),
    "before the state": (UpdateState, "put"),
    "before the commit": (kafka_topic.Topic, "commit"),
}


def kill(*arguments: object, **named: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1] in POINTS:
        setattr(*POINTS[sys.argv[1]], kill)
    sys.exit(main(sys.argv[2:]))
