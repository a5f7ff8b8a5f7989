"""The adapter of a model of two sides.

A task's offset depends on the offsets of the other side's tasks, which the caller looks up:
`manifest.OTHER_KEYS_SIGNATURE` returns their keys, `manifest.GIVEN_SIGNATURE` takes the offsets.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrec_limaml import manifest as names
from tfrec_limaml.export.adapter import stored_outputs, support_rows
from tfrec_limaml.export.signatures import Exported, trace_functions
from tfrec_limaml.features import OTHER_OFFSET, SIDE
from tfrec_limaml.models import JointLiMAML
from tfrec_limaml.schema.task_keys import joint_key_prefix
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.parsing import encode_rows, parse_tasks


def joint_adapter_module(model: JointLiMAML) -> Exported:
    """The adapter and its signatures; see `tfrec_limaml.manifest`."""
    dim = model.meta_block.stored_dim
    records = {names.ADAPTER_INPUT: tf.TensorSpec([None], tf.string)}
    offset_specs = {
        names.OTHER_ROW: tf.TensorSpec([None], tf.int32),
        names.OTHER_OFFSETS: tf.TensorSpec([None, dim], tf.float32),
    }
    signatures: dict[str, Any] = {names.SERVING_SIGNATURE: (_Side(model, 0).adapt, records)}
    for number in (0, 1):
        side = _Side(model, number)
        signatures[f"{names.OTHER_KEYS_SIGNATURE}_{number}"] = (side.other_keys, records)
        signatures[f"{names.GIVEN_SIGNATURE}_{number}"] = (side.adapt, {**records, **offset_specs})
    return trace_functions(model, signatures)


class _Side:
    """The functions of one side's signatures."""

    def __init__(self, model: JointLiMAML, number: int) -> None:
        self._model = model
        self._number = number
        prefix = joint_key_prefix(model.meta_block.definitions[1])
        self._own_prefix, self._other_prefix = ("", prefix) if number == 0 else (prefix, "")
        self._other = model.meta_block.definitions[1 - number]

    def other_keys(self, task_records: tf.Tensor) -> dict[str, tf.Tensor]:
        """The key of each row's other task."""
        tasks = parse_tasks(task_records, self._model.encoder.schema, (self._other,))
        keys = tasks.columns[record_format.key_list(self._other)]
        return {names.OTHER_KEY: tf.strings.join([self._other_prefix, keys])}

    def adapt(
        self,
        task_records: tf.Tensor,
        other_row: tf.Tensor | None = None,
        other_offsets: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """The tasks' offsets given those of the other side.

        Without `other_offsets`, all other tasks are unknown.
        """
        tasks = parse_tasks(task_records, self._model.encoder.schema)
        features = dict(encode_rows(tasks, self._model.encoder))
        rows = tasks.splits[-1]
        if other_offsets is None:
            offsets = tf.zeros([rows, self._model.meta_block.stored_dim])
        else:
            offsets = tf.gather(other_offsets, other_row)
        features |= {SIDE: tf.fill(rows[None], self._number), OTHER_OFFSET: offsets}
        _, support = support_rows(tasks, features)
        outputs = stored_outputs(tasks, self._model.task_embeddings(support))
        task_key = tf.strings.join([self._own_prefix, outputs[names.TASK_KEY]])
        return {**outputs, names.TASK_KEY: task_key}
