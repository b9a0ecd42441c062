"""Images drawn for the browser: what it cannot decode itself, and thumbnails."""

from __future__ import annotations

import io

import numpy as np
from hqsam_client import ImageError, image_files
from hqsam_client.image_files import ValueRange
from hqsam_client.shared.upload import prepare
from PIL import Image

MAX_SHOWN_PIXELS = 32 * 2**20
"""Pixels of a drawn image; a larger one is shrunk, and the page stretches it to its size."""

_THUMBNAIL_SIDE = 160
_QUALITY = 92


def shown(
    encoded: bytes, value_range: ValueRange | None = None, max_pixels: int = MAX_SHOWN_PIXELS
) -> bytes:
    """Return an image file as a JPEG of what the model sees: upright, 8-bit RGB.

    Args:
        encoded: the file.
        value_range: as in `HQSam.open`.
        max_pixels: of the JPEG.

    Raises:
        HQSamError: what `prepare` raises; or the pixels cannot be read.
    """
    return _jpeg(_reduced(encoded, value_range, max_pixels), _QUALITY)


def thumbnail(encoded: bytes, value_range: ValueRange | None = None) -> bytes:
    """Return a small JPEG of an image file; see `shown`."""
    image = _reduced(encoded, value_range, 4 * _THUMBNAIL_SIDE**2)
    image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    return _jpeg(image, 80)


def _reduced(encoded: bytes, value_range: ValueRange | None, max_pixels: int) -> Image.Image:
    decoded = prepare(encoded, value_range=value_range).source
    if decoded is not None:
        # What is sent to the server is not the file.
        return image_files.to_rgb(_shrunk(decoded, max_pixels))
    try:
        with Image.open(io.BytesIO(encoded)) as file:
            # Only JPEG can be decoded to a smaller size.
            share = (max_pixels / (file.width * file.height)) ** 0.5
            if share < 1:
                file.draft(None, (int(file.width * share), int(file.height * share)))
            return image_files.to_rgb(_shrunk(image_files.upright(file), max_pixels))
    # Pillow's readers raise nearly anything over hostile bytes, not only OSError.
    except Exception as error:
        raise ImageError(f"the image is truncated or damaged: {error}") from error


def _shrunk(image: Image.Image, max_pixels: int) -> Image.Image:
    step = int(np.ceil((image.width * image.height / max_pixels) ** 0.5))
    if step <= 1:
        return image
    if image.mode[0] in "IF":
        # Pillow cannot reduce 16-bit images.
        return Image.fromarray(np.ascontiguousarray(np.asarray(image)[::step, ::step]))
    return image.convert("RGB").reduce(step)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
