from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hqsam_client.contract import resized_size
from hqsam_server.errors import BadRequestError
from hqsam_server.models.preprocess import Limits, Preprocessor
from hqsam_testing import image_files
from hqsam_testing.oracle import images
from hqsam_testing.preprocess import preprocess
from numpy.typing import NDArray
from PIL import Image, ImageCms

MEAN = np.array([123.675, 116.28, 103.53]).reshape(1, 3, 1, 1)
STD = np.array([58.395, 57.12, 57.375]).reshape(1, 3, 1, 1)


def pixels_of(encoded: bytes) -> NDArray[np.float64]:
    """Return what the encoder sees of an image, back in units of 0 to 255, [3, h, w]."""
    image, (height, width) = preprocess(encoded, Limits())
    new_height, new_width = resized_size((height, width))
    pixels: NDArray[np.float64] = (image * STD + MEAN)[0, :, :new_height, :new_width]
    return pixels


@pytest.mark.parametrize("name", images.SIZES)
def test_an_image_is_scaled_normalised_and_padded_as_by_the_official_code(name: str) -> None:
    width, height = images.SIZES[name]
    pixels = images.draw(width, height)
    image, size = preprocess(image_files.encoded(Image.fromarray(pixels)), Limits())

    assert size == (height, width)
    assert image.shape == (1, 3, 1024, 1024)
    assert image.dtype == np.float32
    scale = 1024 / max(height, width)
    new_height, new_width = int(height * scale + 0.5), int(width * scale + 0.5)
    assert not image[:, :, new_height:].any()
    assert not image[:, :, :, new_width:].any()
    # An implementation that shares nothing with Pillow; it rounds once where Pillow
    # rounds after each axis.
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].double(),
        (new_height, new_width),
        mode="bilinear",
        antialias=True,
    )
    difference = (image * STD + MEAN)[:, :, :new_height, :new_width] - expected.numpy()
    assert np.abs(difference).max() <= 1.01
    assert np.abs(difference).mean() < 0.3


def test_an_image_of_the_models_size_is_only_normalised() -> None:
    pixels = images.draw(1024, 700)
    image, _ = preprocess(image_files.encoded(Image.fromarray(pixels)), Limits())
    expected = (torch.from_numpy(pixels).permute(2, 0, 1) - torch.tensor(MEAN[0]).float()) / (
        torch.tensor(STD[0]).float()
    )
    assert np.array_equal(image[0, :, :700], expected.numpy())


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20000, 1), (1, 20000)])
def test_images_of_extreme_shapes_are_read(width: int, height: int) -> None:
    image, size = preprocess(
        image_files.encoded(Image.new("RGB", (width, height), (200, 10, 30))), Limits()
    )
    assert size == (height, width)
    assert np.allclose((image * STD + MEAN)[0, :, 0, 0], [200, 10, 30], atol=1e-4)


COLOUR = (200, 80, 40)


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [("RGBA", "PNG"), ("P", "PNG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("LAB", "TIFF")],
)
def test_every_mode_with_colours_keeps_them(mode: str, file_format: str) -> None:
    image: Image.Image | None = Image.new("RGB", (8, 8), COLOUR)
    assert image is not None
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.applyTransform(image, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    elif mode == "P":
        image = image.quantize()
    else:
        image = image.convert(mode)
    assert image is not None
    assert image.mode == mode
    pixels = pixels_of(image_files.encoded(image, file_format))
    assert np.allclose(pixels[:, 0, 0], COLOUR, atol=8)


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    jpeg = image_files.encoded(Image.new("RGB", (16, 16), COLOUR).convert("CMYK"), "JPEG")
    assert np.allclose(pixels_of(jpeg)[:, 5, 5], COLOUR, atol=8)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_becomes_three_equal_channels(mode: str) -> None:
    level = 255 if mode == "1" else 90
    pixels = pixels_of(image_files.encoded(Image.new("L", (8, 8), level).convert(mode)))
    assert np.allclose(pixels, level, atol=1e-3)


def test_transparency_is_dropped_and_not_blended() -> None:
    pixels = pixels_of(image_files.encoded(Image.new("RGBA", (8, 8), (*COLOUR, 0))))
    assert np.allclose(pixels[:, 0, 0], COLOUR, atol=1e-3)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_cut_to_its_high_byte(file_format: str) -> None:
    grey = np.array([[0, 255, 256, 0x8000, 0xFFFF]], np.uint16)
    image = Image.fromarray(np.repeat(grey, 1024 // 5 + 1, axis=1)[:, :1024])
    pixels = pixels_of(image_files.encoded(image, file_format))
    assert np.allclose(pixels[0, 0, [0, 300, 500, 700, 1000]], [0, 0, 1, 128, 255], atol=1e-3)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_integers_and_floats_are_stretched_to_their_range(dtype: type) -> None:
    values: NDArray[Any] = np.linspace(-3000, 9000, 1024).astype(dtype)[None]
    pixels = pixels_of(image_files.encoded(Image.fromarray(values), "TIFF"))
    assert np.allclose(pixels[0, 0, [0, 512, 1023]], [0, 127, 255], atol=1)


def test_what_is_not_finite_is_black_or_white() -> None:
    values = np.full((1, 1024), 5, np.float32)
    values[0, :4] = [np.nan, -np.inf, np.inf, 1]
    pixels = pixels_of(image_files.encoded(Image.fromarray(values), "TIFF"))
    assert np.allclose(pixels[0, 0, :5], [0, 0, 255, 0, 255], atol=1e-3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.fromarray(images.draw(300, 200))
    method = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # stored a quarter to the left of what 6 turns right
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    stored = upright if method is None else upright.transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned, size = preprocess(image_files.encoded(stored, exif=exif), Limits())
    assert size == (200, 300)
    assert np.array_equal(turned, preprocess(image_files.encoded(upright), Limits())[0])


def test_an_exif_block_that_cannot_be_read_counts_as_none() -> None:
    broken = image_files.encoded(
        Image.new("RGB", (30, 20)), "JPEG", exif=b"Exif\0\0MM\0\x2a\xff\xff"
    )
    assert preprocess(broken, Limits())[1] == (20, 30)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_an_animated_image_is_its_first_frame(file_format: str) -> None:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    animated = image_files.encoded(
        first, file_format, save_all=True, append_images=[second], lossless=True
    )
    assert np.allclose(pixels_of(animated)[:, 8, 8], [255, 0, 0], atol=2)


@pytest.mark.parametrize(
    "encoded", [b"", b"no image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a"]
)
def test_bytes_that_are_no_image_are_refused(encoded: bytes) -> None:
    with pytest.raises(BadRequestError, match="not an image that can be read"):
        preprocess(encoded, Limits())


def test_postscript_is_refused_and_not_run() -> None:
    with pytest.raises(BadRequestError, match="not an image that can be read"):
        preprocess(image_files.encoded(Image.new("RGB", (8, 8)), "EPS"), Limits())


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_a_truncated_file_is_refused(file_format: str) -> None:
    whole = image_files.encoded(Image.fromarray(images.draw(300, 200)), file_format)
    with pytest.raises(BadRequestError):
        preprocess(whole[: len(whole) * 2 // 3], Limits())


def test_every_cut_and_every_flip_is_either_read_or_refused() -> None:
    random = np.random.default_rng(0)
    for file_format in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000"):
        whole = image_files.encoded(Image.fromarray(images.draw(60, 40)), file_format)
        for _ in range(15):
            hostile = bytearray(whole[: random.integers(1, len(whole) + 1)])
            for place in random.integers(0, len(hostile), 3):
                hostile[place] = random.integers(256)
            try:
                image, _ = preprocess(bytes(hostile), Limits(max_pixels=10**6))
            except BadRequestError:
                continue
            assert np.isfinite(image).all()


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(
        BadRequestError, match=r"100000 x 100000 pixels, expected at most 128000000"
    ):
        preprocess(image_files.bomb(), Limits())


def test_the_limits_are_exact() -> None:
    encoded = image_files.png(60, 40)
    preprocess(encoded, Limits(max_bytes=len(encoded), max_pixels=2400))
    with pytest.raises(BadRequestError, match=rf"{len(encoded)} bytes, expected at most"):
        Preprocessor(Limits(max_bytes=len(encoded) - 1), processes=1).check(encoded)
    with pytest.raises(BadRequestError, match=r"60 x 40 pixels, expected at most 2399"):
        preprocess(encoded, Limits(max_pixels=2399))
