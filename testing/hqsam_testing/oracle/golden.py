"""What the official implementation answers for the oracle's images and prompts."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hqsam_testing.oracle import images, prompts

CASES = [(image, prompt) for image in images.SIZES for prompt in prompts.PROMPTS]
"""Names of images and prompts. The prompt `refine` starts from the one named `point`."""


class Golden:
    """The answers for one member of the family, with the rebuilt weights of seed 0."""

    def __init__(self, file: str) -> None:
        self._file = Path(__file__).with_name(file)

    @cached_property
    def _archive(self) -> dict[str, NDArray[Any]]:
        with np.load(self._file) as archive:
            return dict(archive)

    def array(self, image: str, prompt: str, name: str) -> NDArray[Any]:
        """Return `low_res_masks` [1, 256, 256] or `iou` [1] of a case."""
        return self._archive[f"{image}/{prompt}/{name}"]

    def embedding(self, image: str, name: str) -> NDArray[Any]:
        """Return the samples of `image_embeddings` or `interm_embeddings` of an image."""
        return self._archive[f"{image}/{name}"]

    def mask(self, image: str, prompt: str) -> NDArray[np.bool_]:
        """Return the final mask of a case, [height, width] of the image."""
        width, height = images.SIZES[image]
        packed = self.array(image, prompt, "mask")
        return np.unpackbits(packed, count=width * height).reshape(height, width).astype(np.bool_)


VIT_B = Golden("golden.npz")

LIGHT = Golden("golden_light.npz")
"""As `build_sam_vit_t` returns the model: without attention biases."""


def pixels(image: str, prompt: str) -> dict[str, Any]:
    """Return a prompt's `points`, `labels` and `box`, in pixels of the image."""
    scaled = prompts.pixels(prompts.PROMPTS[prompt], *images.SIZES[image])
    scaled.pop("refine", None)
    return scaled
