"""This toolkit's trainer as a worker of the reference benchmark, ``run.py --worker``.

PYTHONPATH must contain the folder of that benchmark.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from functools import partial

import bench
import problem as P
import reference_work
import tensorflow as tf


def training_case(name):
    step = reference_work.training_step(name, P.init_params(), *P.w1_data())

    def rep():
        step().numpy()

    return rep


def embedding_case():
    run = reference_work.embedder(P.init_params(), P.W2_K)
    batches = [reference_work.samples(b) for b in P.w2_batches()]
    position = [0]

    def rep():
        run(batches[position[0] % len(batches)])[0].numpy()
        position[0] += 1

    return rep


if __name__ == "__main__":
    names = {
        "vanilla": "vanilla",
        "n1": "limaml_n1",
        "n5": "limaml_n5",
        "fo1": "limaml_n1_first_order",
        "n5cheap": "limaml_n5_cheap",
    }
    cases = {case: partial(training_case, name) for case, name in names.items()}
    bench.serve({"tfrec_limaml": {**cases, "w2": embedding_case}}, {"tensorflow": tf.__version__})
