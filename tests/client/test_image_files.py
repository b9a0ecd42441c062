"""Image files: upright size and orientation without decoding, and the way to RGB."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hqsam_client import ImageError, OptionError, Percentiles, image_files
from hqsam_testing.oracle import images
from numpy.typing import NDArray
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
    pillow_heif.register_heif_opener()
    known = Image.registered_extensions()
    read = {*image_files.FORMATS, "HEIF"}
    assert {known[ending] for ending in image_files.IMAGE_ENDINGS} == read


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


@pytest.mark.parametrize("shape", [(4, 3), (2, 2, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float16, np.float32])
def test_values_between_two_are_mapped_and_others_go_to_the_nearer_end(
    shape: tuple[int, ...], dtype: type
) -> None:
    values: NDArray[Any] = np.linspace(0, 110, 12).astype(dtype).reshape(shape)
    seen = image_files.mapped(values, 10, 61)
    assert seen.dtype == np.uint8
    expected = [0, 0, 50, 100, 150, 200, 250, 255, 255, 255, 255, 255]
    assert seen.reshape(-1).tolist() == expected


def test_8_bit_values_survive_as_floats() -> None:
    values = np.arange(256, dtype=np.uint8)[None]
    for dtype in (np.float16, np.float32, np.float64):
        floats = (values / 255).astype(dtype)
        np.testing.assert_array_equal(image_files.mapped(floats, 0, 1), values)


def test_what_is_not_finite_is_mapped_to_an_end() -> None:
    values = np.array([[np.nan, -np.inf, np.inf, 0.5]])
    assert image_files.mapped(values, 0, 1).tolist() == [[0, 0, 255, 128]]


def test_percentiles_are_those_of_the_finite_values_of_all_channels() -> None:
    values = np.arange(303, dtype=np.float32).reshape(1, 101, 3)
    values[0, 0, 0], values[0, -1, -1] = np.nan, np.inf
    assert image_files.range_of(values, Percentiles(0, 100)) == (1, 301)
    low, high = image_files.range_of(values, Percentiles(10, 75))
    assert (low, high) == (31, 226)
    assert image_files.range_of(values, (3, 7)) == (3.0, 7.0)
    flags = np.arange(10).reshape(2, 5) > 6
    assert image_files.range_of(flags, Percentiles(2, 98)) == (0, 1)


def test_percentiles_of_one_value_or_of_none_are_no_range() -> None:
    with pytest.raises(ImageError, match=r"percentiles 2 and 98 .* both 7: choose others"):
        image_files.range_of(np.full((3, 4), 7), Percentiles())
    with pytest.raises(ImageError, match="no finite value"):
        image_files.range_of(np.full((3, 4), np.nan), Percentiles())


@pytest.mark.parametrize(
    "value_range", [(5, 5), (6, 5), (0, np.inf), (np.nan, 1), (1,), (1, 2, 3), "ab", 7, (None, 1)]
)
def test_what_is_no_range_is_refused(value_range: Any) -> None:
    with pytest.raises(OptionError, match=r"expected Percentiles or .* two finite numbers"):
        image_files.check_range(value_range)


@pytest.mark.parametrize("percents", [(5, 5), (98, 2), (-1, 50), (50, 101), (np.nan, 98)])
def test_what_are_no_percentiles_is_refused(percents: tuple[float, float]) -> None:
    with pytest.raises(OptionError, match="expected two of 0 to 100, the smaller first"):
        Percentiles(*percents)
