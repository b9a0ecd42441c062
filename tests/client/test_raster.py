"""TIFF files that are read in parts, and masks with their place on the map."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hqsam_client import (
    HQSam,
    ImageError,
    Mask,
    MissingPackageError,
    OptionError,
    Percentiles,
    Windows,
    image_files,
    raster,
)
from hqsam_client.image_files import ValueRange
from hqsam_client.shared.run_lengths import RunLengths
from hqsam_client.shared.sources import UploadSource, open_source
from hqsam_testing import maps
from numpy.typing import NDArray
from PIL import Image
from rasterio.transform import from_origin

SIDE = 1100
WINDOWS = [(0, 0, SIDE, SIDE), (500, 490, 530, 700), (1099, 1099, SIDE, SIDE)]


@pytest.fixture(scope="module")
def map_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("map") / "map.tif"
    maps.write(path, SIDE)
    return path


def pixels_of(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as file:
        return np.asarray(file.read().transpose(1, 2, 0))


def written(path: Path, values: NDArray[Any], **profile: Any) -> Path:
    """Write values [h, w, bands] as a TIFF file."""
    height, width, count = values.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=count,
        dtype=values.dtype,
        transform=from_origin(*maps.ORIGIN, 1, 1),
        **profile,
    ) as file:
        file.write(values.transpose(2, 0, 1))
    return path


def test_windows_have_the_pixels_of_the_file(map_file: Path) -> None:
    source = open_source(map_file)
    assert isinstance(source, raster.RasterSource)
    pixels = pixels_of(map_file)
    assert source.size == (SIDE, SIDE)
    for x0, y0, x1, y1 in WINDOWS:
        part = source.part((x0, y0, x1, y1))
        assert part.mode == "RGB"
        assert np.array_equal(np.asarray(part), pixels[y0:y1, x0:x1])
    assert np.array_equal(np.asarray(source.full_image()), pixels)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("L", {}),
        ("P", {}),
        ("RGB", {}),
        ("RGBA", {}),
        ("LA", {}),
        ("CMYK", {}),
        ("RGB", {"compression": "jpeg"}),
    ],
)
def test_files_of_other_programs_look_as_pillow_decodes_them(
    tmp_path: Path, mode: str, options: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    image = (
        Image.fromarray(rng.integers(0, 255, (90, 120, 4), np.uint8))
        .convert("RGB" if mode == "CMYK" else "RGBA")
        .convert(mode)
    )
    path = tmp_path / "image.tif"
    image.save(path, **options)
    source = open_source(path)
    assert isinstance(source, raster.RasterSource)
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    found = np.asarray(source.part((10, 20, 100, 80)))
    # Two decoders of JPEG round differently.
    assert np.abs(found - expected[20:80, 10:100]).max() <= (2 if options else 0)


def test_the_bands_that_a_file_calls_red_green_and_blue_are_taken(tmp_path: Path) -> None:
    values = np.arange(4 * 6 * 4, dtype=np.uint8).reshape(4, 6, 4)
    path = written(tmp_path / "image.tif", values)
    with rasterio.open(path, "r+") as file:
        names = ("alpha", "blue", "green", "red")
        file.colorinterp = [rasterio.enums.ColorInterp[name] for name in names]
    found = np.asarray(open_source(path).part((0, 0, 6, 4)))
    assert np.array_equal(found, values[..., [3, 2, 1]])


@pytest.mark.parametrize("kind", ["inverted", "bits", "sideways"])
def test_what_cannot_be_read_in_parts_is_decoded_as_a_whole(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.tif"
    image = Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20))
    if kind == "inverted":
        image.save(path, tiffinfo={262: 0})
    elif kind == "bits":
        image.point(lambda value: 255 * (value > 100)).convert("1").save(path)
    else:
        image.save(path, tiffinfo={274: 6})
    with pytest.raises(ImageError):
        raster.RasterSource(path)
    source = open_source(path)
    assert isinstance(source, UploadSource)
    assert source.size == ((20, 10) if kind == "sideways" else (10, 20))


def test_a_large_image_in_one_piece_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(
        tmp_path / "strip.tif",
        np.zeros((200, 300, 3), np.uint8),
        blockysize=200,
        compress="deflate",
    )
    monkeypatch.setattr(raster, "_BLOCK_BYTES", 3 * 300 * 200 - 1)
    with pytest.raises(ImageError, match="TILED=YES"):
        raster.RasterSource(path)


def test_a_damaged_tile_is_an_error_of_its_window(tmp_path: Path, map_file: Path) -> None:
    path = tmp_path / "cut.tif"
    path.write_bytes(map_file.read_bytes()[:-200_000])
    source = raster.RasterSource(path)  # the header is whole
    with pytest.raises(ImageError, match=r"cut\.tif cannot be read at"):
        source.part((0, 0, SIDE, SIDE))


def test_an_image_of_too_many_pixels_is_not_read_as_a_whole(
    map_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raster, "_MOST_PIXELS", SIDE * SIDE - 1)
    with pytest.raises(ImageError, match=r"inner\.overlay"):
        open_source(map_file).full_image()


def test_without_rasterio_a_large_file_says_what_it_needs(
    map_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    monkeypatch.setattr(raster, "is_installed", lambda: False)
    assert isinstance(open_source(map_file), UploadSource)
    assert not raster.is_georeferenced(map_file)
    for needs_it in (
        lambda: raster.RasterSource(map_file),
        lambda: raster.save_mask(square(0, 0, 1, 1), map_file.with_name("mask.tif"), map_file),
        lambda: raster.feature_collection([square(0, 0, 1, 1)], map_file),
    ):
        with pytest.raises(MissingPackageError, match=r"hqsam-triton\[raster\]"):
            needs_it()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match=r"hqsam-triton\[raster\]"):
        open_source(map_file)


def square(x0: int, y0: int, x1: int, y1: int) -> Mask:
    pixels = np.zeros((SIDE, SIDE), np.bool_)
    pixels[y0:y1, x0:x1] = True
    return Mask(RunLengths.of_mask(pixels), 0.75, (SIDE, SIDE))


def test_a_mask_keeps_its_place_on_the_map(tmp_path: Path, map_file: Path) -> None:
    path = tmp_path / "mask.tif"
    mask = square(100, 200, 140, 230)
    raster.save_mask(mask, path, map_file)
    with rasterio.open(path) as file, rasterio.open(map_file) as image:
        assert (file.crs, file.transform) == (image.crs, image.transform)
        assert np.array_equal(file.read(1) == 255, mask.array)
    empty = Mask(RunLengths.of_mask(np.zeros((SIDE, SIDE), np.bool_)), 0.5, (SIDE, SIDE))
    raster.save_mask(empty, path, map_file)
    with rasterio.open(path) as file:
        assert not file.read(1).any()
    with pytest.raises(OptionError, match="cannot be written"):
        raster.save_mask(mask, tmp_path / "missing" / "mask.tif", map_file)


def test_outlines_are_in_coordinates_of_the_map(map_file: Path) -> None:
    masks = [square(100, 200, 140, 230), square(0, 0, 1, 1)]
    found = json.loads(json.dumps(raster.feature_collection(masks, map_file)))
    assert found["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    (first, second) = found["features"]
    assert first["properties"] == {"area": 1200, "iou": 0.75}
    ((ring,),) = first["geometry"]["coordinates"]
    left, top = maps.ORIGIN
    xs, ys = zip(*ring, strict=True)
    assert (min(xs), max(xs)) == (left + 25, left + 35)
    assert (max(ys), min(ys)) == (top - 50, top - 57.5)
    ((ring,),) = second["geometry"]["coordinates"]
    assert len(ring) == 5


def test_a_click_on_a_map(sam: HQSam, map_file: Path) -> None:
    mask = sam.open(map_file, windows=Windows(512, 64)).segment(points=[(700, 650)])
    x0, y0, x1, y1 = mask.window
    inner = sam.open(pixels_of(map_file)[y0:y1, x0:x1].copy())
    expected = inner.segment(points=[(700 - x0, 650 - y0)])
    assert np.array_equal(mask.inner.low_res_logits, expected.low_res_logits)


DEEP = np.linspace(1000, 5000, 90 * 120 * 3).reshape(90, 120, 3)


@pytest.mark.parametrize("value_range", [(1500, 4500), Percentiles(5, 95)], ids=str)
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32", "float64"])
def test_windows_of_deep_files_are_mapped_with_the_range_of_the_whole(
    tmp_path: Path, dtype: str, bands: int, value_range: ValueRange
) -> None:
    values = DEEP[..., :bands].astype(dtype)
    source = open_source(written(tmp_path / "deep.tif", values), value_range=value_range)
    assert isinstance(source, raster.RasterSource)
    expected = image_files.mapped(values, *image_files.range_of(values, value_range))
    found = np.asarray(source.part((10, 20, 100, 80)))
    assert np.array_equal(found, np.broadcast_to(expected, DEEP.shape)[20:80, 10:100])


def test_the_percentiles_of_a_large_file_are_those_of_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raster, "_SAMPLED_PIXELS", 500)
    values = DEEP[..., :1].astype(np.uint16)
    path = written(tmp_path / "deep.tif", values)
    found = np.asarray(raster.RasterSource(path, Percentiles(10, 90)).full_image())[..., 0]
    expected = image_files.mapped(
        values[..., 0], *image_files.range_of(values, Percentiles(10, 90))
    )
    assert np.abs(found.astype(int) - expected).max() <= 4


def test_empty_pixels_of_a_map_have_no_part_in_the_percentiles(tmp_path: Path) -> None:
    values = DEEP[..., :1].astype(np.int16)
    values[:60] = -9999
    path = written(tmp_path / "deep.tif", values, nodata=-9999)
    found = np.asarray(open_source(path, value_range=Percentiles(0, 100)).part((0, 0, 120, 90)))
    assert not found[:60].any()
    assert (found[60, 0, 0], found[-1, -1, 0]) == (0, 255)


def test_a_deep_map_of_8_bit_values_has_their_masks_in_its_windows(
    sam: HQSam, map_file: Path, tmp_path: Path
) -> None:
    plain = pixels_of(map_file)
    path = written(tmp_path / "deep.tif", plain.astype(np.uint16) * 16)
    windows, point = Windows(600, 200), [(520, 500)]
    with pytest.raises(
        ImageError, match=r"of uint16, expected .* or a value_range .*--value-range"
    ):
        sam.open(path, windows=windows).segment(points=point)
    mask = sam.open(path, windows=windows, value_range=(0, 4080)).segment(points=point)
    expected = sam.open(map_file, windows=windows).segment(points=point)
    assert mask.window == expected.window
    assert np.array_equal(mask.array, expected.array)
    bgr = sam.open(plain[..., ::-1], channels="bgr", windows=windows).segment(points=point)
    assert np.array_equal(bgr.array, expected.array)


def test_a_deep_file_that_the_model_would_see_as_black_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "deep.tif", DEEP[..., :1].astype(np.uint16))
    with pytest.raises(ImageError, match=r"as black: its values are 1000 to 4999"):
        open_source(path, value_range=(6000, 65535))
    with pytest.raises(OptionError, match="expected Percentiles or"):
        open_source(path, value_range=(2, 1))
    with pytest.raises(OptionError, match="which is for arrays"):
        open_source(path, channels="bgr")
