"""A mask: low-resolution logits, brought to the image's own pixels when asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hqsam_client import drawing
from hqsam_client.errors import ImageError, MissingPackageError
from hqsam_client.shared.geometry import Size, upsampled_bands


class Mask:
    """The mask of one object in one image.

    Args:
        low_res_logits: float32 [256, 256], rows first, over the whole input frame.
        iou: see `Mask.iou`.
        size: (height, width) of the image in original pixels.
        image: returns the upright image in mode RGB; for `overlay`.

    Attributes:
        low_res_logits: as given; what `refine` starts from.
        iou: the predicted quality, 0 to 1. The model predicts it for SAM's own mask, not
            for the HQ mask that comes with it.
        size: (height, width) in original pixels.
    """

    def __init__(
        self,
        low_res_logits: NDArray[np.float32],
        iou: float,
        size: Size,
        image: Callable[[], Image.Image] | None = None,
    ) -> None:
        self.low_res_logits = low_res_logits
        self.iou = iou
        self.size = size
        self._image = image

    def __repr__(self) -> str:
        height, width = self.size
        return f"Mask({width} x {height} pixels, iou={self.iou:.3f})"

    @cached_property
    def array(self) -> NDArray[np.bool_]:
        """The mask, bool [height, width], original pixels; computed at first use, then kept."""
        mask = np.empty(self.size, np.bool_)
        for rows, logits in upsampled_bands(self.low_res_logits, self.size):
            np.greater(logits, 0, out=mask[rows])
        return mask

    @property
    def logits(self) -> NDArray[np.float32]:
        """What `array` thresholds at 0: float32 [height, width], original pixels.

        Computed at every use: four bytes a pixel are too many to keep.
        """
        full = np.empty(self.size, np.float32)
        for rows, logits in upsampled_bands(self.low_res_logits, self.size):
            full[rows] = logits
        return full

    @cached_property
    def area(self) -> int:
        """Number of pixels of the object."""
        return int(np.count_nonzero(self.array))

    @cached_property
    def box(self) -> tuple[int, int, int, int] | None:
        """(x0, y0, x1, y1) in original pixels, x1 and y1 just outside; None when empty."""
        columns = np.flatnonzero(self.array.any(axis=0))
        if not columns.size:
            return None
        rows = np.flatnonzero(self.array.any(axis=1))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    def image(self) -> Image.Image:
        """Return the mask as a Pillow image of mode L: 255 the object, 0 the rest."""
        return Image.fromarray(self.array.view(np.uint8) * np.uint8(255))

    def save(self, path: str | PathLike[str]) -> None:
        """Write `image()` to a file; the name's ending gives the format."""
        self.image().save(path)

    def overlay(
        self,
        image: Image.Image | None = None,
        color: tuple[int, int, int] = drawing.DEFAULT_COLOR,
    ) -> Image.Image:
        """Draw the mask on its image: tinted inside, with a contour.

        Args:
            image: drawn on instead of the image that the mask is of; same size.
            color: RGB, 0 to 255.

        Returns:
            A new Pillow image of mode RGB in original pixels.

        Raises:
            ImageError: `image` has another size, or the mask knows none.
        """
        if image is None:
            if self._image is None:
                raise ImageError("the mask knows no image to draw on: pass one")
            image = self._image()
        if image.size != self.size[::-1]:
            raise ImageError(
                f"the image has {image.size} pixels (width, height), "
                f"expected {self.size[::-1]} like the mask"
            )
        return drawing.overlay(image, self.array, color)

    def rle(self) -> dict[str, Any]:
        """Return COCO's compressed run-length encoding, ready for JSON.

        Returns:
            ``{"size": [height, width], "counts": "..."}``, original pixels.

        Raises:
            MissingPackageError: `pycocotools` is not installed.
        """
        try:
            from pycocotools import mask as coco
        except ImportError as error:
            raise MissingPackageError(
                "Mask.rle needs pycocotools: pip install 'hqsam-triton[masks]'"
            ) from error
        encoded = coco.encode(np.asfortranarray(self.array.view(np.uint8)))
        return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}

    def polygons(self) -> list[NDArray[np.int32]]:
        """Return the outer contours, the largest first; holes are left out.

        Returns:
            For each part of the mask, int32 [N, 2]: (x, y) of pixels on its border, in
            original pixels.

        Raises:
            MissingPackageError: OpenCV is not installed.
        """
        try:
            import cv2
        except ImportError as error:
            raise MissingPackageError(
                "Mask.polygons needs OpenCV: pip install 'hqsam-triton[masks]'"
            ) from error
        found = cv2.findContours(
            self.array.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )
        contours = sorted(found[0], key=cv2.contourArea, reverse=True)
        return [np.asarray(contour[:, 0], np.int32) for contour in contours]
