"""Runs ``limaml`` in forked processes that stop at a named place, to be killed there.

Reads one JSON list per line, ``[place, *arguments]``; answers with the number of the process once
it has reached the place, and with its exit status once it has ended. Everything is imported once,
before the first fork.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path

import limaml_beam.refresh.job  # noqa: F401
from tfrec_limaml.cli import main
from tfrec_limaml.tensorflow_setup import import_tensorflow

sys.path.append(str(Path(__file__).parents[2] / "support"))
import quick_beam

import_tensorflow(keras=False)  # imported before the forks, not used before them
quick_beam.use()

#: Where a refresh may be hit: what is called there, and whether it is hit before or after the call.
PLACES = {
    "while preparing": ("limaml_beam.io.staged_output:publish", "before"),
    "after preparing": ("limaml_beam.refresh.job:_generate", "before"),
    "while writing embeddings": ("limaml_beam.generate_embeddings.job:make_report", "before"),
    "before the checks": ("limaml_beam.refresh.checks:check_run", "before"),
    "while loading the store": ("tfrec_limaml.store.lmdb_store:LmdbWriter.put", "after"),
    "just before the pointer moves": ("tfrec_limaml.store.lmdb_store:LmdbStore.publish", "before"),
    "just after the pointer moved": ("tfrec_limaml.store.lmdb_store:LmdbStore.publish", "after"),
}


def stop_at(place: str, pipe: int) -> None:
    """Makes this process report and sleep where `place` says."""
    target, when = PLACES[place]
    module, _, path = target.partition(":")
    owner = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original = getattr(owner, name)

    def stop_here(*args: object, **kwargs: object) -> None:
        if when == "after":
            original(*args, **kwargs)
        os.write(pipe, b"reached")
        time.sleep(600)

    setattr(owner, name, stop_here)


for line in sys.stdin:
    place, *arguments = json.loads(line)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.dup2(2, 1)
        stop_at(place, writer)
        os._exit(main(arguments))
    os.close(writer)
    reached = os.read(reader, 7)
    if reached:
        print(json.dumps({"reached": child}), flush=True)
    print(json.dumps({"ended": os.waitpid(child, 0)[1]}), flush=True)
