"""Images in any form, to the bytes that are sent, their `image_id` and the full size."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hqsam_client import image_files
from hqsam_client.contract import INPUT_SIZE, resized_size
from hqsam_client.errors import OptionError
from hqsam_client.image_files import ValueRange
from hqsam_client.shared import arrays, depth, reading
from hqsam_client.shared.arrays import Channels
from hqsam_client.shared.geometry import Size

ImageLike: TypeAlias = "str | PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any]"
"""A path, the bytes of a file, a binary file object, a Pillow image, or an array: uint8
[height, width, 3], RGB, unless other arguments say what else it is."""

UploadMode: TypeAlias = Literal["original", "resized"]

_FileFormat: TypeAlias = Literal["PPM", "PNG"]


@dataclass(frozen=True)
class Upload:
    """What the server gets to see of an image.

    Attributes:
        encoded: the bytes of an image file.
        image_id: their SHA-256, 64 lower-case hex digits.
        size: (height, width) of the upright full image, which `encoded` may be a
            smaller version of: original pixels.
        is_shrunk: whether it is.
        source: the upright full image, if it is in memory already.
    """

    encoded: bytes
    image_id: str
    size: Size
    is_shrunk: bool = False
    source: Image.Image | None = field(default=None, repr=False)

    def full_image(self) -> Image.Image:
        """Return the upright image as a new one of mode RGB, original pixels."""
        if self.source is not None:
            return image_files.to_rgb(self.source)
        return image_files.to_rgb(reading.upright(reading.opened(self.encoded)))


def prepare(
    image: ImageLike,
    upload: UploadMode = "original",
    *,
    channels: Channels = "rgb",
    value_range: ValueRange | None = None,
) -> Upload:
    """Read an image as far as needed: of a file, the header and the metadata.

    Files are sent as they are. Arrays and Pillow images are shrunk to the model's size,
    exactly as the server would, and sent without loss as PPM, which is cheap to write and
    gives the same pixels the same `image_id`. So are the pixels of HEIC files, and of files whose
    values `value_range` maps. Files of 16 bits a value are decoded, to check their range.

    Args:
        image: see `ImageLike`. ``~`` in a path is the home folder.
        upload: "resized" shrinks files, too, and sends them as PNG where that is less.
        channels: what the last axis of an array holds; "grey" is an array of two axes.
        value_range: which values become 0 and 255 of images that have more than 8 bits a value;
            others are as they are. None for the rules of `image_files`.

    Raises:
        ImageError: it is not an image, or cannot be read; or its values are such that the model
            would see black.
        OptionError: another argument is wrong.
        MissingPackageError: `value_range` is for a file of 16-bit colours, and OpenCV is not
            installed.
    """
    if upload not in ("original", "resized"):
        raise OptionError(f"upload is {upload!r}, expected 'original' or 'resized'")
    arrays.check_arguments(image, channels, value_range)
    if isinstance(image, np.ndarray):
        return _from_image(arrays.rgb(image, channels, value_range), "PPM")
    if isinstance(image, Image.Image):
        return _from_image(_checked(image, None, value_range), "PPM")
    encoded = reading.read(image)
    file = reading.opened(encoded)
    file_format: _FileFormat = "PNG" if upload == "resized" else "PPM"
    if file.format == reading.HEIF or (value_range is not None and depth.is_deep(file)):
        return _from_image(_checked(file, encoded, value_range), file_format)
    if depth.is_deep(file):
        depth.check(file)
    if upload == "resized" and max(file.size) > INPUT_SIZE:
        resized = _from_image(reading.upright(file), file_format)
        if len(resized.encoded) < len(encoded):
            return resized
    return Upload(encoded, _digest(encoded), image_files.upright_size(file))


def _checked(
    image: Image.Image, encoded: bytes | None, value_range: ValueRange | None
) -> Image.Image:
    """Return an upright image, in which the model sees something.

    Args:
        image: as it was given.
        encoded: the file that it is of; None if there is none.
        value_range: see `prepare`.
    """
    if depth.is_deep(image):
        if value_range is not None:
            return depth.rgb(image, encoded, value_range)
        depth.check(image)
    return reading.upright(image)


def _from_image(image: Image.Image, file_format: _FileFormat) -> Upload:
    size = image.height, image.width
    if image.mode.startswith("I") or image.mode == "F":
        # Deeper than eight bits: the server converts it to RGB.
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
    is_shrunk = (image.height, image.width) != size
    return Upload(encoded, _digest(encoded), size, is_shrunk, source)


def _digest(encoded: bytes) -> str:
    return hashlib.sha256(encoded).hexdigest()
