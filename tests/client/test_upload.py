"""Images: what is sent of each form of them, and which are refused."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from hqsam_client import ImageError, OptionError
from hqsam_client.shared.upload import prepare
from hqsam_testing.oracle import images
from numpy.typing import NDArray
from PIL import Image


def encoded(image: Image.Image, file_format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)))


def rotated(image: Image.Image, orientation: int, file_format: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, file_format, exif=exif)


@pytest.fixture(scope="module")
def large() -> Image.Image:
    return Image.fromarray(images.draw(1500, 1000))


def test_a_file_travels_as_it_is_in_all_its_forms(large: Image.Image, tmp_path: Path) -> None:
    data = encoded(large)
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    for form in (path, str(path), data, io.BytesIO(data)):
        upload = prepare(form)
        assert upload.encoded == data
        assert upload.image_id == hashlib.sha256(data).hexdigest()
        assert upload.size == (1000, 1500)


def test_the_home_folder_may_be_a_tilde(
    large: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photo.jpg").write_bytes(encoded(large))
    assert prepare("~/photo.jpg").encoded == encoded(large)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_image(
    large: Image.Image, orientation: int, file_format: str
) -> None:
    upload = prepare(rotated(large.resize((150, 100)), orientation, file_format))
    assert upload.size == ((150, 100) if orientation >= 5 else (100, 150))
    assert upload.full_image().size == upload.size[::-1]


def test_an_array_is_shrunk_as_the_server_would_and_sent_without_loss(large: Image.Image) -> None:
    upload = prepare(np.asarray(large))
    assert upload.size == (1000, 1500)
    expected = large.resize((1024, 683), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decoded(upload.encoded), np.asarray(expected))
    np.testing.assert_array_equal(np.asarray(upload.full_image()), np.asarray(large))


def test_a_small_array_is_not_enlarged() -> None:
    array = images.draw(60, 40)
    np.testing.assert_array_equal(decoded(prepare(array).encoded), array)


def test_an_array_and_the_pillow_image_of_it_have_one_image_id(large: Image.Image) -> None:
    assert prepare(np.asarray(large)).image_id == prepare(large).image_id


def test_a_view_of_an_array_is_sent_as_it_reads() -> None:
    array = images.draw(60, 40)
    flipped = array[:, ::-1, ::-1]
    np.testing.assert_array_equal(decoded(prepare(flipped).encoded), flipped)


def test_a_pillow_image_is_turned_upright(large: Image.Image) -> None:
    image = Image.open(io.BytesIO(rotated(large, 6)))
    assert prepare(image).size == (1500, 1000)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_a_pillow_image_of_eight_bits_becomes_rgb(large: Image.Image, mode: str) -> None:
    image = large.resize((90, 60)).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decoded(prepare(image).encoded), expected)


@pytest.mark.parametrize("mode", ["I", "I;16", "F"])
def test_a_deeper_pillow_image_is_left_to_the_server(mode: str) -> None:
    dtype = {"I": np.int32, "I;16": np.uint16, "F": np.float32}[mode]
    values = 10 * np.arange(6000, dtype=dtype).reshape(60, 100)
    image = Image.fromarray(values)
    assert image.mode == mode
    np.testing.assert_array_equal(decoded(prepare(image).encoded), values)


def test_resized_uploads_are_smaller_and_show_the_model_the_same(large: Image.Image) -> None:
    data = encoded(Image.fromarray(images.draw(3000, 2000)), "PNG")
    upload = prepare(data, "resized")
    assert len(upload.encoded) < len(data)
    assert upload.size == (2000, 3000)
    expected = Image.open(io.BytesIO(data)).resize((1024, 683), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decoded(upload.encoded), np.asarray(expected))


def test_a_resized_upload_that_saves_nothing_is_the_file_itself(large: Image.Image) -> None:
    small = encoded(large.resize((300, 200)))
    noisy = np.random.default_rng(0).integers(0, 255, (1100, 1100, 3), np.uint8)
    compressed = encoded(Image.fromarray(noisy), quality=10)
    for data in (small, compressed):
        assert prepare(data, "resized").encoded == data


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"not an image", "the 12 bytes are not an image"),
        (b"", "the 0 bytes are not an image"),
        ("no/such/file.jpg", "no/such/file.jpg cannot be read: No such file"),
        (Path(__file__).parent, "is a folder, expected an image file"),
        (io.StringIO("text"), "the file object gave str, expected bytes"),
        (3, "got an object of type int"),
        (np.zeros((0, 4, 3), np.uint8), r"the array is uint8 \[0, 4, 3\]"),
        (np.zeros(4, np.uint8), r"the array is uint8 \[4\]"),
        ("~nobody-of-this-name/photo.jpg", "cannot be read: .* check the path"),
    ],
)
def test_what_is_not_an_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        prepare(image)


@pytest.mark.parametrize(
    "array",
    [
        np.full((4, 6), 200, np.uint8),
        np.full((4, 6, 1), 200, np.uint8),
        np.full((4, 6, 4), 200, np.uint8),
        np.full((4, 6), 51200, np.uint16),
        np.full((4, 6), True),
        np.full((4, 6), 0.5),
        np.full((4, 6, 3), 200 / 255),
        np.full((4, 6, 3), 200.0, np.float32),
        np.full((4, 6, 3), 200),
        np.full((4, 6, 3), 51200, np.uint16),
        np.full((3, 4, 6), 200, np.uint8),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_an_array_that_is_not_rgb_is_refused_with_a_conversion_that_works(
    array: NDArray[Any],
) -> None:
    with pytest.raises(ImageError, match=r"expected uint8 \[height, width, 3\]") as caught:
        prepare(array)
    code = re.search(r"(PIL\.Image\.fromarray|np\.stack|array\b[.[]|\(array ).*", str(caught.value))
    assert code, caught.value
    converted = eval(code[0], {"np": np, "PIL": PIL, "array": array})  # noqa: S307
    assert prepare(converted).size == (4, 6)


def test_12_bit_values_in_16_bits_are_refused_with_what_to_do() -> None:
    values = np.linspace(0, 4095, 6000).astype(np.uint16).reshape(60, 100)
    image = Image.fromarray(values)
    forms: list[Any] = [image, encoded(image, "PNG"), encoded(image, "TIFF")]
    for form in forms:
        with pytest.raises(ImageError, match=r"no value above 4095 of 65535.* scale its values"):
            prepare(form)
    assert prepare(Image.fromarray(values * 16)).size == (60, 100)
    assert prepare(Image.fromarray(values * 0)).size == (60, 100), "black is black at any scale"


@pytest.mark.parametrize("side", [9_500, 11_300])
def test_pillows_warning_of_large_images_is_kept_back(side: int) -> None:
    assert side**2 > (Image.MAX_IMAGE_PIXELS or 0)
    data = encoded(Image.new("1", (side, side)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepare(data).size == (side, side)


def test_more_pixels_than_pillow_opens_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="more pixels than Pillow opens: shrink it, or raise"):
        prepare(encoded(Image.new("L", (60, 40))))


def test_a_truncated_file_is_refused_where_its_pixels_are_needed(large: Image.Image) -> None:
    with pytest.raises(ImageError, match="truncated or damaged"):
        prepare(encoded(large)[:9000], "resized")


def test_an_unknown_way_to_upload_is_refused() -> None:
    with pytest.raises(OptionError, match="upload is 'small', expected 'original' or 'resized'"):
        prepare(images.draw(6, 4), "small")  # type: ignore[arg-type]
