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
- palettes, grey, CMYK, YCbCr and Lab are converted by Pillow; ICC profiles are ignored.
"""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that the server reads; AVIF where Pillow was built with it."""

IMAGE_ENDINGS = frozenset(
    [
        ".apng",
        ".avif",
        ".bmp",
        ".gif",
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
"""Endings of the names of image files, in lower case, with the dot."""

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


def _stretched(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Map the range of the finite values to 0 to 255; other values go to the nearer end.

    Rows are computed one by one: float64 of a whole image would take many times its memory.
    """
    ranges = [
        (row[finite].min(), row[finite].max())
        for row in values
        if (finite := np.isfinite(row)).any()
    ]
    low = float(min((row_low for row_low, _ in ranges), default=0.0))
    high = float(max((row_high for _, row_high in ranges), default=0.0))
    scale = 255.0 / (high - low) if high > low else 0.0
    grey = np.empty(values.shape, np.uint8)
    for row, out in zip(values, grey, strict=True):
        exact = np.nan_to_num(row.astype(np.float64), nan=low, posinf=high, neginf=low)
        out[:] = ((exact - low) * scale).astype(np.uint8)
    return grey


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
