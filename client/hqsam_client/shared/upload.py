"""Images in any form, to the bytes that are sent, their `image_id` and the full size."""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
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

# The server takes the high byte of 16-bit values. Of 12-bit values, 4 bits remain.
_DARK = 1 << 12

# Python's warning filters are not safe to change in several threads at once.
_WARNINGS = threading.Lock()


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
        image = self.source if self.source is not None else _upright(_open(self.encoded))
        return image_files.to_rgb(image)


def prepare(image: ImageLike, upload: UploadMode = "original") -> Upload:
    """Read an image as far as needed: of a file, the header and the metadata.

    Files are sent as they are. Arrays and Pillow images are shrunk to the model's size,
    exactly as the server would, and sent without loss as PPM, which is cheap to write and
    gives the same pixels the same `image_id`. Files of 16-bit grey are decoded, to check the
    range of their values.

    Args:
        image: see `ImageLike`. ``~`` in a path is the home folder.
        upload: "resized" shrinks files, too, and sends them as PNG where that is less.

    Raises:
        ImageError: it is not an image, or cannot be read; or its 16-bit values are
            so small that the model would see black.
        OptionError: `upload` is neither of the two.
    """
    if upload not in ("original", "resized"):
        raise OptionError(f"upload is {upload!r}, expected 'original' or 'resized'")
    if isinstance(image, Image.Image):
        return _from_image(_upright(image), "PPM")
    if isinstance(image, np.ndarray):
        return _from_image(_from_array(image), "PPM")
    encoded = _read(image)
    file = _open(encoded)
    if file.mode.startswith("I;16"):
        _check_range(_upright(file))
    if upload == "resized" and max(file.size) > INPUT_SIZE:
        resized = _from_image(_upright(file), "PNG")
        if len(resized.encoded) < len(encoded):
            return resized
    return Upload(encoded, _digest(encoded), image_files.upright_size(file))


def _read(image: Any) -> bytes:
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, PathLike)):
        return _read_file(Path(image))
    if hasattr(image, "read"):
        encoded = image.read()
        if isinstance(encoded, bytes):
            return encoded
        raise ImageError(
            f"the file object gave {type(encoded).__name__}, expected bytes: open it in mode 'rb'"
        )
    raise ImageError(
        f"expected an image as a path, bytes, a binary file object, a Pillow image or an RGB "
        f"array, got an object of type {type(image).__name__}"
    )


def _read_file(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except IsADirectoryError as error:
        raise ImageError(f"{path} is a folder, expected an image file") from error
    # Without a home folder, `expanduser` raises RuntimeError.
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path} cannot be read: {reason}; check the path") from error


def _open(encoded: bytes) -> Image.Image:
    """Open an image file; its pixels are decoded later."""
    Image.init()
    formats = [name for name in image_files.FORMATS if name in Image.OPEN]
    try:
        # Pillow warns about sizes that the server accepts; the server checks its own limit.
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(encoded), formats=formats)
    except Image.DecompressionBombError as error:
        raise ImageError(
            "the image has more pixels than Pillow opens: shrink it, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS and the server's limit; a TIFF file can be opened in "
            "windows of any image, with pip install 'hqsam-triton[raster]'"
        ) from error
    # Pillow's readers raise nearly anything over hostile bytes, not only OSError.
    except Exception as error:
        raise ImageError(
            f"the {len(encoded)} bytes are not an image that can be read, expected a file in one "
            f"of the formats {', '.join(formats)}"
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


def _check_range(image: Image.Image) -> None:
    """Refuse 16-bit values that are 12-bit ones, as microscopes and scanners write them."""
    brightest = int(np.asarray(image).max())
    if 0 < brightest < _DARK:
        raise ImageError(
            f"the image has 16 bits a pixel but no value above {brightest} of 65535, which the "
            "model would see as black: scale its values to 0-65535, or convert it to 8 bits"
        )


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8 and array.size:
        return Image.fromarray(np.ascontiguousarray(array))
    raise ImageError(
        f"the array is {array.dtype} {list(array.shape)}, expected uint8 [height, width, 3], "
        f"RGB, 0 to 255{_conversion(array)}"
    )


def _conversion(array: NDArray[Any]) -> str:
    """Return how to make an RGB array of bytes of an array, as the end of a message."""
    if not array.size:
        return ""
    if array.ndim == 2:
        if array.dtype == np.bool_:
            return ": convert it with np.stack([array.astype(np.uint8) * 255] * 3, axis=-1)"
        if array.dtype in (np.uint8, np.uint16, np.int32, np.float32):
            return ": a grey image can be passed as PIL.Image.fromarray(array)"
        return ": a grey image can be passed as PIL.Image.fromarray(array.astype(np.float32))"
    if array.ndim != 3:
        return ""
    if array.shape[2] == 1:
        return ": drop the last axis, and pass PIL.Image.fromarray(array[..., 0])"
    if array.shape[2] == 4:
        return ": drop the alpha channel with array[..., :3]"
    if array.shape[2] != 3:
        channels_first = array.shape[0] == 3
        return ": move the channels last with array.transpose(1, 2, 0)" if channels_first else ""
    if array.dtype == np.uint16:
        return ": convert it with (array >> 8).astype(np.uint8)"
    if np.issubdtype(array.dtype, np.floating) and np.nanmax(array) <= 1:
        return ": convert it with (array * 255).round().astype(np.uint8)"
    return ": convert it with array.round().clip(0, 255).astype(np.uint8)"


def _from_image(image: Image.Image, file_format: Literal["PPM", "PNG"]) -> Upload:
    size = image.height, image.width
    if image.mode.startswith("I;16"):
        _check_range(image)
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
