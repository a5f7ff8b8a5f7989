"""Marks of tests that need something of the processor."""

from __future__ import annotations

import os

import pytest

#: TensorFlow asks the processor whether it multiplies bfloat16, oneDNN obeys the variable: where
#: they disagree, the process crashes.
multiplies_bfloat16 = pytest.mark.skipif(
    "ONEDNN_MAX_CPU_ISA" in os.environ,
    reason="oneDNN's bfloat16 kernels are switched off by ONEDNN_MAX_CPU_ISA",
)
