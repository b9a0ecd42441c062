"""Encoded images to the encoder's input, exactly as the official code makes it.

How a file becomes an upright image of 8-bit RGB is the rule of `hqsam_client.image_files`.

Only formats of plain pixels are opened (`FORMATS` there): Pillow would hand EPS files to
Ghostscript. `decode` runs in a process with a budget (`hqsam_client.decoding`): no check of headers
knows all the small files that keep a decoder busy for minutes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

import numpy as np
from hqsam_client.contract import (
    INPUT_SIZE,
    MAX_IMAGE_BYTES,
    MAX_IMAGE_PIXELS,
    PIXEL_MEAN,
    PIXEL_STD,
    resized_size,
)
from hqsam_client.decoding.pool import Budget, DecoderLostError, Decoders
from hqsam_client.errors import ImageError
from hqsam_client.image_files import FORMATS, to_rgb, upright
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from hqsam_server.errors import BadRequestError, ModelUnavailableError, RequestCancelledError

# Pillow's own guard against decompression bombs warns about, or refuses, sizes that an operator
# may have allowed. `Limits.max_pixels` replaces it, and is checked before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None

# An encode must not slow down clicks. It is added to the process's own `nice`.
_NICE = 10
# Nor may an image that takes long slow down the encodes of others. A photograph of 20 megapixels
# takes half as long.
_IDLE_AFTER_S = 0.5

# Pillow tells formats apart by as many bytes.
_SIGNATURE_BYTES = 16


@dataclass(frozen=True)
class Limits:
    """Limits on an image; one that exceeds them is refused.

    Attributes:
        max_bytes: size of the encoded image.
        max_pixels: width times height.
        decode_seconds: processor time that decoding may take.
        decode_bytes: memory that decoding may take: up to 17 bytes for each pixel, and 21 in
            JPEG 2000.
    """

    max_bytes: int = MAX_IMAGE_BYTES
    max_pixels: int = MAX_IMAGE_PIXELS
    decode_seconds: int = 10
    decode_bytes: int = 2 * 2**30


class Preprocessor:
    """Makes the encoder's input of image files, a few at once."""

    def __init__(self, limits: Limits, processes: int) -> None:
        """Prepare processes that decode; none is started yet.

        Args:
            limits: limits on each image.
            processes: images that are decoded at once; others wait.
        """
        self._limits = limits
        budget = Budget(limits.decode_seconds, limits.decode_bytes, _NICE, _IDLE_AFTER_S)
        self._decoders = Decoders(f"{__name__}:{decode.__name__}", processes, budget)

    def warm_up(self) -> None:
        """Start a process, and load Pillow's formats, so that the first image waits for neither."""
        _formats()
        self._decoders.warm_up()

    def check(self, encoded: bytes | memoryview) -> None:
        """Refuse a file by its length or its first bytes, at once.

        Raises:
            BadRequestError: it is too long, or no image.
        """
        if len(encoded) > self._limits.max_bytes:
            raise BadRequestError(
                f"the image has {len(encoded)} bytes, expected at most {self._limits.max_bytes}: "
                "send it smaller, or raise max_bytes on the server"
            )
        signature = bytes(encoded[:_SIGNATURE_BYTES])
        if not any(_accepts(name, signature) for name in _formats()):
            raise BadRequestError(_no_image(encoded))

    def __call__(
        self, encoded: bytes | memoryview, is_cancelled: Callable[[], bool]
    ) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """Decode, orient, shrink or enlarge, normalise and pad an image.

        Args:
            encoded: the bytes of an image file.
            is_cancelled: ends the decoding when it is true.

        Returns:
            The encoder's input, float32 [1, 3, 1024, 1024], see `normalised`. And (height, width)
            of the upright image in original pixels.

        Raises:
            BadRequestError: it is not an image, or damaged, or exceeds a limit.
            RequestCancelledError: `is_cancelled` was true.
            ModelUnavailableError: the process that decoded it was lost.
        """
        self.check(encoded)
        options = {"max_pixels": self._limits.max_pixels}
        try:
            values, rgb = self._decoders.run(encoded, options, is_cancelled)
        except ImageError as error:
            raise BadRequestError(str(error)) from error
        except CancelledError as error:
            raise RequestCancelledError("cancelled while the image was decoded") from error
        except DecoderLostError as error:
            raise ModelUnavailableError(str(error)) from error
        height, width = values["size"]
        shape = (*resized_size((height, width)), 3)
        return normalised(np.frombuffer(rgb, np.uint8).reshape(shape)), (height, width)

    def close(self) -> None:
        """End the processes when they are done."""
        self._decoders.close()


def decode(
    encoded: bytes | memoryview, options: Mapping[str, Any]
) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Decode and orient an image, and shrink or enlarge it to the input frame.

    Args:
        encoded: the bytes of an image file.
        options: ``max_pixels``, checked before a pixel is decoded.

    Returns:
        ``size``: (height, width) of the upright image in original pixels. And the RGB image, uint8
        [h, w, 3] in the input frame: the longest of its sides is 1024.

    Raises:
        BadRequestError: it is not an image, or damaged, or exceeds a limit.
    """
    image = _upright_rgb(encoded, options["max_pixels"])
    size = image.height, image.width
    height, width = resized_size(size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return {"size": size}, np.asarray(resized)


def normalised(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the encoder's input of an image.

    Args:
        rgb: uint8 [h, w, 3], in the input frame.

    Returns:
        float32 [1, 3, 1024, 1024]: the image normalised, with zeros on the right and at the bottom.
    """
    height, width, _ = rgb.shape
    out = np.zeros((1, 3, INPUT_SIZE, INPUT_SIZE), np.float32)
    for channel in range(3):
        plane = out[0, channel, :height, :width]
        np.subtract(rgb[..., channel], np.float32(PIXEL_MEAN[channel]), out=plane, dtype=np.float32)
        plane /= np.float32(PIXEL_STD[channel])
    return out


def _upright_rgb(encoded: bytes | memoryview, max_pixels: int) -> Image.Image:
    # Pillow's readers raise nearly anything over hostile bytes, not only OSError.
    try:
        image = Image.open(io.BytesIO(encoded), formats=_formats())
        if min(image.size) < 1:
            raise UnidentifiedImageError("a side of no pixels")
    except MemoryError:
        raise
    except Exception as error:
        raise BadRequestError(_no_image(encoded)) from error
    if image.width * image.height > max_pixels:
        raise BadRequestError(
            f"the image has {image.width} x {image.height} pixels, expected at most "
            f"{max_pixels}: send it smaller, or raise max_pixels on the server"
        )
    try:
        return to_rgb(upright(image))
    except MemoryError:
        raise
    except Exception as error:
        raise BadRequestError(
            f"the {image.format} image is truncated or damaged: {_one_line(error)}"
        ) from error


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _accepts(name: str, signature: bytes) -> bool:
    """Tell whether Pillow would try to open a file as one of a format."""
    accept = Image.OPEN[name][1]
    try:
        result = accept is None or accept(signature)
    except IndexError:  # the file is shorter than a signature
        return False
    return bool(result) and not isinstance(result, str)


def _no_image(encoded: bytes | memoryview) -> str:
    return (
        f"encoded_image is not an image that can be read: expected a file in one of the "
        f"formats {', '.join(FORMATS)}, got {len(encoded)} bytes"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
