"""Marks for tests that need certain features of the processor."""

from __future__ import annotations

import os

import pytest

#: TensorFlow asks the processor whether it supports bfloat16, oneDNN obeys the variable. If they
#: disagree, the process crashes.
multiplies_bfloat16 = pytest.mark.skipif(
    "ONEDNN_MAX_CPU_ISA" in os.environ,
    reason="oneDNN's bfloat16 kernels are switched off by ONEDNN_MAX_CPU_ISA",
)
