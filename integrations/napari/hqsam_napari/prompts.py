"""From napari's data to the client's: images, and prompts in pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from hqsam_client import ImageError, PromptError
from numpy.typing import NDArray


def rgb(plane: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Return a plane of an image layer as the viewer shows its values.

    Args:
        plane: [height, width] of any numbers, or colours [height, width, 3 or 4].
        limits: the values that the layer shows as black and as white.

    Returns:
        uint8 [height, width, 3].
    """
    if plane.ndim == 3:
        colours = plane[..., :3]
        scaled = colours * 255 if np.issubdtype(plane.dtype, np.floating) else colours
        return np.clip(scaled, 0, 255).astype(np.uint8)
    if plane.ndim != 2:
        raise ImageError(f"the image has shape {list(plane.shape)}, expected one plane")
    low, high = limits
    share = (plane.astype(np.float32) - low) / (high - low if high > low else 1)
    grey = (np.clip(np.nan_to_num(share), 0, 1) * 255).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def box(rectangle: NDArray[Any]) -> tuple[float, float, float, float]:
    """Return (x0, y0, x1, y1) of a rectangle's corners, [N, 2] rows and columns."""
    (y0, x0), (y1, x1) = rectangle.min(axis=0), rectangle.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def points(
    coordinates: NDArray[Any], negative: NDArray[np.bool_]
) -> tuple[list[tuple[float, float]], list[int]]:
    """Return (x, y) pairs and their labels.

    Args:
        coordinates: [N, 2], rows and columns; napari counts from the centre of the first pixel.
        negative: bool [N], whether a point is beside the object.
    """
    pairs = [(float(x), float(y)) for y, x in coordinates]
    return pairs, [0 if it else 1 for it in negative]


def check_prompt(pairs: list[Any], labels: list[int], box: Any) -> None:
    """Raise `PromptError` if there are only points beside the object."""
    if pairs and not any(labels) and box is None:
        raise PromptError("add a point on the object, or draw a rectangle around it")
