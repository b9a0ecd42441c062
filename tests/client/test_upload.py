"""Images: what is sent of each form of them, and which are refused."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hqsam_client import ImageError, MissingPackageError, OptionError, Percentiles
from hqsam_client import image_files as image_files_of_client
from hqsam_client.shared.upload import prepare
from hqsam_testing import image_files
from hqsam_testing.oracle import images
from numpy.typing import NDArray
from PIL import Image, features


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
        np.linspace(0, 60000, 24).astype(np.uint16).reshape(4, 6),
        np.full((4, 6), True),
        np.full((4, 6), 0.5),
        np.full((4, 6, 3), 200 / 255),
        np.full((4, 6, 4), 0.5, np.float16),
        np.full((4, 6, 3), 200.0, np.float32),
        np.full((4, 6, 3), 200),
        np.linspace(0, 60000, 72).astype(np.uint16).reshape(4, 6, 3),
        np.linspace(-3, 3, 24).reshape(4, 6),
        np.full((3, 4, 6), 200, np.uint8),
        np.full((4, 4, 6), 0.5),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_an_array_of_another_form_is_refused_with_what_to_pass(array: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match=r"expected uint8 \[height, width, 3\]") as caught:
        prepare(array)
    advice = str(caught.value)
    if moved := re.search(r"with (array\.transpose.*)", advice):
        array = eval(moved[1], {"array": array})  # noqa: S307
        if array.dtype == np.uint8 and array.shape[2] == 3:
            assert prepare(array).size == (4, 6)
            return
        with pytest.raises(ImageError) as caught:
            prepare(array)
        advice = str(caught.value)
    if "array[..., 0]" in advice:
        array = array[..., 0]
    arguments = dict(re.findall(r"(\w+)=('\w+'|\w*\([^)]*\))", advice.partition(": pass ")[2]))
    assert arguments, advice
    passed = {name: eval(text, {"Percentiles": Percentiles}) for name, text in arguments.items()}  # noqa: S307
    assert prepare(array, **passed).size == (4, 6)


def in_order(rgb: NDArray[Any], channels: str) -> NDArray[Any]:
    """Return an image in another order of channels, with an alpha that is to be dropped."""
    alpha = np.arange(rgb[..., 0].size).reshape(*rgb.shape[:2], 1).astype(rgb.dtype)
    colours = rgb[..., ::-1] if channels.startswith("bgr") else rgb
    return np.concatenate([colours, alpha], axis=2) if channels.endswith("a") else colours


@pytest.mark.parametrize("channels", ["rgb", "bgr", "rgba", "bgra"])
def test_an_array_is_read_in_the_order_that_is_named(channels: Any) -> None:
    rgb = images.draw(60, 40)
    expected = prepare(rgb)
    assert prepare(in_order(rgb, channels), channels=channels).image_id == expected.image_id
    floats = in_order(rgb / np.float32(255), channels)
    mapped = prepare(floats, channels=channels, value_range=(0, 1))
    assert mapped.image_id == expected.image_id


def test_a_grey_array_is_three_equal_channels() -> None:
    grey = images.draw(60, 40)[..., 0]
    expected = prepare(np.stack([grey] * 3, axis=-1)).image_id
    assert prepare(grey, channels="grey").image_id == expected
    deep = (grey * 256.0 - 1000).astype(np.int32)
    mapped = prepare(deep, channels="grey", value_range=(-1000, 255 * 256 - 1000))
    assert mapped.image_id == expected
    flags = prepare(grey > 99, channels="grey", value_range=(0, 1))
    np.testing.assert_array_equal(decoded(flags.encoded)[..., 1], (grey > 99) * np.uint8(255))


def test_arrays_of_8_bits_are_as_they_are_whatever_the_range() -> None:
    array = images.draw(60, 40)
    assert prepare(array, value_range=(0, 100)).image_id == prepare(array).image_id


@pytest.mark.parametrize(
    ("array", "arguments", "message"),
    [
        (np.zeros((4, 6)), {"channels": "rgb", "value_range": (0, 1)}, "pass channels='grey'"),
        (
            np.zeros((4, 6, 3)),
            {"channels": "grey", "value_range": (0, 1)},
            r"bool, integers or floats \[height, width\].* pass channels='rgb' or channels='bgr'",
        ),
        (np.zeros((4, 6, 3), complex), {"value_range": (0, 1)}, "the array is complex128"),
        (np.zeros((4, 6, 5), np.uint8), {}, r"\[4, 6, 5\], expected uint8 \[height, width, 3\]"),
    ],
)
def test_an_array_that_is_not_what_the_arguments_say_is_refused(
    array: NDArray[Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        prepare(array, **arguments)


@pytest.mark.parametrize(
    ("image", "arguments", "message"),
    [
        (images.draw(6, 4), {"channels": "hsv"}, "channels is 'hsv', expected one of 'rgb', 'bgr'"),
        (encoded(Image.new("L", (6, 4))), {"channels": "bgr"}, "which is for arrays"),
        (Image.new("RGB", (6, 4)), {"channels": "grey"}, "which is for arrays"),
        (images.draw(6, 4), {"value_range": (1, 0)}, "expected Percentiles or"),
    ],
)
def test_wrong_arguments_are_refused(image: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        prepare(image, **arguments)


TWELVE_BITS = np.linspace(0, 4095, 6000).astype(np.uint16).reshape(60, 100)


def test_12_bit_values_in_16_bits_are_refused_with_what_to_do() -> None:
    image = Image.fromarray(TWELVE_BITS)
    colours = np.stack([TWELVE_BITS] * 3, axis=-1)
    forms: list[Any] = [
        image,
        encoded(image, "PNG"),
        encoded(image, "TIFF"),
        image_files.png_16_bit(colours),
        image_files.tiff_16_bit(colours),
    ]
    for form in forms:
        with pytest.raises(ImageError, match=r"none above 4095 of 65535.* value_range=\(0, 4095\)"):
            prepare(form)
        assert prepare(form, value_range=(0, 4095)).size == (60, 100)
    assert prepare(Image.fromarray(TWELVE_BITS * 16)).size == (60, 100)
    black = Image.fromarray(TWELVE_BITS * 0)
    assert prepare(black).size == (60, 100), "black is black at any scale"


@pytest.mark.parametrize("value_range", [(0, 65535), (5000, 9000)])
def test_a_range_that_hides_the_image_is_refused(value_range: tuple[float, float]) -> None:
    for form in (Image.fromarray(TWELVE_BITS), encoded(Image.fromarray(TWELVE_BITS), "PNG")):
        with pytest.raises(ImageError, match=r"as black: its values are 0 to 4095; pass another"):
            prepare(form, value_range=value_range)
    with pytest.raises(ImageError, match="as white: its values are 10 to 4105"):
        prepare(TWELVE_BITS + 10, channels="grey", value_range=(0, 10))
    with pytest.raises(ImageError, match="percentiles 2 and 98 of the image's values are both 0"):
        prepare(Image.fromarray(TWELVE_BITS * 0), value_range=Percentiles())


def test_a_flat_image_beyond_the_range_is_as_flat_as_it_was() -> None:
    flat = np.full((60, 100), -1024, np.int16)
    upload = prepare(flat, channels="grey", value_range=(-160, 240))
    assert not decoded(upload.encoded).any()


def deep_forms(values: NDArray[Any]) -> dict[str, Any]:
    """Return grey values as an array, a Pillow image, and files."""
    image = Image.fromarray(values)
    forms = {"array": values, "Pillow": image, "TIFF": encoded(image, "TIFF")}
    return {**forms, "PNG": encoded(image, "PNG")} if values.dtype == np.uint16 else forms


@pytest.mark.parametrize("value_range", [(100, 3000), Percentiles(1, 99)], ids=str)
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_images_are_sent_as_the_8_bits_that_the_range_makes(
    dtype: type, value_range: Any
) -> None:
    values: NDArray[Any] = np.linspace(0, 4095, 6000).astype(dtype).reshape(60, 100)
    expected = image_files_of_client.mapped(
        values, *image_files_of_client.range_of(values, value_range)
    )
    for name, form in deep_forms(values).items():
        channels: Any = "grey" if name == "array" else "rgb"
        upload = prepare(form, channels=channels, value_range=value_range)
        for seen in (decoded(upload.encoded), np.asarray(upload.full_image())):
            np.testing.assert_array_equal(seen, np.stack([expected] * 3, axis=-1), name)


def test_a_large_deep_file_is_shrunk_to_what_the_model_sees() -> None:
    values: NDArray[np.uint16] = (
        np.linspace(0, 4095, 1500 * 1000).astype(np.uint16).reshape(1000, 1500)
    )
    upload = prepare(encoded(Image.fromarray(values), "TIFF"), value_range=(0, 4095))
    assert upload.size == (1000, 1500)
    assert decoded(upload.encoded).shape == (683, 1024, 3)
    assert upload.full_image().size == (1500, 1000)
    png = prepare(encoded(Image.fromarray(values), "TIFF"), "resized", value_range=(0, 4095))
    np.testing.assert_array_equal(decoded(png.encoded), decoded(upload.encoded))
    assert len(png.encoded) < len(upload.encoded)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_of_16_bit_colours_keep_them_within_the_range(orientation: int) -> None:
    values = (images.draw(60, 40).astype(int) + 40) * 5
    file = image_files.tiff_16_bit(values.astype(np.uint16), orientation)
    upload = prepare(file, value_range=(200, 200 + 255 * 5))
    stored = Image.fromarray(images.draw(60, 40))
    expected = prepare(rotated(stored, orientation, "PNG")).full_image()
    np.testing.assert_array_equal(decoded(upload.encoded), np.asarray(expected))
    assert upload.size == (expected.height, expected.width)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_png_files_of_16_bits_lose_their_alpha_alone(channels: int) -> None:
    rgb = images.draw(60, 40).astype(np.uint16)
    colours = rgb[..., :1] if channels == 2 else rgb
    alpha = [np.full((40, 60, 1), 7, np.uint16)] if channels != 3 else []
    file = image_files.png_16_bit(np.concatenate([colours * 5, *alpha], axis=2))
    seen = decoded(prepare(file, value_range=(0, 255 * 5)).encoded)
    np.testing.assert_array_equal(seen, np.broadcast_to(colours, rgb.shape))


def test_16_bit_colours_that_pillow_would_cut_are_not_mapped_too_late() -> None:
    file = image_files.png_16_bit(np.full((40, 60, 3), 900, np.uint16))
    with pytest.raises(ImageError, match="value_range comes too late: pass the file, or an array"):
        prepare(Image.open(io.BytesIO(file)), value_range=(0, 1000))


def test_without_opencv_16_bit_colours_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    file = image_files.png_16_bit(np.full((40, 60, 3), 9000, np.uint16))
    assert prepare(file).encoded == file
    with pytest.raises(MissingPackageError, match=r"hqsam-triton\[masks\]"):
        prepare(file, value_range=(0, 10_000))


@pytest.mark.parametrize("cut", [10, 60, 200])
def test_damaged_files_of_16_bit_colours_are_refused(cut: int) -> None:
    noise = np.random.default_rng(0).integers(0, 65535, (40, 60, 3)).astype(np.uint16)
    file = image_files.png_16_bit(noise)
    with pytest.raises(ImageError, match="truncated or damaged"):
        prepare(file[: len(file) // 2 - cut], value_range=(0, 65535))


def test_files_of_8_bits_are_sent_as_they_are_whatever_the_range(large: Image.Image) -> None:
    for value_range in ((0, 4095), Percentiles()):
        assert prepare(encoded(large), value_range=value_range).encoded == encoded(large)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_pixels_of_a_heic_file_are_sent_upright(large: Image.Image, orientation: int) -> None:
    small = large.resize((150, 100))
    upload = prepare(image_files.heic(small, orientation))
    expected = prepare(rotated(small, orientation, "PNG"))
    assert upload.size == expected.size
    difference = decoded(upload.encoded).astype(int) - np.asarray(expected.full_image())
    assert np.abs(difference).mean() < 8, "the colours are those of the image, but for compression"
    np.testing.assert_array_equal(np.asarray(upload.full_image()), decoded(upload.encoded))


def test_a_large_heic_file_is_shrunk_and_its_overlay_is_not(large: Image.Image) -> None:
    upload = prepare(image_files.heic(large))
    assert (upload.size, upload.is_shrunk) == ((1000, 1500), True)
    assert decoded(upload.encoded).shape == (683, 1024, 3)
    assert upload.full_image().size == (1500, 1000)
    assert len(prepare(image_files.heic(large), "resized").encoded) < len(upload.encoded)


def test_without_its_package_a_heic_file_is_refused_with_what_to_install(
    large: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC image.* pip install 'hqsam-triton\[heif\]'"):
        prepare(image_files.heic(large.resize((60, 40))))


def test_a_damaged_heic_file_is_refused(large: Image.Image) -> None:
    data = image_files.heic(large.resize((150, 100)))
    for damaged in (data[: len(data) // 2], data[:24] + bytes(100)):
        with pytest.raises(ImageError, match=r"not an image that can be read.* HEIF"):
            prepare(damaged)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_an_avif_file_is_not_taken_for_heic(large: Image.Image) -> None:
    data = encoded(large.resize((60, 40)), "AVIF")
    assert prepare(data).encoded == data


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
