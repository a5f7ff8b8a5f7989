"""Fixtures of the learning core's tests."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden():
    """Reference arrays by name; they lie beside the data folder, in ``golden/limaml_golden.npz``."""
    data = Path(os.environ.get("LIMAML_DATA_DIR", Path(__file__).parents[2].parent / "shared" / "data"))
    path = data.parent / "golden" / "limaml_golden.npz"
    if not path.is_file():
        pytest.skip(f"no reference numbers at {path}; set LIMAML_DATA_DIR to the folder beside `golden`")
    with np.load(path) as arrays:
        return dict(arrays)
