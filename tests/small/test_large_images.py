"""Small objects of large images have masks with windows and with zoom, and none without."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from hqsam_client import EverythingOptions, HQSam, Mask, WindowMask, Windows
from hqsam_evaluation.measures import iou
from hqsam_testing import maps
from PIL import Image

SIDE = 12 * maps.CELL
"""Pixels of the image: the model sees every sixth."""

CLICKED = slice(5, None, 13)

GAIN = 0.3
"""Least gain in mean IoU."""


@pytest.fixture(scope="module")
def map_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("map") / "map.tif"


@pytest.fixture(scope="module")
def objects(map_file: Path) -> list[maps.Object]:
    return maps.write(map_file, SIDE)[CLICKED]


def mean_iou(objects: list[maps.Object], masks: list[Mask] | list[WindowMask]) -> float:
    return fmean(it.iou(*mask.cutout(), mask.area) for it, mask in zip(objects, masks, strict=True))


def test_clicks_with_windows_with_zoom_and_without(
    sam: HQSam, map_file: Path, objects: list[maps.Object]
) -> None:
    points = [[it.point] for it in objects]
    image = sam.open(map_file, upload="resized")
    plain = mean_iou(objects, image.segment(points))
    windows = mean_iou(objects, sam.open(map_file, windows=Windows()).segment(points))
    assert windows > plain + GAIN
    drawn = mean_iou(objects, [image.zoom(box=it.box) for it in objects])
    assert drawn > plain + GAIN
    zoomed = image.segment(points, zoom=True)
    assert any(isinstance(mask, WindowMask) for mask in zoomed)
    assert mean_iou(objects, zoomed) > plain + GAIN / 2


def test_everything_in_windows(sam: HQSam, tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    objects = maps.write(path, 2 * maps.CELL)
    image = sam.open(path, windows=Windows(640, 256))
    options = EverythingOptions(
        points_per_side=16, pred_iou_thresh=0.7, stability_score_thresh=0.8, mode="hq"
    )
    prompts: list[tuple[int, int]] = []
    masks = image.everything(options, progress=lambda *it: prompts.append(it))
    assert prompts[-1] == (256 * 4, 256 * 4)
    with Image.open(path) as file:
        assert masks[0].size == (file.height, file.width)
    found = 0
    for it in objects:
        truth = np.zeros(image.size, np.bool_)
        x0, y0, x1, y1 = it.box
        truth[y0:y1, x0:x1] = it.mask
        found += max(iou(mask.array, truth) for mask in masks) > 0.5
    assert found >= len(objects) / 2
