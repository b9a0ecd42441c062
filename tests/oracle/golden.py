"""What the official implementation answers for the oracle's pictures and prompts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.oracle import images, prompts

CASES = [(picture, prompt) for picture in images.SIZES for prompt in prompts.PROMPTS]
"""Names of pictures and prompts. The prompt `refine` starts from the one named `point`."""


@cache
def _archive() -> dict[str, NDArray[Any]]:
    with np.load(Path(__file__).with_name("golden.npz")) as archive:
        return dict(archive)


def array(picture: str, prompt: str, name: str) -> NDArray[Any]:
    """Return `low_res_masks` [1, 256, 256] or `iou` [1] of a case."""
    return _archive()[f"{picture}/{prompt}/{name}"]


def embedding(picture: str, name: str) -> NDArray[Any]:
    """Return the samples of `image_embeddings` or `interm_embeddings` of a picture."""
    return _archive()[f"{picture}/{name}"]


def mask(picture: str, prompt: str) -> NDArray[np.bool_]:
    """Return the final mask of a case, [height, width] of the picture."""
    width, height = images.SIZES[picture]
    packed = array(picture, prompt, "mask")
    return np.unpackbits(packed, count=width * height).reshape(height, width).astype(np.bool_)


def pixels(picture: str, prompt: str) -> dict[str, Any]:
    """Return a prompt's `points`, `labels` and `box`, in pixels of the picture."""
    scaled = prompts.pixels(prompts.PROMPTS[prompt], *images.SIZES[picture])
    scaled.pop("refine", None)
    return scaled
