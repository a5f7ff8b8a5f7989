"""``limaml train`` in a process that may be killed on the way.

Usage: interrupted_training.py WHEN TASKS RUN [argument ...]. WHEN is ``never``, ``batch:N``
(killed after N calls of the training function) or ``write:N`` (killed in the middle of the N-th
checkpoint). Graphs run as they were traced.
"""

import os
import signal
import sys

import numpy as np
from graphs import optimise

from tfrec_limaml.cli import main
from tfrec_limaml.training.checkpoints import Checkpoints


def killed_after(count, function, before=lambda *args: None):
    """The function, which ends the process in its `count`-th call."""
    calls = 0

    def call(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == count:
            before(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return call


def half_a_file(path, *_):
    with open(path, "wb") as file:
        file.write(b"PK\x03\x04 the first half")


when, count = (*sys.argv[1].split(":"), 0)[:2]
if when == "batch":
    Checkpoints.on_train_batch_end = killed_after(int(count), Checkpoints.on_train_batch_end)
elif when == "write":
    np.savez = killed_after(int(count), np.savez, half_a_file)
tasks, run, *rest = sys.argv[2:]
options = "--recipe default --epochs 3 --batch-size 2 --embedding-dim 3 --global-units 8"
options += " --meta-units 4 --no-strength --projection-shrinkage 50 --inner-steps 1"
optimise(False)
sys.exit(main(["train", tasks, "--output", run, *options.split(), *rest]))
