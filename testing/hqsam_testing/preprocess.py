"""What `preprocess` does to an image, in one process: exact and quick, for tests of its pixels."""

from __future__ import annotations

import numpy as np
from hqsam_server.models.preprocess import Limits, decode, normalised
from numpy.typing import NDArray


def preprocess(encoded: bytes, limits: Limits) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Return the encoder's input, and (height, width) of the upright image."""
    values, rgb = decode(encoded, {"max_pixels": limits.max_pixels})
    height, width = values["size"]
    return normalised(rgb), (height, width)
