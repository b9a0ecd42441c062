"""Damaged image files, each made from an ordinary one by its number."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from hqsam_testing.image_files import encoded
from hqsam_testing.oracle import images
from PIL import Image, ImageCms, features

# Numbers that break arithmetic on sizes and counts.
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@cache
def seeds() -> tuple[bytes, ...]:
    """Return ordinary files of every format, in many of its kinds."""
    image = Image.fromarray(images.draw(48, 32))
    frames = [Image.new("RGB", (48, 32), (n * 40, 0, 0)) for n in range(5)]
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    animated = {"save_all": True, "append_images": frames}
    kinds: list[tuple[Image.Image, str, dict[str, object]]] = [
        (image, "JPEG", {"exif": exif, "icc_profile": profile}),
        (image, "JPEG", {"progressive": True, "subsampling": 2, "restart_marker_blocks": 2}),
        (image.convert("CMYK"), "JPEG", {}),
        (image, "PNG", {"exif": exif, "icc_profile": profile}),
        (image.quantize(16), "PNG", {"transparency": 3}),
        (image.convert("RGBA"), "PNG", animated),
        (Image.fromarray(np.arange(1536, dtype=np.uint16).reshape(32, 48)), "PNG", {}),
        (image, "WEBP", {"exif": exif}),
        (image, "WEBP", {"lossless": True}),
        (image, "WEBP", animated),
        (image.quantize(16), "GIF", animated),
        (image, "TIFF", {}),
        (image, "TIFF", {"compression": "tiff_lzw"}),
        (image, "TIFF", {"compression": "tiff_deflate"}),
        (image, "TIFF", {"compression": "jpeg"}),
        (image.convert("1"), "TIFF", {"compression": "group4"}),
        (image.convert("F"), "TIFF", {}),
        (image, "BMP", {}),
        (image.quantize(16), "BMP", {}),
        (image, "PPM", {}),
        (image, "JPEG2000", {"num_resolutions": 3}),
        (image, "MPO", {"save_all": True, "append_images": frames[:1]}),
    ]
    if features.check("avif"):
        kinds.append((image, "AVIF", {"speed": 10}))
    files = [encoded(image, name, **options) for image, name, options in kinds]
    numbers = " ".join(map(str, np.asarray(image).ravel())).encode()
    return (*files, b"P3 48 32 255\n# plain\n" + numbers)


def mutated(number: int) -> bytes:
    """Return a damaged file; the same for the same number."""
    random = np.random.default_rng(number)
    seed = seeds()[number % len(seeds())]
    data = bytearray(seed)
    if data.startswith(b"\xff\xd8") and random.random() < 0.5:
        _rearrange(random, data)
    for _ in range(int(random.integers(0 if data != seed else 1, 4))):
        if data:
            _MUTATIONS[random.integers(len(_MUTATIONS))](random, data)
    # Wrong checksums would keep damaged data from the decoders.
    if data.startswith(b"\x89PNG") and random.random() < 0.8:
        return _with_checksums(bytes(data))
    return bytes(data)


def _place(random: np.random.Generator, data: bytearray) -> int:
    """Return a place, half of the time within the header."""
    end = len(data) if random.random() < 0.5 else min(len(data), 200)
    return int(random.integers(end))


def _flip(random: np.random.Generator, data: bytearray) -> None:
    data[_place(random, data)] ^= 1 << int(random.integers(8))


def _overwrite(random: np.random.Generator, data: bytearray) -> None:
    place, width = _place(random, data), int(random.choice([1, 2, 4]))
    number = _NUMBERS[random.integers(len(_NUMBERS))] & (256**width - 1)
    data[place : place + width] = number.to_bytes(width, ("big", "little")[random.integers(2)])


def _remove(random: np.random.Generator, data: bytearray) -> None:
    place = _place(random, data)
    del data[place : place + int(random.integers(1, 64))]


def _repeat(random: np.random.Generator, data: bytearray) -> None:
    place = _place(random, data)
    part = data[place : place + int(random.integers(1, 64))]
    data[place:place] = part * int(random.integers(1, 50))


def _insert(random: np.random.Generator, data: bytearray) -> None:
    place = _place(random, data)
    data[place:place] = random.bytes(int(random.integers(1, 64)))


def _cut(random: np.random.Generator, data: bytearray) -> None:
    del data[int(random.integers(len(data))) :]


def _cross(random: np.random.Generator, data: bytearray) -> None:
    other = seeds()[random.integers(len(seeds()))]
    place = _place(random, data)
    data[place:] = other[min(place, len(other)) :]


# Markers of frames, scans, tables, restarts, metadata and comments; reserved ones; the end.
_MARKERS = (
    0xC0,
    0xC2,
    0xC4,
    0xD0,
    0xD9,
    0xDA,
    0xDB,
    0xDD,
    0xE0,
    0xE1,
    0xE2,
    0xFE,
    0x01,
    0x02,
    0xF0,
)


def jpeg_segments(data: bytes) -> list[bytes]:
    """Return the parts of a JPEG file: its start, then each segment with what follows it.

    A segment is a marker, a length and as many bytes; pixels, restarts and the end follow a scan.
    """
    starts, place = [0], 2
    while 0 <= (place := data.find(b"\xff", place)) < len(data) - 3:
        marker = data[place + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:
            place += 1
            continue
        starts.append(place)
        place += 2 + max(2, int.from_bytes(data[place + 2 : place + 4], "big"))
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def _rearrange(random: np.random.Generator, data: bytearray) -> None:
    """Repeat, move, drop or empty a segment of a JPEG file, give it another marker or length."""
    parts = jpeg_segments(bytes(data))
    if len(parts) < 3:
        return
    number = int(random.integers(1, len(parts)))
    part, action = bytearray(parts[number]), random.integers(6)
    if action == 0:
        parts[number:number] = [bytes(part)] * int(random.choice([1, 10, 300]))
    elif action == 1:
        parts.insert(int(random.integers(1, len(parts))), parts.pop(number))
    elif action == 2:
        del parts[number]
    elif action == 3:
        parts[number] = bytes(part[:2]) + b"\0\2"
    elif action == 4:
        part[1] = _MARKERS[random.integers(len(_MARKERS))]
        parts[number] = bytes(part)
    else:
        marker = bytes([0xFF, _MARKERS[random.integers(len(_MARKERS))]])
        parts[number] = marker + bytes(part)
    data[:] = b"".join(parts)


_MUTATIONS: tuple[Callable[[np.random.Generator, bytearray], None], ...] = (
    *(_flip, _overwrite, _overwrite, _remove, _repeat, _insert, _cut, _cross),
)


def _with_checksums(data: bytes) -> bytes:
    """Return a PNG file with the checksums that its chunks should have."""
    reader, out = io.BytesIO(data), io.BytesIO()
    out.write(reader.read(8))
    while head := reader.read(8):
        body = reader.read(int.from_bytes(head[:4], "big") if len(head) == 8 else 0)
        out.write(head + body)
        if reader.read(4):
            out.write(struct.pack(">I", zlib.crc32(head[4:] + body)))
    return out.getvalue()
