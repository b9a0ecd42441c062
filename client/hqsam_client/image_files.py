"""Image files: the formats, the upright size, the orientation, and the way to 8-bit RGB.

The client and the server both follow the rules of this module, so that coordinates, masks and
overlays fit what the model sees:

- the EXIF orientation is applied; an EXIF block that cannot be read counts as none;
- an animated image is its first frame;
- transparency is dropped, not blended: the colours under it count, as they do in the
  official code's reader;
- 16-bit grey is cut to its high byte;
- 32-bit integers and floats have no fixed range: their smallest finite value becomes 0,
  their largest 255;
- a `ValueRange` replaces the last two rules: the client maps the values and sends 8 bits;
- palettes, grey, CMYK, YCbCr and Lab are converted by Pillow; ICC profiles are ignored.
"""

from __future__ import annotations

import io
import math
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from hqsam_client.errors import ImageError, OptionError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that the server reads; AVIF where Pillow was built with it.

The client reads HEIF, too, and sends its pixels."""

IMAGE_ENDINGS = frozenset(
    [
        ".apng",
        ".avif",
        ".bmp",
        ".gif",
        ".heic",
        ".heif",
        ".hif",
        ".j2k",
        ".jp2",
        ".jpeg",
        ".jpg",
        ".mpo",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
"""Endings of the names of image files that the client reads, in lower case, with the dot."""


@dataclass(frozen=True)
class Percentiles:
    """A `ValueRange` that each image has of its own, so that a few extreme values do not matter.

    Attributes:
        low: the percentile of the image's finite values that becomes 0, and what lies below it.
        high: the percentile that becomes 255, and what lies above it.

    Raises:
        OptionError: they are not two different percentiles, 0 to 100, the smaller first.
    """

    low: float = 2.0
    high: float = 98.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise OptionError(
                f"the percentiles are {self.low:g} and {self.high:g}, expected two of 0 to 100, "
                "the smaller first"
            )


ValueRange: TypeAlias = "tuple[float, float] | Percentiles"
"""Which values of an image become 0 and 255: (low, high), or percentiles."""

# EXIF orientations that swap width and height.
_SIDEWAYS = (5, 6, 7, 8)

# Where Pillow keeps metadata that can hold an orientation.
_METADATA = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, without decoding a pixel; 1 if there is none."""
    # Pillow's readers raise nearly anything over a damaged EXIF block.
    with suppress(Exception):
        value = _exif(image).get(ExifTags.Base.Orientation, 1)
        return next((known for known in range(1, 9) if value == known), 1)
    return 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (height, width) of the upright image, in pixels, without decoding one."""
    if orientation(image) not in _SIDEWAYS:
        return image.height, image.width
    if image.format == "TIFF":
        # Newer releases of Pillow swap `size` when they open a TIFF file, older ones when
        # they decode it. The tags are those of the file in all of them.
        tags = getattr(image, "tag_v2")  # noqa: B009
        return int(tags[ExifTags.Base.ImageWidth]), int(tags[ExifTags.Base.ImageLength])
    return image.width, image.height


def upright(image: Image.Image) -> Image.Image:
    """Decode an image and apply its EXIF orientation; raises what Pillow raises."""
    image.load()
    if orientation(image) == 1:
        return image
    # Pillow also writes the metadata anew, and fails over damaged ones.
    info = image.info
    image.info = {key: value for key, value in info.items() if key not in _METADATA}
    try:
        return ImageOps.exif_transpose(image)
    finally:
        image.info = info


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a decoded image as a new one of mode RGB, as the model sees it; see the module."""
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
    elif image.mode in ("I", "F"):
        grey = _stretched(np.asarray(image))
    else:
        return image.convert("RGB")
    return Image.fromarray(grey).convert("RGB")


def extremes(values: NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and the largest finite value of an array; 0, 0 if there is none.

    Rows are read one by one: a copy of a whole image would take many times its memory.
    """
    ranges = [
        (row[finite].min(), row[finite].max())
        for row in values
        if (finite := np.isfinite(row)).any()
    ]
    low = float(min((row_low for row_low, _ in ranges), default=0.0))
    high = float(max((row_high for _, row_high in ranges), default=0.0))
    return low, high


def range_of(values: NDArray[Any], value_range: ValueRange) -> tuple[float, float]:
    """Return the values of an image that become 0 and 255, for `mapped`.

    Args:
        values: bool, integers or floats, [height, width] or [height, width, 3]; the percentiles
            are those of all channels together, which keeps the colours.
        value_range: both values, which are returned, or percentiles.

    Raises:
        OptionError: it is not a range.
        ImageError: the image has no finite value, or both percentiles are the same value.
    """
    check_range(value_range)
    if not isinstance(value_range, Percentiles):
        low, high = map(float, value_range)
        return low, high
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        raise ImageError("the image has no finite value, so it has no percentiles")
    if finite.dtype == np.bool_:
        finite = finite.astype(np.uint8)  # NumPy has no percentiles of booleans
    percents = value_range.low, value_range.high
    low, high = map(float, np.percentile(finite, percents))
    if low == high:
        raise ImageError(
            f"percentiles {percents[0]:g} and {percents[1]:g} of the image's values are both "
            f"{low:g}: choose others, or give the values that become black and white"
        )
    return low, high


def check_range(value_range: ValueRange) -> None:
    """Raise `OptionError` unless it is percentiles, or two finite numbers, the smaller first."""
    if isinstance(value_range, Percentiles):
        return
    try:
        low, high = map(float, value_range)
        is_range = 0 < high - low < math.inf
    except (TypeError, ValueError):
        is_range = False
    if not is_range:
        raise OptionError(
            f"value_range is {value_range!r}, expected Percentiles or (low, high): two finite "
            "numbers, the smaller first"
        )


def mapped(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Map values from `low` to `high` to 0 to 255, rounded; other values go to the nearer end.

    Args:
        values: bool, integers or floats, [height, width] or [height, width, channels]. What is
            not a number becomes 0.
        low: what becomes 0.
        high: what becomes 255.

    Returns:
        A new array of the same shape.

    Raises:
        OptionError: `low` and `high` are not two finite numbers, the smaller first.
    """
    check_range((low, high))
    scale = 255.0 / (high - low)
    grey = np.empty(values.shape, np.uint8)
    # Rows one by one: float64 of a whole image would take many times its memory.
    for row, out in zip(values, grey, strict=True):
        exact = np.nan_to_num(row.astype(np.float64), nan=low, posinf=high, neginf=low)
        out[:] = np.rint((np.clip(exact, low, high) - low) * scale)
    return grey


def _stretched(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Map the range of the finite values to 0 to 255; other values go to the nearer end."""
    low, high = extremes(values)
    if low == high:
        return (values > high) * np.uint8(255)
    return mapped(values, low, high)


def _exif(image: Image.Image) -> Image.Exif:
    file = getattr(image, "fp", None)
    if image.format != "PNG" or "exif" in image.info or file is None:
        return image.getexif()
    # A PNG file may have its EXIF block after the pixels. Pillow would decode them to get there.
    with Image.open(io.BytesIO(_without_pixels(file))) as bare:
        return Image.Image.getexif(bare)


def _without_pixels(file: IO[bytes]) -> bytes:
    """Return a PNG file without its pixels; leaves the file's position as it was."""
    position = file.tell()
    kept = [_PNG_SIGNATURE]
    file.seek(len(_PNG_SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            break
        if kind in (b"IDAT", b"fdAT"):
            file.seek(length + 4, io.SEEK_CUR)
        else:
            kept += [head, file.read(length + 4)]
    file.seek(position)
    return b"".join([*kept, _PNG_END])
