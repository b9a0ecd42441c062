"""Encoded images to the encoder's input, exactly as the official code makes it.

How a file becomes an upright image of 8-bit RGB is the rule of `hqsam_client.image_files`.

Only formats of plain pixels are opened (`FORMATS` there): Pillow would hand EPS files to
Ghostscript.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hqsam_client.contract import (
    INPUT_SIZE,
    MAX_IMAGE_BYTES,
    MAX_IMAGE_PIXELS,
    PIXEL_MEAN,
    PIXEL_STD,
    resized_size,
)
from hqsam_client.image_files import FORMATS, to_rgb, upright
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from hqsam_server.errors import BadRequestError
from hqsam_server.models import image_checks

# Pillow's own guard against decompression bombs warns about, or refuses, sizes that an operator
# may have allowed. `Limits.max_pixels` replaces it, and is checked before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Limits:
    """Limits on an image; one that exceeds them is refused.

    Attributes:
        max_bytes: size of the encoded image.
        max_pixels: width times height. Decoding takes up to 8 bytes of memory for each pixel,
            and up to 32 for 32-bit integers and floats.
    """

    max_bytes: int = MAX_IMAGE_BYTES
    max_pixels: int = MAX_IMAGE_PIXELS


def preprocess(
    encoded: bytes | memoryview, limits: Limits
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Decode, orient, shrink or enlarge, normalise and pad an image.

    Args:
        encoded: the bytes of an image file.
        limits: checked before a pixel is decoded.

    Returns:
        The encoder's input, float32 [1, 3, 1024, 1024]: the RGB image in the input frame, its
        longest side scaled to 1024, normalised, with zeros on the right and at the bottom. And
        (height, width) of the upright image in original pixels.

    Raises:
        BadRequestError: it is not an image, or damaged, or exceeds a limit.
    """
    image = _decode(encoded, limits)
    height, width = image.height, image.width
    new_height, new_width = resized_size((height, width))
    resized = image.resize((new_width, new_height), Image.Resampling.BILINEAR)
    rgb = np.asarray(resized)  # [new_height, new_width, 3]
    out = np.zeros((1, 3, INPUT_SIZE, INPUT_SIZE), np.float32)
    for channel in range(3):
        plane = out[0, channel, :new_height, :new_width]
        np.subtract(rgb[..., channel], np.float32(PIXEL_MEAN[channel]), out=plane, dtype=np.float32)
        plane /= np.float32(PIXEL_STD[channel])
    return out, (height, width)


def check_header(encoded: bytes | memoryview, limits: Limits) -> None:
    """Make the checks that `preprocess` makes before it decodes a pixel.

    Raises:
        BadRequestError: it is not an image, or exceeds a limit.
    """
    _checked(encoded, limits)


def _checked(encoded: bytes | memoryview, limits: Limits) -> Image.Image:
    """Return the image with its header read."""
    if len(encoded) > limits.max_bytes:
        raise BadRequestError(
            f"the image has {len(encoded)} bytes, expected at most {limits.max_bytes}: "
            "send it smaller, or raise max_bytes on the server"
        )
    # Pillow's readers raise nearly anything over hostile bytes, not only OSError.
    try:
        image = _open(encoded)
    except (MemoryError, BadRequestError):
        raise
    except Exception as error:
        raise BadRequestError(
            f"encoded_image is not an image that can be read: expected a file in one of the "
            f"formats {', '.join(FORMATS)}, got {len(encoded)} bytes"
        ) from error
    if image.width * image.height > limits.max_pixels:
        raise BadRequestError(
            f"the image has {image.width} x {image.height} pixels, expected at most "
            f"{limits.max_pixels}: send it smaller, or raise max_pixels on the server"
        )
    image_checks.check_before_decode(encoded, image)
    return image


def _decode(encoded: bytes | memoryview, limits: Limits) -> Image.Image:
    """Return the upright image in mode RGB."""
    image = _checked(encoded, limits)
    try:
        return to_rgb(upright(image))
    except (MemoryError, BadRequestError):
        raise
    except Exception as error:
        raise BadRequestError(
            f"the {image.format} image is truncated or damaged: {_one_line(error)}"
        ) from error


def _open(encoded: bytes | memoryview) -> Image.Image:
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    image_checks.check_before_open(encoded)
    file = image_checks.SteppedBytes(encoded, image_checks.MAX_HEADER_STEPS)
    image = Image.open(file, formats=formats)
    file.max_steps = image_checks.MAX_STEPS
    if min(image.size) < 1:
        raise UnidentifiedImageError("a side of no pixels")
    return image


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
