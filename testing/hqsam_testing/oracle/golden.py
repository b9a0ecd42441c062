"""What the official implementation answers for the oracle's images and prompts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hqsam_testing.oracle import images, prompts

CASES = [(image, prompt) for image in images.SIZES for prompt in prompts.PROMPTS]
"""Names of images and prompts. The prompt `refine` starts from the one named `point`."""


@cache
def _archive() -> dict[str, NDArray[Any]]:
    with np.load(Path(__file__).with_name("golden.npz")) as archive:
        return dict(archive)


def array(image: str, prompt: str, name: str) -> NDArray[Any]:
    """Return `low_res_masks` [1, 256, 256] or `iou` [1] of a case."""
    return _archive()[f"{image}/{prompt}/{name}"]


def embedding(image: str, name: str) -> NDArray[Any]:
    """Return the samples of `image_embeddings` or `interm_embeddings` of an image."""
    return _archive()[f"{image}/{name}"]


def mask(image: str, prompt: str) -> NDArray[np.bool_]:
    """Return the final mask of a case, [height, width] of the image."""
    width, height = images.SIZES[image]
    packed = array(image, prompt, "mask")
    return np.unpackbits(packed, count=width * height).reshape(height, width).astype(np.bool_)


def pixels(image: str, prompt: str) -> dict[str, Any]:
    """Return a prompt's `points`, `labels` and `box`, in pixels of the image."""
    scaled = prompts.pixels(prompts.PROMPTS[prompt], *images.SIZES[image])
    scaled.pop("refine", None)
    return scaled
