"""What can be done with a mask."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hqsam_client import ImageError, Mask, MissingPackageError
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


def test_polygons_are_the_borders_of_the_parts_the_largest_first() -> None:
    low_res = np.full((256, 256), -1, np.float32)
    low_res[20:40, 20:40] = 1
    low_res[100:180, 60:200] = 1
    mask = Mask(low_res, 0.5, (1024, 1024))
    large, small = mask.polygons()
    assert np.abs(large.min(0) - (240, 400)).max() <= 2  # (x, y)
    assert np.abs(large.max(0) - (799, 719)).max() <= 2
    assert np.abs(small.min(0) - (80, 80)).max() <= 2
    assert all(mask.array[y, x] for x, y in np.concatenate([large, small]))


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


def test_an_overlay_goes_on_any_image_of_the_size_and_no_other(mask: Mask) -> None:
    canvas = Image.new("RGB", (400, 300))
    assert mask.overlay(canvas).size == (400, 300)
    assert canvas.getextrema() == ((0, 0), (0, 0), (0, 0)), "the image itself was drawn on"
    with pytest.raises(ImageError, match=r"has \(30, 40\) pixels .* expected \(400, 300\)"):
        mask.overlay(Image.new("RGB", (30, 40)))
    with pytest.raises(ImageError, match="pass one"):
        Mask(blobs(), 0.5, SIZE).overlay()


@pytest.mark.parametrize(("method", "package"), [("rle", "pycocotools"), ("polygons", "cv2")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    mask: Mask, method: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=r"pip install 'hqsam-triton\[masks\]'"):
        getattr(mask, method)()
