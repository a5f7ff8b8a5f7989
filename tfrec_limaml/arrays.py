"""Types of NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

#: Values of any type.
Array = npt.NDArray[Any]
#: Numbers in double precision.
Floats = npt.NDArray[np.float64]
#: Whole numbers of 64 bits.
Integers = npt.NDArray[np.int64]
#: True for some of the values.
Mask = npt.NDArray[np.bool_]
