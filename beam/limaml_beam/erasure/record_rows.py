"""Task key and rows of serialized task records, without TensorFlow.

Each row of a record of two definitions names a task of the other definition, in a feature list
called ``task_key:<definition>`` (see `tfrec_limaml.tasks.record_format`).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress

import numpy as np
from google.protobuf.message import DecodeError

from tfrec_limaml.tasks.record_format import QUERY_START, SAMPLE_COUNT, TASK_KEY, key_list
from tfrec_limaml.wire_messages import message_classes

# Prefix of the names of the lists with other definitions' keys.
_KEY_LIST = key_list("")

# tensorflow/core/example/{example,feature}.proto; the cells of a list are copied as they are
_classes = message_classes(
    "limaml.records",
    {
        "Record": {"context": (1, "Features")},
        "Features": {"feature": (1, "map:Feature")},
        "Feature": {"bytes_list": (1, "Texts"), "int64_list": (3, "Numbers")},
        "Texts": {"value": (1, "*bytes")},
        "Numbers": {"value": (1, "*int64")},
        "Sequence": {"context": (1, "Features"), "feature_lists": (2, "Lists")},
        "Lists": {"feature_list": (1, "map:List")},
        "List": {"feature": (1, "*bytes")},
    },
)


def task_key_of(record: bytes) -> bytes | None:
    """The task key of a serialized record; None if there is none."""
    try:
        features = _classes["Record"].FromString(record).context.feature
    except DecodeError:
        return None
    return next(iter(features[TASK_KEY].bytes_list.value), None)


def names_others(record: bytes) -> bool:
    """Whether the rows of a record name tasks of another definition."""
    return _KEY_LIST.encode() in record


def without_rows(record: bytes, is_erased: Callable[[str, bytes], bool]) -> bytes | None:
    """A record without the rows that name certain tasks.

    Args:
        record: A serialized record.
        is_erased: Whether a task is to be erased, by definition and task key.

    Returns:
        The same bytes if no row names one; None if no row stays, or no query row of a record with
        query rows.

    Raises:
        google.protobuf.message.DecodeError: The bytes are no record.
    """
    message = _classes["Sequence"].FromString(record)
    lists = message.feature_lists.feature_list
    rows = max((len(cells.feature) for cells in lists.values()), default=0)
    keep_mask = np.ones(rows, np.bool_)
    for name, cells in lists.items():
        if name.startswith(_KEY_LIST):
            definition = name.removeprefix(_KEY_LIST)
            keep_mask &= [not is_erased(definition, _text(cell)) for cell in cells.feature]
    if keep_mask.all():
        return record
    context = message.context.feature
    start = next(iter(context[QUERY_START].int64_list.value), -1)
    if not keep_mask.any() or (start >= 0 and not keep_mask[start:].any()):
        return None
    context[SAMPLE_COUNT].int64_list.value[:] = [int(keep_mask.sum())]
    if start >= 0:
        context[QUERY_START].int64_list.value[:] = [int(keep_mask[:start].sum())]
    for cells in lists.values():
        cells.feature[:] = list(compress(cells.feature, keep_mask))
    return bytes(message.SerializeToString(deterministic=True))


def _text(cell: bytes) -> bytes:
    """The text of a row's cell of a list of texts."""
    return next(iter(_classes["Feature"].FromString(cell).bytes_list.value), b"")
