"""Encoded images for tests, good and bad."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hqsam_testing.oracle import images


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """Return a Pillow image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int = 60, height: int = 40, mark: int = 0) -> bytes:
    """Return a small image; another `mark` makes it another image."""
    pixels = np.array(images.draw(width, height))
    pixels[0, 0] = mark
    return encoded(Image.fromarray(pixels))


def bomb(width: int = 100_000, height: int = 100_000) -> bytes:
    """Return a small PNG whose header promises ten thousand million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000))
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    )


def embedding_arrays(value: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return arrays shaped like `image_embeddings` and `hq_features`."""
    return (
        np.full((1, 256, 64, 64), value, np.float32),
        np.full((1, 32, 256, 256), -value, np.float32),
    )
