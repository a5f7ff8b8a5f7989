"""Training on several devices or machines, with TensorFlow's strategies.

Each worker reads its share of the records. The inner loop is local to a task; gradients of the
outer loop are summed over all replicas in each step.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfrec_limaml.errors import LimamlError, VersionMismatchError
from tfrec_limaml.models import TaskModel
from tfrec_limaml.tasks.record_files import EVERYTHING, Share
from tfrec_limaml.tensorflow_internals import device_datasets_without_tuner
from tfrec_limaml.training.allocator import keep_freed_memory
from tfrec_limaml.training.cluster import check_cluster, limited_start
from tfrec_limaml.training.device_prefetch import prefetch_to_gpu
from tfrec_limaml.training.lost_workers import worker_lost_error

#: Bytes of a worker's message to the others.
_MESSAGE_BYTES = 16_384


class Workers(NamedTuple):
    """The processes of a strategy.

    Attributes:
        strategy: None for one process on one device.
        share: The share of the records that this process reads.
        replicas: Replicas in this process.
    """

    strategy: tf.distribute.Strategy | None = None
    share: Share = EVERYTHING
    replicas: int = 1

    @classmethod
    def of(cls, strategy: tf.distribute.Strategy | None) -> Workers:
        """The workers of a `MirroredStrategy` or a `MultiWorkerMirroredStrategy`.

        Raises:
            LimamlError: Another kind of strategy, or a call within a strategy's scope without
                passing the strategy.
        """
        if strategy is None:
            if tf.distribute.has_strategy():
                raise LimamlError(
                    "training inside strategy.scope() does not share the records; leave the scope "
                    "and pass strategy="
                )
            return cls()
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver = strategy.cluster_resolver
            jobs = resolver.cluster_spec().as_dict()
            chiefs = len(jobs.get("chief", ()))
            number = resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)
            workers = max(1, chiefs + len(jobs.get("worker", ())))
            share = Share(number, workers)
            return cls(strategy, share, strategy.num_replicas_in_sync // workers)
        if isinstance(strategy, tf.distribute.MirroredStrategy):
            return cls(strategy, EVERYTHING, strategy.num_replicas_in_sync)
        raise LimamlError(
            "strategy must be a MirroredStrategy or a MultiWorkerMirroredStrategy, received "
            f"{type(strategy).__name__}"
        )

    @property
    def all_replicas(self) -> int:
        """Replicas in all processes."""
        return self.replicas * self.share.workers

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files."""
        return self.share.worker == 0

    @property
    def call_each_batch(self) -> bool:
        """Whether callbacks run after each batch.

        They do under a strategy: Keras cannot loop over batches in the graph there.
        """
        return self.strategy is not None

    def per_replica(self, batch_size: int) -> int:
        """Tasks per replica in a batch of `batch_size` tasks, rounded up."""
        return math.ceil(batch_size / self.all_replicas)

    def steps(self, counts: Sequence[int], per_replica: int) -> int:
        """Steps per epoch: those of the worker with the most tasks.

        Args:
            counts: Tasks of each worker.
            per_replica: Tasks per replica and batch.
        """
        return max(math.ceil(math.ceil(n / per_replica) / self.replicas) for n in counts)

    def distribute(self, dataset: tf.data.Dataset) -> Any:
        """The dataset for `fit`, from this worker's batches for single replicas.

        All workers must have the same number of batches. Without a strategy, batches are copied to
        the GPU ahead of their step, if there is a GPU. Under a strategy, TensorFlow does that, and
        `keep_freed_memory` is called.
        """
        if self.strategy is None:
            return prefetch_to_gpu(dataset)
        device_datasets_without_tuner()
        keep_freed_memory()
        if isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy):
            # Otherwise workers check before each batch whether any of them has a batch left.
            self.strategy.extended.experimental_enable_get_next_as_optional = False
        return self.strategy.distribute_datasets_from_function(lambda _: dataset)

    def scope(self) -> Any:
        """A context in which models are built and compiled."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def require_same_run(self, identity: Mapping[str, Any], **further: Any) -> list[dict[str, Any]]:
        """The messages of all workers, if their identities are equal; waits for all of them.

        Args:
            identity: Values that must be equal, by name; JSON types.
            **further: Values that may differ; JSON types.

        Raises:
            VersionMismatchError: A worker differs. All workers raise the error, so that none waits
                for another.
        """
        messages = self.exchange({"identity": identity, **further})
        check_equal([worker["identity"] for worker in messages])
        return messages

    def exchange(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The messages of all workers, JSON types, in the order of the workers.

        Raises:
            LimamlError: The message is too long, or another worker is gone.
        """
        own_message = {**message, "worker": self.share.worker}
        strategy = self.strategy
        if strategy is None or self.share.workers == 1:
            return [own_message]
        text = json.dumps(own_message).encode()
        if len(text) > _MESSAGE_BYTES:
            raise LimamlError(f"{len(text)} bytes are too many for an exchange between workers")
        row = tf.constant([list(text.ljust(_MESSAGE_BYTES))], tf.int32)
        values = strategy.experimental_distribute_values_from_function(lambda _: row)
        try:
            rows = strategy.gather(values, axis=0)
        except tf.errors.OpError as error:
            raise worker_lost_error(error) from error
        messages = [json.loads(bytes(r.astype("uint8").tolist())) for r in rows.numpy()]
        return [next(h for h in messages if h["worker"] == n) for n in range(self.share.workers)]


def make_strategy(kind: str, timeout: float) -> tf.distribute.Strategy:
    """The strategy of that name; must be called before any other use of TensorFlow.

    Args:
        kind: ``"mirrored"``: all devices of this machine, or ``"multi-worker"``: all machines that
            the environment variable ``TF_CONFIG`` names.
        timeout: Seconds after which the process ends if not all workers have started.

    Raises:
        LimamlError: ``TF_CONFIG`` does not describe a cluster.
    """
    if kind == "mirrored":
        return tf.distribute.MirroredStrategy()
    check_cluster(os.environ.get("TF_CONFIG"))
    # TensorFlow's own time limit is not used: each collective would start a thread that sleeps
    # until the limit is over, even after the collective has ended.
    with limited_start(timeout):
        return tf.distribute.MultiWorkerMirroredStrategy()


def check_equal(identities: Sequence[Mapping[str, Any]]) -> None:
    """Compares the workers' identities with that of the first one.

    Raises:
        VersionMismatchError: Names the worker and the difference.
    """
    first = identities[0]
    for number, other in enumerate(identities[1:], 1):
        for name in {**first, **other}:
            if first.get(name) != other.get(name):
                raise VersionMismatchError(
                    f"worker {number} has {name} {other.get(name)!r}, worker 0 has "
                    f"{first.get(name)!r}; start all workers with the same package, data and "
                    "options"
                )


def local_copy(model: TaskModel) -> TaskModel:
    """The same model without a strategy: for evaluation and export by each worker."""
    copy: TaskModel = type(model).from_config(model.get_config())
    copy.compile_from_config(model.get_compile_config())
    for target, source in (
        *zip(copy.weights, model.weights, strict=True),
        *zip(copy.optimizer.variables, model.optimizer.variables, strict=True),
    ):
        target.assign(source.numpy())
    return copy
