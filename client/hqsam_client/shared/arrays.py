"""Arrays to RGB images of 8 bits; nothing about an array is guessed."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hqsam_client import image_files
from hqsam_client.errors import ImageError, OptionError
from hqsam_client.image_files import ValueRange
from hqsam_client.shared.depth import seen

Channels: TypeAlias = Literal["rgb", "bgr", "rgba", "bgra", "grey"]
"""What an array's last axis holds; "grey" is an array of two axes. Alpha is dropped."""

_CHANNELS: tuple[Channels, ...] = get_args(Channels)
_BOOLS_INTEGERS_FLOATS = "buif"


def check_arguments(image: Any, channels: Channels, value_range: ValueRange | None) -> None:
    """Raise `OptionError` unless an image of any form can have such channels and such a range."""
    if channels not in _CHANNELS:
        raise OptionError(
            f"channels is {channels!r}, expected one of {', '.join(map(repr, _CHANNELS))}"
        )
    if channels != "rgb" and not isinstance(image, np.ndarray):
        raise OptionError(
            f"channels is {channels!r}, which is for arrays: files and Pillow images say "
            "themselves what they hold"
        )
    if value_range is not None:
        image_files.check_range(value_range)


def rgb(array: NDArray[Any], channels: Channels, value_range: ValueRange | None) -> Image.Image:
    """Return what the model sees of an array: mode RGB, original pixels.

    Args:
        array: [height, width] or [height, width, channels]; uint8, or with a `value_range` bool,
            integers or floats.
        channels: what the array holds.
        value_range: which values become 0 and 255, unless the array is uint8.

    Raises:
        ImageError: it is another array; or as `depth.limits`.
        OptionError: `value_range` is not a range.
    """
    is_typed = array.dtype == np.uint8 or (
        value_range is not None and array.dtype.kind in _BOOLS_INTEGERS_FLOATS
    )
    if not (array.size and is_typed and _fits(array, channels)):
        dtype = "uint8" if value_range is None else "bool, integers or floats"
        raise ImageError(
            f"the array is {array.dtype} {list(array.shape)}, expected {dtype} "
            f"{_shape(channels)} for channels={channels!r}{_advice(array, channels, value_range)}"
        )
    if channels.startswith("rgb"):
        array = array[..., :3]
    elif channels.startswith("bgr"):
        array = array[..., 2::-1]
    if array.dtype != np.uint8:
        assert value_range is not None  # noqa: S101 - as checked
        array = seen(array, value_range)
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _fits(array: NDArray[Any], channels: Channels) -> bool:
    if channels == "grey":
        return array.ndim == 2
    return array.ndim == 3 and array.shape[2] == len(channels)


def _shape(channels: Channels) -> str:
    return "[height, width]" if channels == "grey" else f"[height, width, {len(channels)}]"


def _advice(array: NDArray[Any], channels: Channels, value_range: ValueRange | None) -> str:
    """Return what to pass instead, as the end of a message."""
    if not array.size or array.dtype.kind not in _BOOLS_INTEGERS_FLOATS:
        return ""
    if array.ndim == 3 and array.shape[2] == 1:
        return ": pass array[..., 0] with channels='grey'"
    fitting = [known for known in _CHANNELS if _fits(array, known)]
    if not fitting:
        first = array.ndim == 3 and array.shape[0] in (3, 4)
        return ": move the channels last with array.transpose(1, 2, 0)" if first else ""
    advice = [] if channels in fitting else [" or ".join(f"channels={it!r}" for it in fitting)]
    if array.dtype != np.uint8 and value_range is None:
        advice.append(f"value_range={_likely_range(array)}, the values that become 0 and 255")
    return f": pass {' and '.join(advice)}"


def _likely_range(array: NDArray[Any]) -> str:
    low, high = image_files.extremes(array)
    for most in (1, 255):
        if low >= 0 and high <= most:
            return f"(0, {most})"
    return "Percentiles(2, 98) or (low, high)"
