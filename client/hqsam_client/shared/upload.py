"""An image in any of its forms, to the bytes that are sent, their name and the true size."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hqsam_client import image_files
from hqsam_client.contract import INPUT_SIZE, resized_size
from hqsam_client.errors import ImageError, OptionError
from hqsam_client.shared.geometry import Size

ImageLike: TypeAlias = "str | PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[np.uint8]"
"""A path, the bytes of a file, a binary file object, a Pillow image, or an RGB array,
uint8 [height, width, 3]."""

UploadMode: TypeAlias = Literal["original", "resized"]


@dataclass(frozen=True)
class Upload:
    """What the server gets to see of an image.

    Attributes:
        encoded: the bytes of an image file.
        image_id: their SHA-256, 64 lower-case hex digits.
        size: (height, width) of the upright full image, which `encoded` may be a
            smaller version of: original pixels.
        source: the upright full image, where it is in memory anyway.
    """

    encoded: bytes
    image_id: str
    size: Size
    source: Image.Image | None = field(default=None, repr=False)

    def full_image(self) -> Image.Image:
        """Return the upright image in mode RGB, original pixels."""
        if self.source is not None:
            return image_files.to_rgb(self.source)
        return image_files.to_rgb(_upright(_open(self.encoded)))


def prepare(image: ImageLike, upload: UploadMode = "original") -> Upload:
    """Read an image as far as needed: for a file, its header.

    Files travel as they are. Arrays and Pillow images are shrunk to the model's size,
    exactly as the server would, and travel without loss as PPM: it costs nothing to
    write, and the same pixels have the same `image_id` whatever wrote them.

    Args:
        image: see `ImageLike`.
        upload: "resized" shrinks files, too, and sends them as PNG where that is less.

    Raises:
        ImageError: it is not an image, or cannot be read.
        OptionError: `upload` is neither of the two.
    """
    if upload not in ("original", "resized"):
        raise OptionError(f"upload is {upload!r}, expected 'original' or 'resized'")
    if isinstance(image, Image.Image):
        return _from_image(_upright(image), "PPM")
    if isinstance(image, np.ndarray):
        return _from_image(_from_array(image), "PPM")
    encoded = _read(image)
    image = _open(encoded)
    if upload == "resized" and max(image.size) > INPUT_SIZE:
        resized = _from_image(_upright(image), "PNG")
        if len(resized.encoded) < len(encoded):
            return resized
    return Upload(encoded, _digest(encoded), image_files.upright_size(image))


def _read(image: Any) -> bytes:
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, PathLike)):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise ImageError(
                f"{image} cannot be read: {error.strerror or error}; check the path"
            ) from error
    if hasattr(image, "read"):
        encoded = image.read()
        if isinstance(encoded, bytes):
            return encoded
        raise ImageError(
            f"the file object gave {type(encoded).__name__}, expected bytes: open it in mode 'rb'"
        )
    raise ImageError(
        f"the image is a {type(image).__name__}, expected a path, bytes, a binary file "
        "object, a Pillow image or an RGB array"
    )


def _open(encoded: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(encoded))
    except Image.DecompressionBombError as error:
        raise ImageError(f"the image is too large for Pillow: {error}; shrink it") from error
    # Pillow's readers raise nearly anything over hostile bytes, not only OSError.
    except Exception as error:
        raise ImageError(
            f"the {len(encoded)} bytes are not an image that can be read, expected a file such "
            "as JPEG, PNG, TIFF or WebP"
        ) from error
    if min(image.size) < 1:
        raise ImageError(f"the image has {image.width} x {image.height} pixels")
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        return image_files.upright(image)
    except Exception as error:
        raise ImageError(
            f"the image is truncated or damaged: {' '.join(str(error).split())}"
        ) from error


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise ImageError(
            f"the array is {array.dtype} {list(array.shape)}, "
            "expected uint8 [height, width, 3], RGB, 0 to 255"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _from_image(image: Image.Image, file_format: Literal["PPM", "PNG"]) -> Upload:
    size = image.height, image.width
    if image.mode.startswith("I") or image.mode == "F":
        # Deeper than eight bits: the server knows best how to bring them to RGB.
        return _encode(image, "TIFF", size, image)
    rgb = image.convert("RGB")
    height, width = resized_size(size)
    # Enlarging is left to the server: it does the same to fewer bytes.
    small = (
        rgb.resize((width, height), Image.Resampling.BILINEAR) if max(size) > INPUT_SIZE else rgb
    )
    return _encode(small, file_format, size, rgb)


def _encode(image: Image.Image, file_format: str, size: Size, source: Image.Image) -> Upload:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    encoded = buffer.getvalue()
    return Upload(encoded, _digest(encoded), size, source)


def _digest(encoded: bytes) -> str:
    return hashlib.sha256(encoded).hexdigest()
