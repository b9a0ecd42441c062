"""Paths, bytes and file objects to Pillow images; whatever fails is an `ImageError`."""

from __future__ import annotations

import io
import threading
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image

from hqsam_client import image_files
from hqsam_client.errors import ImageError

HEIF = "HEIF"
"""Pillow's name of the format of HEIC files, whose pixels are sent: servers need not read it."""

# Python's warning filters are not safe to change in several threads at once.
_WARNINGS = threading.Lock()

# Brands in the header of HEIC and HEIF files. AVIF files have some of them, too.
_HEIF_BRANDS = {
    b"heic",
    b"heix",
    b"heim",
    b"heis",
    b"hevc",
    b"hevx",
    b"hevm",
    b"hevs",
    b"mif1",
    b"msf1",
}
_AVIF_BRANDS = {b"avif", b"avis"}


def read(image: Any) -> bytes:
    """Return the bytes of an image file: of a path, of bytes, or of a binary file object.

    Raises:
        ImageError: it is none of these, or cannot be read.
    """
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
        "expected an image as a path, bytes, a binary file object, a Pillow image or an array, "
        f"got an object of type {type(image).__name__}"
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


def opened(encoded: bytes) -> Image.Image:
    """Open an image file; its pixels are decoded later.

    Raises:
        ImageError: it is not one of a format that is read, or has too many pixels or none.
    """
    formats = _formats(encoded)
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


def _formats(encoded: bytes) -> list[str]:
    """Return Pillow's names of the formats that a file may have."""
    if not _is_heif(encoded):
        Image.init()
        return [name for name in image_files.FORMATS if name in Image.OPEN]
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise ImageError(
            "this is a HEIC image, which needs another package: pip install 'hqsam-triton[heif]'; "
            "or save it as JPEG or PNG"
        ) from error
    register_heif_opener()
    return [HEIF]


def _is_heif(encoded: bytes) -> bool:
    length = int.from_bytes(encoded[:4], "big")
    if encoded[4:8] != b"ftyp" or length < 16:
        return False
    # The main brand, a version, and the brands that the file is compatible with.
    header = encoded[8 : min(length, 256)]
    brands = {header[start : start + 4] for start in range(0, len(header), 4)}
    return bool(brands & _HEIF_BRANDS) and not brands & _AVIF_BRANDS


def upright(image: Image.Image) -> Image.Image:
    """Decode an image and apply its EXIF orientation.

    Raises:
        ImageError: it is truncated or damaged.
    """
    try:
        return image_files.upright(image)
    except Exception as error:
        raise damaged(error) from error


def damaged(error: Exception) -> ImageError:
    """Return the error for pixels that cannot be decoded."""
    return ImageError(f"the image is truncated or damaged: {' '.join(str(error).split())}")
