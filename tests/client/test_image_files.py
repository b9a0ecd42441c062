"""Image files: upright size and orientation without decoding, and the way to RGB."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hqsam_client import image_files
from hqsam_testing.oracle import images
from PIL import Image, ImageFile, ImageOps

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "MPO")


def oriented(orientation: int, file_format: str, **exif: Any) -> bytes:
    """Return an image of 60 x 40 pixels with an EXIF block."""
    block = Image.Exif()
    block[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(images.draw(60, 40)).save(buffer, file_format, exif=block, **exif)
    return buffer.getvalue()


def with_exif_after_the_pixels(png: bytes) -> bytes:
    start = png.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(png[start : start + 4], "big")
    last = png.index(b"IEND") - 4
    return png[:start] + png[end:last] + png[start:end] + png[last:]


def opened(data: bytes) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_size_is_that_of_the_upright_image(orientation: int, file_format: str) -> None:
    data = oriented(orientation, file_format)
    size = image_files.upright_size(opened(data))
    assert size == ((60, 40) if orientation >= 5 else (40, 60))
    image = opened(data)
    upright = image_files.upright(image)
    assert upright.size == size[::-1]
    assert image_files.upright_size(image) == size, "the image itself is as it was"
    assert image_files.upright_size(upright) == size, "upright images are upright"


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_exif_block_after_the_pixels_of_a_png_counts(orientation: int) -> None:
    data = with_exif_after_the_pixels(oriented(orientation, "PNG"))
    image = opened(data)
    assert image_files.orientation(image) == orientation
    assert image_files.upright_size(image) == image_files.upright(image).size[::-1]


@pytest.mark.parametrize("orientation", [None, 6])
def test_the_size_of_a_png_is_read_without_decoding_its_pixels(orientation: int | None) -> None:
    data = with_exif_after_the_pixels(oriented(orientation or 1, "PNG"))
    if orientation is None:
        data = data[: data.index(b"eXIf") - 4] + data[data.index(b"IEND") - 4 :]
    image = opened(data)
    assert image_files.upright_size(image) == ((60, 40) if orientation else (40, 60))
    assert image.tile, "the pixels have been decoded"
    image.load()
    assert not image.tile
    assert image.getpixel((59, 39)) == tuple(images.draw(60, 40)[39, 59])


def test_a_damaged_exif_block_still_gives_the_orientation() -> None:
    block = Image.Exif()
    block[0x010F], block[0x0112] = "mak", 6
    damaged = bytearray(block.tobytes())
    # A text where the tag wants a number: Pillow reads it, but cannot write it again.
    damaged[17] = 0
    image = Image.new("RGB", (60, 40))
    image.info["exif"] = bytes(damaged)
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(image)
    assert image_files.upright(image).size == (40, 60)
    assert image.info["exif"] == bytes(damaged), "the image itself is as it was"


def test_an_exif_block_that_cannot_be_read_counts_as_none() -> None:
    image = Image.new("RGB", (60, 40))
    image.info["exif"] = b"Exif\0\0MM nothing"
    assert image_files.orientation(image) == 1
    assert image_files.upright(image).size == (60, 40)


def test_every_ending_is_one_of_a_format_that_is_read() -> None:
    Image.init()
    known = Image.registered_extensions()
    assert {known[ending] for ending in image_files.IMAGE_ENDINGS} == set(image_files.FORMATS)


@pytest.mark.parametrize(
    "make",
    [
        lambda ramp: (ramp * 256 + 37).astype(np.uint16),
        lambda ramp: ramp.astype(np.float32) / 51 - 2,
        lambda ramp: ramp.astype(np.int32) * 1000 - 7,
        lambda ramp: ramp.astype(np.uint8),
    ],
    ids=["16-bit", "float", "32-bit", "8-bit"],
)
def test_grey_of_any_depth_becomes_the_rgb_that_the_model_sees(make: Callable[[Any], Any]) -> None:
    ramp = np.arange(256).reshape(16, 16)
    rgb = np.asarray(image_files.to_rgb(Image.fromarray(make(ramp))))
    assert rgb.shape == (16, 16, 3)
    for channel in range(3):
        np.testing.assert_allclose(rgb[..., channel], ramp, atol=1)


def test_what_is_not_finite_goes_to_the_nearer_end() -> None:
    values = np.array([[0, 10, np.inf, -np.inf, np.nan]], np.float32)
    grey = np.asarray(image_files.to_rgb(Image.fromarray(values)))[0, :, 0]
    assert grey.tolist() == [0, 255, 255, 0, 0]
