"""A toy model of users and videos with simple embeddings, and a simulation of its updates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from toys import toy_schema
from update_world import DAY, START, World

from tfrec_limaml.manifest import Manifest
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.schema.task_keys import joint_key_prefix
from tfrec_limaml.tasks.record_format import key_list

VERSION, DIM, SWEEPS, SHARE = 7, 3, 2, 0.1
DEFINITIONS = ("user", "video")
VIDEO = joint_key_prefix("video")
SCHEMA = toy_schema(
    Feature(name="x", role="meta"), tasks={"user": ("user_id",), "video": ("video_id",)}
)

#: User, video, x, days after the start.
Row = tuple[str, str, float, float]
#: The rows of the first refresh.
ROWS: list[Row] = [(f"u{n % 6}", f"v{n % 4}", n / 8, n / 100) for n in range(20)]


class TwoSidedWorld(World):
    """A `World` of users and videos."""

    version = VERSION
    sum_at, count_at = 0, 1
    types = pa.schema(
        {
            "user_id": pa.string(),
            "video_id": pa.string(),
            "x": pa.float32(),
            "click": pa.int64(),
            "time": pa.int64(),
        }
    )

    @staticmethod
    def row(user, video, x, day):
        """An interaction: user, video, x, days after the start."""
        time = START + round(day * DAY)
        return {"user_id": user, "video_id": video, "x": x, "click": 1, "time": time}


def export_toy(folder: Path) -> Path:
    """Writes the adapter and its manifest.

    Embedding = [sum of x, number of rows, sum over rows of 1 + a tenth of the other task's third
    number].
    """
    import tensorflow as tf

    def parsed(records: tf.Tensor, other: str) -> Any:
        return tf.io.parse_sequence_example(
            records,
            context_features={
                "task_key": tf.io.FixedLenFeature([], tf.string),
                "sample_count": tf.io.FixedLenFeature([], tf.int64),
            },
            sequence_features={
                "x": tf.io.RaggedFeature(tf.float32),
                "timestamp": tf.io.RaggedFeature(tf.int64),
                key_list(other): tf.io.RaggedFeature(tf.string),
            },
        )

    module = tf.Module()
    signatures: dict[str, Any] = {}
    records = tf.TensorSpec([None], tf.string, name="task_records")
    row = tf.TensorSpec([None], tf.int32, name="other_row")
    offsets = tf.TensorSpec([None, DIM], tf.float32, name="other_offsets")
    for side, other in enumerate(DEFINITIONS[::-1]):
        own, others = ("", VIDEO)[side], ("", VIDEO)[1 - side]

        def adapt(
            task_records: tf.Tensor,
            other_row: tf.Tensor,
            other_offsets: tf.Tensor,
            own: str = own,
            other: str = other,
        ) -> dict[str, tf.Tensor]:
            context, lists, _ = parsed(task_records, other)
            x, times = lists["x"].merge_dims(1, 2), lists["timestamp"].merge_dims(1, 2)
            third = x.with_flat_values(1.0 + SHARE * tf.gather(other_offsets, other_row)[:, 2])
            count = context["sample_count"]
            sums = tf.reduce_sum(x, 1), tf.cast(count, tf.float32), tf.reduce_sum(third, 1)
            one = tf.ones_like(sums[1])[:, None]
            return {
                "task_key": tf.strings.join([own, context["task_key"]])[:, None],
                "meta_embedding": tf.stack(sums, axis=1),
                "sample_count": count[:, None],
                "last_timestamp": tf.reduce_max(times, axis=1)[:, None],
                "loss_before": one,
                "loss_after": one / 2,
            }

        def other_keys(
            task_records: tf.Tensor, others: str = others, other: str = other
        ) -> dict[str, tf.Tensor]:
            keys = parsed(task_records, other)[1][key_list(other)]
            return {"other_key": tf.strings.join([others, keys.flat_values])}

        given = tf.function(adapt, input_signature=[records, row, offsets], autograph=False)
        signatures[f"given_{side}"] = given
        signatures[f"other_keys_{side}"] = tf.function(
            other_keys, input_signature=[records], autograph=False
        )
        setattr(module, f"given_{side}", given)

    @tf.function(input_signature=[records], autograph=False)
    def alone(task_records: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.size(parsed(task_records, "video")[1]["x"].flat_values)
        return module.given_0(task_records, tf.zeros([rows], tf.int32), tf.zeros([1, DIM]))

    target = folder / "adapter" / str(VERSION)
    tf.saved_model.save(module, str(target), signatures={"serving_default": alone, **signatures})
    Manifest(
        model_version=VERSION,
        schema=SCHEMA.to_dict(),
        schema_fingerprint=SCHEMA.fingerprint(),
        task_definition="user",
        joint_definitions=("video",),
        embedding_dim=DIM,
        inner_loop={"sweeps": SWEEPS},
    ).write(target)
    return folder


class Simulation:
    """The expected embeddings of all tasks, by key as in a store."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows: list[Row] = []
        self._turns: list[dict[str, float]] = [{} for _ in range(2 * SWEEPS)]
        self.see(rows)

    def see(self, rows: Sequence[Row]) -> list[str]:
        """Adds rows and adapts the tasks that they belong to; returns the keys of these tasks."""
        self.rows += rows
        touched = sorted({key for user, video, _, _ in rows for key in (user, VIDEO + video)})
        self.adapt(touched)
        return touched

    def adapt(self, keys: Iterable[str]) -> None:
        """Adapts some tasks, given the results of all others in each turn."""
        self.mine: dict[str, list[tuple[str, float]]] = {}
        for user, video, x, _ in self.rows:
            self.mine.setdefault(user, []).append((VIDEO + video, x))
            self.mine.setdefault(VIDEO + video, []).append((user, x))
        before: dict[str, float] = {}
        for turn, known in enumerate(self._turns):
            for key in keys:
                if key.startswith(VIDEO) == (turn % 2 == 0):
                    known[key] = sum(1 + SHARE * before.get(o, 0.0) for o, _ in self.mine[key])
            before = known

    def embeddings(self, *keys: str) -> dict[str, tuple[float, float, float]]:
        """Embeddings of some tasks, or of all."""
        last = self._turns[-2] | self._turns[-1]
        wanted = keys or tuple(self.mine)
        return {k: (sum(x for _, x in self.mine[k]), len(self.mine[k]), last[k]) for k in wanted}

    def forget(self, key: str) -> None:
        """Removes a task with its rows; the results of all others stay."""
        place = int(key.startswith(VIDEO))
        self.rows = [row for row in self.rows if row[place] != key.removeprefix(VIDEO)]
        for known in self._turns:
            known.pop(key, None)
