"""Run as a process with TF_CONFIG: makes the strategy and then sends itself SIGTERM.

start_of_a_worker.py SECONDS
"""

import os
import signal
import sys

from tfrec_limaml.training.distribution import make_strategy

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    make_strategy("multi-worker", float(sys.argv[1]))
    os.kill(os.getpid(), signal.SIGTERM)
