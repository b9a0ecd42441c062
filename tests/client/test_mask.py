"""What can be done with a mask."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hqsam_client import ImageError, Mask, MissingPackageError, OptionError
from hqsam_client.contract import PIXEL_MEAN, PIXEL_STD
from hqsam_client.mask import MASK_ENDINGS
from hqsam_client.shared.finishing import finish
from hqsam_client.shared.run_lengths import RunLengths
from hqsam_client.shared.upload import prepare
from hqsam_server.models.preprocess import Limits
from hqsam_testing.preprocess import preprocess
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from tests.client.test_geometry import blobs

SIZE = (300, 400)


@pytest.fixture
def mask() -> Mask:
    return Mask(blobs(), 0.875, SIZE, lambda: Image.new("RGB", (400, 300), (90, 90, 90)))


def test_box_and_area_are_those_of_the_array(mask: Mask) -> None:
    rows, columns = np.nonzero(mask.array)
    assert mask.area == len(rows)
    assert mask.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_an_empty_mask_has_no_box() -> None:
    empty = Mask(np.full((256, 256), -1, np.float32), 0.1, SIZE)
    assert empty.box is None
    assert empty.area == 0
    assert empty.polygons() == []


def test_the_array_is_computed_once(mask: Mask) -> None:
    assert mask.array is mask.array


def test_a_saved_mask_is_white_on_black(mask: Mask, tmp_path: Path) -> None:
    mask.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), np.where(mask.array, 255, 0))


def test_run_lengths_survive_json_and_give_the_mask_back(mask: Mask) -> None:
    rle = json.loads(json.dumps(mask.rle()))
    assert rle["size"] == [300, 400]
    np.testing.assert_array_equal(coco.decode(rle).astype(bool), mask.array)


@pytest.mark.parametrize("ending", sorted(MASK_ENDINGS))
def test_a_mask_is_saved_without_loss_in_every_format(
    mask: Mask, tmp_path: Path, ending: str
) -> None:
    mask.save(tmp_path / f"mask{ending}")
    with Image.open(tmp_path / f"mask{ending}") as image:
        np.testing.assert_array_equal(np.asarray(image.convert("L")) == 255, mask.array)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mask.jpg",
            r"mask\.jpg'.*\.jpg would change its pixels; expected a name that ends in \.png",
        ),
        ("mask.JPEG", r"\.JPEG would change its pixels"),
        ("mask.webp", r"\.webp would change its pixels"),
        ("mask", "it has no ending; expected a name that ends in .png"),
        (".png", "it has no ending"),
        ("no/such/mask.png", "make the folder .*no/such first"),
        ("folder.png", "folder.png cannot be written: Is a directory"),
    ],
)
def test_a_mask_is_not_saved_where_that_would_fail_or_change_it(
    mask: Mask, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OptionError, match=message):
        mask.save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_a_mask_is_saved_in_the_home_folder(
    mask: Mask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    mask.save("~/mask.png")
    assert (tmp_path / "mask.png").is_file()


def test_polygons_are_the_borders_of_the_parts_the_largest_first() -> None:
    low_res = np.full((256, 256), -1, np.float32)
    low_res[20:40, 20:40] = 1
    low_res[100:180, 60:200] = 1
    mask = Mask(low_res, 0.5, (1024, 1024))
    large, small = mask.polygons()
    assert large.holes == small.holes == []
    assert np.abs(large.outline.min(0) - (240, 400)).max() <= 2  # (x, y)
    assert np.abs(large.outline.max(0) - (799, 719)).max() <= 2
    assert np.abs(small.outline.min(0) - (80, 80)).max() <= 2
    assert all(mask.array[y, x] for x, y in np.concatenate([large.outline, small.outline]))


def test_polygons_keep_holes_and_what_lies_in_them() -> None:
    low_res = np.full((256, 256), -1, np.float32)
    low_res[20:200, 20:200] = 1
    low_res[40:120, 40:120] = -1
    low_res[60:80, 60:80] = 1
    low_res[150:180, 150:180] = -1
    mask = Mask(low_res, 0.5, (512, 512))
    ring, island = mask.polygons()
    assert len(ring.holes) == 2
    assert island.holes == []
    drawn = np.zeros((512, 512), np.uint8)
    for polygon in (ring, island):
        cv2.fillPoly(drawn, [polygon.outline], (1,))
        for hole in polygon.holes:
            cv2.fillPoly(drawn, [hole], (0,))
            cv2.polylines(drawn, [hole], True, (1,))
    np.testing.assert_array_equal(drawn.astype(bool), mask.array)


def ring_and_specks() -> Mask:
    """A square with a large and a small hole, and a speck beside it."""
    low_res = np.full((256, 256), -1, np.float32)
    low_res[20:200, 20:200] = 1
    low_res[40:120, 40:120] = -1
    low_res[150:153, 150:153] = -1
    low_res[230:233, 230:233] = 1
    return Mask(low_res, 0.5, (512, 512))


def small_regions_removed(mask: NDArray[np.bool_], area: int, holes: bool) -> NDArray[np.bool_]:
    """Do what the authors' `remove_small_regions` does."""
    count, regions, stats, _ = cv2.connectedComponentsWithStats(
        (holes ^ mask).astype(np.uint8), connectivity=8
    )
    sizes = stats[:, -1][1:]
    small = [i + 1 for i, size in enumerate(sizes) if size < area]
    if not small:
        return mask
    kept = [0, *small]
    if not holes:
        kept = [i for i in range(count) if i not in kept] or [int(np.argmax(sizes)) + 1]
    return np.isin(regions, kept)


@pytest.mark.parametrize("min_area", [0, 1, 30, 60, 5_000, 40_000, 10**6])
@pytest.mark.parametrize("name", ["ring", "blobs", "empty", "full"])
def test_a_cleaned_mask_is_that_of_the_authors(name: str, min_area: int) -> None:
    constant = {"empty": -1, "full": 1}
    if name == "ring":
        mask = ring_and_specks()
    elif name == "blobs":
        mask = Mask(blobs(), 0.5, SIZE)
    else:
        mask = Mask(np.full((256, 256), constant[name], np.float32), 0.5, SIZE)
    filled = small_regions_removed(mask.array, min_area, holes=True)
    expected = small_regions_removed(filled, min_area, holes=False)
    cleaned = mask.cleaned(min_area)
    np.testing.assert_array_equal(cleaned.array, expected)
    assert (cleaned.iou, cleaned.size) == (mask.iou, mask.size)


def test_cleaning_fills_small_holes_and_removes_specks() -> None:
    (part,) = ring_and_specks().cleaned(100).polygons()
    assert len(part.holes) == 1


def test_fewer_points_are_off_by_at_most_the_tolerance(mask: Mask) -> None:
    exact, simpler = mask.polygons(), mask.polygons(tolerance=2)
    assert len(exact) == len(simpler)
    for one, other in zip(exact, simpler, strict=True):
        assert len(other.outline) <= len(one.outline)
        for x, y in one.outline.tolist():
            assert abs(cv2.pointPolygonTest(other.outline, (x, y), True)) <= 2.01
    assert sum(len(it.outline) for it in simpler) < sum(len(it.outline) for it in exact) / 2
    with pytest.raises(OptionError, match="tolerance is -1, expected pixels"):
        mask.polygons(tolerance=-1)


def test_geojson_has_closed_rings_of_parts_and_their_holes() -> None:
    mask = ring_and_specks()
    geometry = json.loads(json.dumps(mask.geojson()))
    assert geometry["type"] == "MultiPolygon"
    large, small = geometry["coordinates"]
    assert (len(large), len(small)) == (3, 1)
    for ring in (*large, *small):
        assert ring[0] == ring[-1]
        assert len(ring) >= 4
    assert large[0][:-1] == mask.polygons()[0].outline.tolist()
    dot = np.zeros((9, 9), np.bool_)
    dot[4, 4] = True
    assert Mask(RunLengths.of_mask(dot), 0.5, (9, 9)).geojson()["coordinates"] == []


def test_an_overlay_tints_the_object_and_leaves_the_rest(mask: Mask) -> None:
    drawn = np.asarray(mask.overlay(color=(255, 0, 0)))
    assert drawn.shape == (300, 400, 3)
    # Away from the contour: at least ten pixels inside or outside.
    far = Image.fromarray(mask.array).convert("L").resize((40, 30), Image.Resampling.BOX)
    inside = np.asarray(far).repeat(10, 0).repeat(10, 1) == 255
    outside = np.asarray(far).repeat(10, 0).repeat(10, 1) == 0
    inner, outer = np.median(drawn[inside], axis=0), np.median(drawn[outside], axis=0)
    assert inner[0] > 140
    assert inner[1] < 70
    assert outer.tolist() == [90, 90, 90]


@pytest.mark.parametrize(
    "values",
    [
        np.full((300, 400), 0x5A00, np.uint16),
        np.linspace(0, 1, 300 * 400, dtype=np.float32).reshape(300, 400),
        np.linspace(-4, 90_000, 300 * 400).astype(np.int32).reshape(300, 400),
    ],
    ids=["16-bit", "float", "32-bit"],
)
def test_an_overlay_shows_deep_grey_as_the_model_sees_it(values: NDArray[Any]) -> None:
    upload = prepare(Image.fromarray(values))
    empty = np.full((256, 256), -1, np.float32)
    drawn = np.asarray(Mask(empty, 0.5, upload.size, upload.full_image).overlay())
    seen, _ = preprocess(upload.encoded, Limits())
    frame = seen[0, :, :768].transpose(1, 2, 0) * PIXEL_STD + PIXEL_MEAN
    shown = np.asarray(Image.fromarray(drawn).resize((1024, 768), Image.Resampling.BILINEAR))
    assert np.abs(shown - frame).max() < 1.5
    assert 50 < np.median(drawn) < 200


def test_an_overlay_goes_on_a_photograph_that_lies_on_its_side(mask: Mask) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (300, 400), (90, 90, 90)).save(buffer, "JPEG", exif=exif)
    assert mask.overlay(Image.open(buffer)).size == (400, 300)


def test_an_overlay_goes_on_any_image_of_the_size_and_no_other(mask: Mask) -> None:
    canvas = Image.new("RGB", (400, 300))
    assert mask.overlay(canvas).size == (400, 300)
    assert canvas.getextrema() == ((0, 0), (0, 0), (0, 0)), "the image itself was drawn on"
    with pytest.raises(ImageError, match=r"has \(30, 40\) pixels .* expected \(400, 300\)"):
        mask.overlay(Image.new("RGB", (30, 40)))
    with pytest.raises(ImageError, match="pass one"):
        Mask(blobs(), 0.5, SIZE).overlay()


def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    mask: Mask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    for method in (mask.polygons, mask.geojson, lambda: mask.cleaned(9)):
        with pytest.raises(MissingPackageError, match=r"pip install 'hqsam-triton\[masks\]'"):
            method()


def test_a_mask_of_run_lengths_is_the_same_without_logits(mask: Mask) -> None:
    finished = Mask(finish(blobs(), SIZE).runs, mask.iou, SIZE)
    assert (mask.has_logits, finished.has_logits) == (True, False)
    np.testing.assert_array_equal(finished.array, mask.array)
    for name in ("box", "area"):
        assert getattr(finished, name) == getattr(mask, name)
    assert finished.rle() == mask.rle()
    assert finished.png() == mask.png()
    assert [it.outline.tolist() for it in finished.polygons()] == [
        it.outline.tolist() for it in mask.polygons()
    ]
    for name in ("low_res_logits", "logits"):
        with pytest.raises(OptionError, match="segment with logits=True"):
            getattr(finished, name)


def test_a_png_file_has_one_bit_a_pixel(mask: Mask) -> None:
    with Image.open(io.BytesIO(mask.png())) as image:
        assert image.mode == "1"
        np.testing.assert_array_equal(np.asarray(image), mask.array)
