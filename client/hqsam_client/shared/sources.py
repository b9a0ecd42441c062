"""Where the pixels of windows come from: an image in memory, or a file that is read in parts."""

from __future__ import annotations

import threading
from collections import OrderedDict
from os import PathLike
from typing import Protocol

from PIL import Image

from hqsam_client import raster
from hqsam_client.errors import ImageError
from hqsam_client.image_files import ValueRange
from hqsam_client.shared.arrays import Channels, check_arguments
from hqsam_client.shared.geometry import Size
from hqsam_client.shared.upload import ImageLike, Upload, prepare
from hqsam_client.windows import Window

_KEPT = 16
"""Uploads of windows that are kept: up to 3 MB each."""


class Source(Protocol):
    """An upright image that can be read in parts, from any thread.

    Attributes:
        size: (height, width) in original pixels.
    """

    size: Size

    def part(self, window: Window) -> Image.Image:
        """Return the pixels of a window, in mode RGB."""

    def full_image(self) -> Image.Image:
        """Return all pixels, in mode RGB."""


class UploadSource:
    """The pixels of an image; decoded at first use, then kept."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._lock = threading.Lock()
        self._image: Image.Image | None = None
        self.size = upload.size

    def part(self, window: Window) -> Image.Image:
        """Return the pixels of a window, in mode RGB."""
        return self.full_image().crop(window)

    def full_image(self) -> Image.Image:
        """Return all pixels, in mode RGB; not a copy."""
        with self._lock:
            if self._image is None:
                self._image = self._upload.full_image()
            return self._image


class Uploads:
    """What the server gets to see of windows; the last ones are kept."""

    def __init__(self, source: Source, whole: Upload | None = None) -> None:
        """Read nothing yet.

        Args:
            source: of the pixels.
            whole: what the server sees of the window that is the whole image.
        """
        self.size = source.size
        self.full_image = source.full_image
        self._source = source
        self._whole = whole
        self._lock = threading.Lock()
        self._kept: OrderedDict[Window, Upload] = OrderedDict()

    def get(self, window: Window) -> Upload:
        """Return the upload of a window; reads its pixels if need be.

        Raises:
            ImageError: they cannot be read.
        """
        if self._whole is not None and window == (0, 0, self.size[1], self.size[0]):
            return self._whole
        with self._lock:
            upload = self._kept.pop(window, None)
        if upload is None:
            upload = prepare(self._source.part(window))
        with self._lock:
            self._kept[window] = upload
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return upload


def open_source(
    image: ImageLike, *, channels: Channels = "rgb", value_range: ValueRange | None = None
) -> Source:
    """Open an image whose windows are wanted.

    TIFF files are read in parts where rasterio is installed and can; all others are decoded as a
    whole.

    Args:
        image: as in `prepare`.
        channels: as in `prepare`.
        value_range: as in `prepare`, of the whole image.

    Raises:
        ImageError: it is not an image, or cannot be used.
        OptionError: another argument is wrong.
    """
    check_arguments(image, channels, value_range)

    def whole() -> Source:
        return UploadSource(prepare(image, channels=channels, value_range=value_range))

    if isinstance(image, (str, PathLike)) and raster.is_installed() and raster.is_tiff(image):
        try:
            return raster.RasterSource(image, value_range)
        except ImageError as error:
            refused = error
        try:
            return whole()
        except ImageError:
            raise refused from None
    return whole()


def of_upload(upload: Upload) -> Uploads:
    """Return the uploads of an image's windows, and of the whole."""
    return Uploads(UploadSource(upload), upload)
