"""``limaml train`` as one of two workers, or one process that reads what both read.

Usage: two_workers.py alone TASKS RUN, or two_workers.py mirrored TASKS RUN for two replicas in one
process beside a single one; or with TF_CONFIG in the environment two_workers.py WHEN TASKS RUN
[argument ...], where WHEN is ``never`` or ``batch:N`` (killed after N batches). A worker prints the
all-reduces of its graphs on standard error, with their time limits. Graphs run as they were traced.
"""

import json
import os
import signal
import sys
from pathlib import Path

import keras
import tensorflow as tf
from graphs import optimise
from tensorflow.python.ops import collective_ops

from tfrec_limaml.cli import main
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.tasks.record_files import Share
from tfrec_limaml.training import train as training
from tfrec_limaml.training.data import EpochNumber
from tfrec_limaml.training.lost_workers import RenewTimeLimit
from tfrec_limaml.training.optimizer import make_optimizer
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.recipes import build_model, load_encoder, split_pattern
from tfrec_limaml.training.stopping import early_stopping

OPTIONS = TrainOptions(epochs=3, batch_size=8, choose_strength=False).replace(
    meta_units=(4,), global_units=(8,), embedding_dim=3, dropout=0.0, inner_steps=1
)
#: Of the workers: gradient steps. Two replicas train with the closed form.
GRADIENT_STEPS = OPTIONS.replace(meta_block="mlp")
ARGUMENTS = (
    "--epochs 3 --batch-size 8 --no-strength --meta-units 4 --global-units 8 --embedding-dim 3 "
    "--dropout 0 --meta-block mlp --inner-steps 1 --projection-shrinkage 50 "
    "--distribute multi-worker"
)
#: Batches per epoch: 55 tasks, 28 of them in the first share, 4 per replica.
STEPS = 7


def joined(one, other):
    """One batch of the tasks of two."""

    def join(a, b):
        size = tf.maximum(tf.shape(a)[1], tf.shape(b)[1])
        padded = [
            tf.pad(v, [[0, 0], [0, size - tf.shape(v)[1]]] + [[0, 0]] * (v.shape.rank - 2))
            for v in (a, b)
        ]
        return tf.concat(padded, 0)

    return tf.nest.map_structure(join, one, other)


def alone(tasks, run, workers, options):
    """The whole batch in one process, in plain `fit`."""
    encoder, epoch = load_encoder(tasks), tf.Variable(0, dtype=tf.int64)
    pattern, validation = (
        split_pattern(tasks, None, split, encoder.schema) for split in ("train", "validation")
    )
    shares = [
        task_dataset(
            *(pattern, encoder, 4),
            support_fraction=options.support_fraction,
            shuffle=True,
            seed=options.seed,
            epoch=epoch,
            share=Share(worker, workers),
            batches=[STEPS * 2 // workers],
        )
        for worker in range(workers)
    ]
    if workers == 1:
        shares = [shares[0].shard(2, replica) for replica in range(2)]
    keras.utils.set_random_seed(options.seed)
    model = build_model("limaml", encoder, options.model)
    model.compile(make_optimizer(options, STEPS * options.epochs))
    batches = tf.data.Dataset.zip(*shares).map(joined)
    history = model.fit(
        # Keras does not run into the end of what has a known length. At an end that it runs into,
        # its optimizers count a step that is none.
        batches.apply(tf.data.experimental.assert_cardinality(STEPS)),
        validation_data=task_dataset(validation, encoder, 32),
        epochs=options.epochs,
        callbacks=[EpochNumber(epoch), *early_stopping(options)],
        verbose=0,
    )
    run.mkdir(exist_ok=True)
    (run / "limaml.training.json").write_text(json.dumps({"history": history.history}))
    model.save(run / "limaml.keras")


def mirrored(tasks, run):
    """Two replicas in this process, and the whole batch on one device."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    alone(tasks, run / "alone", 1, OPTIONS)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    trained = training.train(tasks, OPTIONS, strategy=strategy)
    (run / "limaml.training.json").write_text(json.dumps(trained.result))
    trained.model.save(run / "limaml.keras")


when, tasks, run, *rest = sys.argv[1:]
optimise(False)
if when in ("alone", "mirrored"):
    if when == "alone":
        alone(tasks, Path(run), 2, GRADIENT_STEPS)
    else:
        mirrored(tasks, Path(run))
    sys.exit()
all_reduce = collective_ops.all_reduce_v2


def printed(*args, timeout, **kwargs):
    """The all-reduce, which says that it is one."""
    if not tf.executing_eagerly():
        sys.stderr.write(f"all-reduce with the time limit {timeout}\n")
    return all_reduce(*args, timeout=timeout, **kwargs)


collective_ops.all_reduce_v2 = printed
kind, _, count = when.partition(":")
if kind == "batch":
    batches = 0
    renew = RenewTimeLimit.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        """Counts and ends."""
        global batches
        batches += 1
        if batches == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        renew(self, batch, logs)

    RenewTimeLimit.on_train_batch_end = on_train_batch_end
sys.exit(main(["train", tasks, "--output", run, *ARGUMENTS.split(), *rest]))
