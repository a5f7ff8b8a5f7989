"""Shapes that the adapter pads to, so that a task's embedding does not depend on the tasks beside it.

TensorFlow's kernels sum in an order that depends on the shape: the same task in a batch of another shape differs in its last bits. The
adapter therefore pads the samples of its batch to one of a few widths, and the tasks to a multiple of 16 (fewer for
wide tasks). Where all tasks of a batch share one width, as the embedding job arranges it, what a task is computed in follows from the task.

Measured (TensorFlow 2.21 on x86 with oneDNN): the number of tasks does not matter as long as it is a multiple of 16; the width
does where it passes 16. One kernel knows no padding that mends it: `tf.reduce_sum` over the middle axis of ``[T, S, D]`` depends on
the place in the batch where S is 16 or more and D is not a multiple of 8. So nothing in the adapter sums in that way, see
`tfrec_limaml.pooling.sum_over_samples`.
"""

from __future__ import annotations

import bisect

#: Up to 8 one by one, then four steps per doubling; above the last one nothing is padded.
SAMPLE_WIDTHS = (*range(1, 9), *(step << shift for shift in range(1, 17) for step in (5, 6, 7, 8)))

TASK_MULTIPLE = 16
#: From this many rows on, more tasks are no faster: wide tasks are padded to fewer.
ROWS = 4096


def sample_width(count: int) -> int:
    """Samples that a task with `count` of them is padded to."""
    place = bisect.bisect_left(SAMPLE_WIDTHS, count)
    return SAMPLE_WIDTHS[place] if place < len(SAMPLE_WIDTHS) else count


def task_multiple(width: int) -> int:
    """Tasks of one width come in multiples of this number, from 16 (up to 256 samples) to 1 (above 2,048)."""
    return max(1, min(TASK_MULTIPLE, ROWS // width))


def most_tasks(width: int, limit: int) -> int:
    """Tasks of one width in one call, for `limit` tasks of narrow ones: where 16 would be too many rows, exactly one multiple."""
    multiple = task_multiple(width)
    return limit if multiple == TASK_MULTIPLE else multiple
