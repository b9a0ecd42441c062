"""Images of more than 8 bits a value: which range of values the model sees."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from hqsam_client import image_files
from hqsam_client.errors import ImageError
from hqsam_client.image_files import ValueRange
from hqsam_client.shared.opencv import opencv
from hqsam_client.shared.reading import damaged, upright

# Where no value reaches this share of the range, the model sees black: 12-bit values in 16 bits.
_DARK = 1 / 16

_COLOUR = ("RGB", "RGBA", "LA")


def is_deep(image: Image.Image) -> bool:
    """Tell whether an image has more than 8 bits a value; of colour before it is decoded only."""
    return image.mode[0] in "IF" or _is_deep_colour(image)


def _is_deep_colour(image: Image.Image) -> bool:
    """Tell whether a file has 16-bit colours, which Pillow cuts to their high bytes."""
    tiles = getattr(image, "tile", ())
    return image.mode in _COLOUR and any(";16" in str(tile[3]) for tile in tiles)


def limits(values: NDArray[Any], value_range: ValueRange) -> tuple[float, float]:
    """Return the values of an image that become 0 and 255, between which the model sees something.

    Args:
        values: bool, integers or floats, [height, width] or [height, width, 3].
        value_range: which of them become 0 and 255.

    Raises:
        ImageError: all would be black or white; or percentiles are the same value.
        OptionError: it is not a range.
    """
    low, high = image_files.range_of(values, value_range)
    darkest, brightest = image_files.extremes(values)
    is_flat = darkest == brightest
    for colour, is_all, is_so in (
        ("black", brightest < low + (high - low) * _DARK, is_flat and brightest <= low),
        ("white", darkest >= high, is_flat),
    ):
        if is_all and not is_so:
            raise ImageError(
                f"with {low:g} as black and {high:g} as white, the model would see the image as "
                f"{colour}: its values are {darkest:g} to {brightest:g}; pass another value_range "
                "(in the shell --value-range)"
            )
    return low, high


def seen(values: NDArray[Any], value_range: ValueRange) -> NDArray[np.uint8]:
    """Return what the model sees of values: uint8, of the same shape; see `limits`."""
    return image_files.mapped(values, *limits(values, value_range))


def check(image: Image.Image) -> None:
    """Refuse 16-bit values that are 12-bit ones, as microscopes and scanners write them.

    Args:
        image: deep, not decoded yet.

    Raises:
        ImageError: the model would see black; or it is truncated or damaged.
    """
    if _is_deep_colour(image):
        brightest = 256 * int(np.asarray(upright(image).convert("RGB")).max()) + 255
    elif image.mode.startswith("I;16"):
        brightest = int(np.asarray(upright(image)).max())
    else:
        return
    if 0 < brightest < 65536 * _DARK:
        most = 2 ** brightest.bit_length() - 1
        raise ImageError(
            f"the image has 16 bits a value but none above {brightest} of 65535, which the model "
            f"would see as black: pass value_range=(0, {most}), or whichever values are black and "
            f"white (in the shell --value-range 0,{most})"
        )


def rgb(image: Image.Image, encoded: bytes | None, value_range: ValueRange) -> Image.Image:
    """Return what the model sees of a deep image: upright, of mode RGB, original pixels.

    Args:
        image: not decoded yet.
        encoded: the file that it is of; None if there is none.
        value_range: see `limits`.

    Raises:
        ImageError: as `limits`; or it is truncated or damaged, or its colours are cut already.
        MissingPackageError: it has 16-bit colours, and OpenCV is not installed.
    """
    if not _is_deep_colour(image):
        return Image.fromarray(seen(np.asarray(upright(image)), value_range)).convert("RGB")
    if encoded is None:
        raise ImageError(
            "Pillow cuts 16-bit colours to 8 bits, so value_range comes too late: pass the file, "
            "or an array"
        )
    cv2 = opencv("value_range for files of 16-bit colours")
    try:
        values = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise damaged(error) from error
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise damaged(ValueError("OpenCV finds no 16-bit colours in it"))
    mapped = Image.fromarray(seen(values[..., 2::-1], value_range))
    if image.format == "TIFF":
        return mapped  # OpenCV turned it upright
    mapped.getexif()[ExifTags.Base.Orientation] = image_files.orientation(image)
    return upright(mapped)
