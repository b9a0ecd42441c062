"""Small objects of large images have masks with windows and with zoom, and none without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from hqsam_client import EverythingOptions, HQSam, Mask, Windows
from hqsam_evaluation.measures import iou
from hqsam_testing import maps

pytestmark = pytest.mark.slow

SIDE = 5 * maps.CELL
"""Pixels of the image: the model sees two of five."""

CLICKED = slice(1, None, 5)

GAIN = 0.3
"""Least gain in mean IoU."""


def mean_iou(objects: list[maps.Object], masks: Sequence[Mask]) -> float:
    return fmean(it.iou(*mask.cutout(), mask.area) for it, mask in zip(objects, masks, strict=True))


def test_clicks_with_windows_with_zoom_and_without(sam: HQSam, tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    objects = maps.write(path, SIDE)[CLICKED]
    points = [[it.point] for it in objects]
    image = sam.open(path)
    least = mean_iou(objects, image.segment(points)) + GAIN
    in_windows = sam.open(path, windows=Windows())
    assert mean_iou(objects, in_windows.segment(points)) > least
    assert mean_iou(objects, image.segment(points, zoom=True)) > least
    assert mean_iou(objects, [image.zoom(box=it.box) for it in objects]) > least


def test_everything_in_windows(sam: HQSam, tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    objects = maps.write(path, 2 * maps.CELL)
    image = sam.open(path, windows=Windows(640, 256))
    # Of the objects in each window; every window gets all of them.
    grid = [
        ((it.point[0] - x0) / (x1 - x0), (it.point[1] - y0) / (y1 - y0))
        for x0, y0, x1, y1 in image.windows
        for it in objects
        if x0 <= it.point[0] < x1 and y0 <= it.point[1] < y1
    ]
    options = EverythingOptions(
        points_per_side=None,
        point_grids=[np.array(grid)],
        pred_iou_thresh=0.7,
        stability_score_thresh=0.8,
        mode="hq",
    )
    prompts: list[tuple[int, int]] = []
    masks = image.everything(options, progress=lambda *it: prompts.append(it))
    assert prompts[-1] == (len(grid) * 4, len(grid) * 4)
    assert masks[0].size == (2 * maps.CELL, 2 * maps.CELL)
    found = 0
    for it in objects:
        truth = np.zeros(image.size, np.bool_)
        x0, y0, x1, y1 = it.box
        truth[y0:y1, x0:x1] = it.mask
        found += max(iou(mask.array, truth) for mask in masks) > 0.5
    assert found >= len(objects) - 1
