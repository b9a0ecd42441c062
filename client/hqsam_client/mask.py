"""A mask: low-resolution logits or run lengths, brought to the image's own pixels at first use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hqsam_client import drawing, image_files
from hqsam_client.errors import ImageError, OptionError
from hqsam_client.shared.finishing import png_file
from hqsam_client.shared.geometry import Size, upsampled_bands
from hqsam_client.shared.opencv import opencv
from hqsam_client.shared.run_lengths import RunLengths

MASK_ENDINGS = frozenset([".bmp", ".gif", ".pgm", ".png", ".tif", ".tiff"])
"""Endings of the files that `Mask.save` writes, in lower case: formats that keep each pixel."""


class Polygon(NamedTuple):
    """The outline of one part of a mask, and of the holes in it.

    All are int32 [N, 2]: (column, row) of the mask's own pixels along the border, in original
    pixels.

    Attributes:
        outline: the part's outer border.
        holes: the border of each hole, the largest first.
    """

    outline: NDArray[np.int32]
    holes: list[NDArray[np.int32]]


class Mask:
    """The mask of one object in one image.

    Args:
        found: logits, float32 [256, 256], rows first, over the whole input frame; or the run
            lengths of the finished mask.
        iou: see `Mask.iou`.
        size: (height, width) of the image in original pixels.
        image: returns the upright image in mode RGB; for `overlay`.

    Attributes:
        iou: the predicted quality, 0 to 1. The model predicts it for SAM's own mask, not
            for the HQ mask that comes with it.
        size: (height, width) in original pixels.
    """

    def __init__(
        self,
        found: NDArray[np.float32] | RunLengths,
        iou: float,
        size: Size,
        image: Callable[[], Image.Image] | None = None,
    ) -> None:
        self._found = found
        self.iou = iou
        self.size = size
        self._image = image

    def __repr__(self) -> str:
        height, width = self.size
        return f"Mask({width} x {height} pixels, iou={self.iou:.3f})"

    @property
    def has_logits(self) -> bool:
        """Whether it has logits: not if it was segmented with ``logits=False``."""
        return not isinstance(self._found, RunLengths)

    @property
    def low_res_logits(self) -> NDArray[np.float32]:
        """What the model answered, float32 [256, 256]; `refine` starts from it.

        Raises:
            OptionError: the mask has no logits.
        """
        if isinstance(self._found, RunLengths):
            raise OptionError("the mask has no logits: segment with logits=True to get them")
        return self._found

    @cached_property
    def array(self) -> NDArray[np.bool_]:
        """The mask, bool [height, width], original pixels; computed at first use, then kept."""
        if isinstance(self._found, RunLengths):
            return self._found.mask()
        mask = np.empty(self.size, np.bool_)
        for rows, logits in upsampled_bands(self.low_res_logits, self.size):
            np.greater(logits, 0, out=mask[rows])
        return mask

    @property
    def logits(self) -> NDArray[np.float32]:
        """The logits, float32 [height, width], original pixels; `array` is where they exceed 0.

        Computed at every use: four bytes a pixel are too many to keep.

        Raises:
            OptionError: the mask has no logits.
        """
        full = np.empty(self.size, np.float32)
        for rows, logits in upsampled_bands(self.low_res_logits, self.size):
            full[rows] = logits
        return full

    @cached_property
    def run_lengths(self) -> RunLengths:
        """The mask as run lengths; computed at first use, then kept."""
        found = self._found
        return found if isinstance(found, RunLengths) else RunLengths.of_mask(self.array)

    @cached_property
    def area(self) -> int:
        """Number of pixels of the object."""
        if isinstance(self._found, RunLengths):
            return self._found.area
        return int(np.count_nonzero(self.array))

    @cached_property
    def box(self) -> tuple[int, int, int, int] | None:
        """(x0, y0, x1, y1) in original pixels; None when the mask is empty.

        x0 and y0 are the first column and row of the object, x1 and y1 the first ones after it.
        """
        if isinstance(self._found, RunLengths):
            return self._found.box
        columns = np.flatnonzero(self.array.any(axis=0))
        if not columns.size:
            return None
        rows = np.flatnonzero(self.array.any(axis=1))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    def cutout(self) -> tuple[NDArray[np.bool_], tuple[int, int]]:
        """Return the part of the mask around its box, and where it is.

        A small object of a large image needs no array of the whole image then.

        Returns:
            The pixels of the box and one around it, as far as the image has them, bool [h, w];
            one pixel of an empty mask. And (x, y) of the first of them, original pixels.
        """
        height, width = self.size
        x0, y0, x1, y1 = self.box or (0, 0, 0, 0)
        x0, y0, x1, y1 = max(0, x0 - 1), max(0, y0 - 1), min(width, x1 + 1), min(height, y1 + 1)
        if isinstance(self._found, RunLengths):
            return self._found.mask((x0, y0, x1, y1)), (x0, y0)
        return np.ascontiguousarray(self.array[y0:y1, x0:x1]), (x0, y0)

    def image(self) -> Image.Image:
        """Return the mask as a Pillow image of mode L: 255 the object, 0 the rest."""
        return Image.fromarray(self.array.view(np.uint8) * np.uint8(255))

    def png(self) -> bytes:
        """Return the mask as a PNG file of one bit a pixel: white the object, black the rest."""
        return png_file(np.packbits(self.array, axis=1).tobytes(), self.size)

    def save(self, path: str | PathLike[str]) -> None:
        """Write `image()` to a file, without loss.

        Args:
            path: its ending, one of `MASK_ENDINGS`, gives the format; ``~`` is the home folder.

        Raises:
            OptionError: the ending is another, or the file cannot be written.
        """
        file = Path(path).expanduser()
        if file.suffix.lower() not in MASK_ENDINGS:
            reason = f"{file.suffix} would change its pixels" if file.suffix else "it has no ending"
            raise OptionError(
                f"a mask cannot be saved as {str(path)!r}: {reason}; expected a name that ends in "
                ".png, or in one of " + ", ".join(sorted(MASK_ENDINGS - {".png"}))
            )
        if not file.parent.is_dir():
            raise OptionError(f"{path} cannot be written: make the folder {file.parent} first")
        try:
            self.image().save(file)
        except OSError as error:
            raise OptionError(f"{path} cannot be written: {error.strerror or error}") from error

    def overlay(
        self,
        image: Image.Image | None = None,
        color: tuple[int, int, int] = drawing.DEFAULT_COLOR,
    ) -> Image.Image:
        """Draw the mask on its image: tinted inside, with a contour.

        16-bit and float images are drawn as the model sees them; see `image_files`.

        Args:
            image: drawn on instead of the mask's own image; of any mode and of the same size,
                once its EXIF orientation is applied.
            color: RGB, 0 to 255.

        Returns:
            A new Pillow image of mode RGB in original pixels.

        Raises:
            ImageError: `image` has another size, or is None and the mask has no image.
        """
        if image is not None:
            image = image_files.upright(image)
        elif self._image is not None:
            image = self._image()
        else:
            raise ImageError("the mask has no image to draw on: pass one")
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
        """
        return {"size": list(self.size), "counts": self.run_lengths.text().decode("ascii")}

    def cleaned(self, min_area: int) -> Mask:
        """Return the mask without small holes and specks, as the authors' demo cleans masks.

        Holes of fewer pixels are filled, then parts of fewer pixels are removed; of parts that
        are all smaller, the largest stays. Pixels that touch at a corner belong together.

        Args:
            min_area: pixels that a hole or a part has at least to stay.

        Returns:
            A new mask without logits.

        Raises:
            MissingPackageError: OpenCV is not installed.
        """
        cv2 = opencv("Mask.cleaned")
        mask = self.array
        for is_hole in (True, False):
            _, regions, stats, _ = cv2.connectedComponentsWithStats(
                (mask ^ is_hole).view(np.uint8), connectivity=8
            )
            areas = stats[:, cv2.CC_STAT_AREA]
            is_kept = areas >= min_area
            is_kept[0] = False  # what is not a region
            if not is_hole and len(areas) > 1 and not is_kept.any():
                is_kept[1 + int(areas[1:].argmax())] = True
            mask = is_kept[regions] ^ is_hole
        return Mask(RunLengths.of_mask(mask), self.iou, self.size, self._image)

    def polygons(self, tolerance: float = 0.0) -> list[Polygon]:
        """Return the outline of each part of the mask with its holes, the largest part first.

        Without a tolerance, filling the outline, erasing the inside of each hole, border excluded,
        and doing the same with the smaller parts, which may lie in a hole, gives the mask back.

        Args:
            tolerance: pixels that a line may be off, to need fewer points.

        Raises:
            OptionError: `tolerance` is negative.
            MissingPackageError: OpenCV is not installed.
        """
        if not tolerance >= 0:
            raise OptionError(f"tolerance is {tolerance}, expected pixels, 0 or more")
        cv2 = opencv("Mask.polygons")
        pixels, corner = self.cutout()
        # Two levels: outlines of parts, and in them those of holes.
        contours, tree = cv2.findContours(
            pixels.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=corner
        )
        by_area = sorted(range(len(contours)), key=lambda i: -cv2.contourArea(contours[i]))
        if tolerance:
            contours = [cv2.approxPolyDP(contour, tolerance, True) for contour in contours]
        holes: dict[int, list[NDArray[np.int32]]] = {}
        for index in by_area:
            if (part := int(tree[0, index, 3])) >= 0:
                holes.setdefault(part, []).append(_line(contours[index]))
        return [
            Polygon(_line(contours[index]), holes.get(index, []))
            for index in by_area
            if tree[0, index, 3] < 0
        ]

    def geojson(self, tolerance: float = 0.0) -> dict[str, Any]:
        """Return `polygons` as a GeoJSON geometry, a MultiPolygon in original pixels, (x, y).

        Lines that enclose nothing, such as those of a part one pixel wide, are left out.

        Raises:
            OptionError: `tolerance` is negative.
            MissingPackageError: OpenCV is not installed.
        """
        parts = [
            [ring for line in (part.outline, *part.holes) if len(ring := _ring(line)) > 3]
            for part in self.polygons(tolerance)
            if len(part.outline) > 2
        ]
        return {"type": "MultiPolygon", "coordinates": parts}


def _ring(line: NDArray[np.int32]) -> list[list[int]]:
    """Return a line that ends where it begins."""
    points: list[list[int]] = line.tolist()
    return [*points, points[0]]


def _line(contour: NDArray[Any]) -> NDArray[np.int32]:
    return np.asarray(contour[:, 0], np.int32)
