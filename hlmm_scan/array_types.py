"""Types of arrays, by the names they have everywhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
Strings = NDArray[np.object_]
"""Python's str in an array of objects."""
