"""Encoded images for tests, good and bad."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import ExifTags, Image

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


def heic(image: Image.Image, orientation: int = 1) -> bytes:
    """Return a Pillow image as a phone's file.

    Args:
        image: as it is stored.
        orientation: of EXIF, 1 to 8: how it is to be turned upright.
    """
    file = pillow_heif.from_pillow(image)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file.info["exif"] = exif.tobytes()
    buffer = io.BytesIO()
    file.save(buffer)
    return buffer.getvalue()


def tiff_16_bit(values: NDArray[np.integer[Any]], orientation: int = 1) -> bytes:
    """Return a TIFF file of 16-bit colours, which Pillow cannot write.

    Args:
        values: 0 to 65535, [height, width, channels], RGB or RGBA.
        orientation: of TIFF, 1 to 8: how it is to be turned upright.
    """
    height, width, channels = values.shape
    pixels = values.astype("<u2").tobytes()
    bits = struct.pack(f"<{channels}H", *[16] * channels)
    short, long, count = 3, 4, 10
    where = 8 + 2 + 12 * count + 4
    tags = [
        (ExifTags.Base.ImageWidth, long, 1, width),
        (ExifTags.Base.ImageLength, long, 1, height),
        (ExifTags.Base.BitsPerSample, short, channels, where),
        (ExifTags.Base.Compression, short, 1, 1),
        (ExifTags.Base.PhotometricInterpretation, short, 1, 2),
        (ExifTags.Base.StripOffsets, long, 1, where + len(bits)),
        (ExifTags.Base.Orientation, short, 1, orientation),
        (ExifTags.Base.SamplesPerPixel, short, 1, channels),
        (ExifTags.Base.RowsPerStrip, long, 1, height),
        (ExifTags.Base.StripByteCounts, long, 1, len(pixels)),
    ]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, count)
    return head + entries + struct.pack("<I", 0) + bits + pixels


def png_16_bit(values: NDArray[np.integer[Any]]) -> bytes:
    """Return a PNG file of 16-bit colours, which Pillow cannot write.

    Args:
        values: 0 to 65535, [height, width, channels], grey and alpha, RGB, or RGBA.
    """
    height, width, channels = values.shape
    kind = {2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return _png(header, zlib.compress(rows))


def bomb(width: int = 100_000, height: int = 100_000) -> bytes:
    """Return a small PNG whose header promises ten thousand million pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return _png(header, zlib.compress(bytes(1_000_000)))


def _png(header: bytes, pixels: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    )


def embedding_arrays(value: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return arrays shaped like `image_embeddings` and `hq_features`."""
    return (
        np.full((1, 256, 64, 64), value, np.float32),
        np.full((1, 32, 256, 256), -value, np.float32),
    )
