"""Images drawn for the browser: what it cannot decode itself, and thumbnails."""

from __future__ import annotations

import io

import numpy as np
from hqsam_client import ImageError, image_files
from hqsam_client.shared.upload import prepare
from PIL import Image

MAX_SHOWN_PIXELS = 32 * 2**20
"""Pixels of a drawn image; a larger one is shrunk, and the page stretches it to its size."""

_THUMBNAIL_SIDE = 160
_QUALITY = 92


def shown(encoded: bytes, max_pixels: int = MAX_SHOWN_PIXELS) -> bytes:
    """Return an image file as a JPEG of what the model sees: upright, 8-bit RGB.

    Raises:
        ImageError: it is not an image, cannot be read, or is a 16-bit image that is black.
    """
    return _jpeg(_reduced(encoded, max_pixels), _QUALITY)


def thumbnail(encoded: bytes) -> bytes:
    """Return a small JPEG of an image file; see `shown`."""
    image = _reduced(encoded, 4 * _THUMBNAIL_SIDE**2)
    image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    return _jpeg(image, 80)


def _reduced(encoded: bytes, max_pixels: int) -> Image.Image:
    prepare(encoded)
    try:
        with Image.open(io.BytesIO(encoded)) as file:
            # Only JPEG can be decoded to a smaller size.
            share = (max_pixels / (file.width * file.height)) ** 0.5
            if share < 1:
                file.draft(None, (int(file.width * share), int(file.height * share)))
            image = image_files.upright(file)
            step = int(np.ceil((image.width * image.height / max_pixels) ** 0.5))
            if step > 1:
                image = _every(image, step)
            return image_files.to_rgb(image)
    # Pillow's readers raise nearly anything over hostile bytes, not only OSError.
    except Exception as error:
        raise ImageError(f"the image is truncated or damaged: {error}") from error


def _every(image: Image.Image, step: int) -> Image.Image:
    if image.mode[0] in "IF":
        # Pillow cannot reduce 16-bit images.
        return Image.fromarray(np.ascontiguousarray(np.asarray(image)[::step, ::step]))
    return image.convert("RGB").reduce(step)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
