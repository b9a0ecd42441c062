"""Label Studio's run-length encoding of brush masks.

The encoding is a stream of bits. Header: the number of values (32 bits), the bits of a value
minus 1 (5 bits), and the four possible widths of a run's length minus 1 (4 bits each). Each run:
whether it repeats one value (1 bit), the index of its width (2 bits), its length minus 1, and its
value, or as many values as it is long. Values are 0 to 255, four for each pixel: red, green, blue
and alpha.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WIDTHS = (3, 4, 8, 16)


def encode(mask: NDArray[np.bool_]) -> list[int]:
    """Return a mask, bool [height, width], as bytes of the encoding."""
    flat = mask.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate(([0], edges))
    lengths = 4 * np.diff(np.concatenate((starts, [flat.size])))
    bits = [f"{4 * flat.size:032b}{8 - 1:05b}", *(f"{width - 1:04b}" for width in _WIDTHS)]
    for value, length in zip(flat[starts].tolist(), lengths.tolist(), strict=True):
        for start in range(0, length, 1 << _WIDTHS[-1]):
            rest = min(length - start, 1 << _WIDTHS[-1]) - 1
            number = next(i for i, width in enumerate(_WIDTHS) if rest < 1 << width)
            bits.append(f"1{number:02b}{rest:0{_WIDTHS[number]}b}{255 * value:08b}")
    stream = "".join(bits)
    return [int(stream[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(stream), 8)]


def decode(rle: list[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask of an encoding, bool [height, width]: where alpha is not 0.

    Raises:
        ValueError: it is no encoding of a mask of this size.
    """
    stream = "".join(f"{byte:08b}" for byte in bytes(rle))
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(stream[at - count : at], 2)

    count, bits = take(32), take(5) + 1
    height, width = size
    if count != 4 * height * width:
        raise ValueError(f"the brush has {count} values, expected {4 * height * width}")
    widths = [take(4) + 1 for _ in range(4)]
    values = np.zeros(count, np.uint8)
    done = 0
    while done < count:
        repeats, length = take(1), take(widths[take(2)]) + 1
        if repeats:
            values[done : done + length] = take(bits)
        else:
            values[done : done + length] = [take(bits) for _ in range(length)]
        done += length
    alpha: NDArray[np.bool_] = values.reshape(height, width, 4)[..., 3] > 0
    return alpha
