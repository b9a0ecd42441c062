"""Encoded images to what the encoder sees, exactly as the official code does it.

What Pillow reads is brought to 8-bit RGB as follows:

- the EXIF orientation is applied first, so that "original pixels" are those of the
  upright image; an EXIF block that cannot be read counts as none;
- an animated image is its first frame;
- transparency is dropped, not blended: the colours under it count, as they do in
  the official code's reader;
- 16-bit grey is cut to its high byte;
- 32-bit integers and floats have no white of their own: they are stretched from
  their smallest to their largest finite value;
- palettes, grey, CMYK, YCbCr and Lab are converted by Pillow; ICC profiles are
  ignored.

Only formats of plain pixels are opened (`FORMATS`): Pillow would also hand EPS files
to Ghostscript.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from hqsam_client.contract import INPUT_SIZE, PIXEL_MEAN, PIXEL_STD, resized_size
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from hqsam_server.errors import BadRequestError
from hqsam_server.models import image_checks

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""The file formats that are read; AVIF where Pillow was built with it."""

# What turns an image upright, by its EXIF orientation.
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow's own guard against decompression bombs warns about, or refuses, sizes that
# an operator may have allowed. `Limits.max_pixels` is checked in its stead, before a
# pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Limits:
    """What an image may cost before it is refused.

    Attributes:
        max_bytes: size of the encoded image.
        max_pixels: width times height. Decoding takes up to 8 bytes of memory for each,
            and up to 32 in images of 32-bit integers or floats.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 128 * 10**6


def preprocess(
    encoded: bytes | memoryview, limits: Limits
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Decode, orient, shrink or enlarge, normalise and pad an image.

    Args:
        encoded: the bytes of an image file.
        limits: what is refused unread.

    Returns:
        The encoder's input, float32 [1, 3, 1024, 1024]: RGB, the longest side scaled to
        1024, normalised, zeros on the right and at the bottom. And (height, width) of
        the upright image in original pixels.

    Raises:
        BadRequestError: it is not an image, or broken, or over a limit.
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
    """Refuse what `preprocess` would refuse before it decodes a pixel.

    Raises:
        BadRequestError: it is not an image, or over a limit.
    """
    _checked(encoded, limits)


def _checked(encoded: bytes | memoryview, limits: Limits) -> Image.Image:
    """Return the image with its header read."""
    if len(encoded) > limits.max_bytes:
        raise BadRequestError(
            f"the image has {len(encoded)} bytes, expected at most {limits.max_bytes}: "
            "send it smaller, or raise max_bytes on the server"
        )
    # Hostile bytes make Pillow's readers raise nearly anything, not only OSError.
    try:
        image = _open(encoded)
    except (MemoryError, BadRequestError):
        raise
    except Exception as error:
        raise BadRequestError(
            f"encoded_image is not an image that can be read: expected the bytes of a file in "
            f"one of the formats {', '.join(FORMATS)}, got {len(encoded)} bytes"
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
        image.load()
        return _to_rgb(_upright(image))
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


def _upright(image: Image.Image) -> Image.Image:
    orientation = 1
    with suppress(Exception):
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    method = _TRANSPOSE.get(orientation)
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        grey: NDArray[Any] = np.asarray(image) >> 8
    elif image.mode in ("I", "F"):
        grey = _stretched(np.asarray(image, np.float64))
    else:
        return image.convert("RGB")
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _stretched(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map the finite values' range to 0 to 255; what is not finite goes to the nearer end."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    return (values - low) * (255.0 / (high - low) if high > low else 0.0)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
