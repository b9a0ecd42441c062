"""Looks for everything in an image: the algorithm of the authors' `SamAutomaticMaskGenerator`.

A grid of points is segmented, one mask for each. The server leaves out masks of low scores and
sends run lengths of the others; what follows, the removal of duplicates, happens here. It does no
I/O, so the sync and the async client share it.

The algorithm is described in Kirillov et al., "Segment Anything" (2023), section 4, "Fully
automatic stage", and appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hqsam_client.errors import OptionError
from hqsam_client.everything import EverythingOptions, FoundMask, inclusive_box
from hqsam_client.shared import prompt_encoding
from hqsam_client.shared.finishing import Quality
from hqsam_client.shared.geometry import Size
from hqsam_client.shared.protocol import Flow, everything_flow
from hqsam_client.shared.run_lengths import RunLengths
from hqsam_client.shared.sources import Uploads
from hqsam_client.shared.upload import Upload
from hqsam_client.windows import Window

IN_FLIGHT = 2
"""Requests under way at once: while the server finishes the masks of one, it decodes the next."""

_EDGE_PX = 20
"""A mask whose box comes so near to the edge of its crop is one of a larger object."""


class Candidate(NamedTuple):
    """A mask of good scores.

    Attributes:
        runs: at the size of its crop.
        iou: its predicted IoU.
        stability_score: its stability score.
        point: the prompt, (x, y) in pixels of the crop.
    """

    runs: RunLengths
    iou: float
    stability_score: float
    point: tuple[float, float]


@dataclass(frozen=True)
class Crop:
    """A part of the image in which to look.

    Attributes:
        box: (x0, y0, x1, y1), original pixels.
        points: float64 [N, 2], (x, y) in pixels of the crop.
    """

    box: Window
    points: NDArray[np.float64]

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        x0, y0, x1, y1 = self.box
        return y1 - y0, x1 - x0


class Search:
    """The state of one search.

    Attributes:
        crops: where to look, the whole image first.
        total: prompts in all of them.
    """

    def __init__(
        self,
        uploads: Uploads,
        options: EverythingOptions,
        progress: Callable[[int, int], object] | None = None,
        windows: Sequence[Window] | None = None,
    ) -> None:
        """Plan it.

        Args:
            uploads: of the image.
            options: how to look.
            progress: is told how many prompts were answered, and how many there are.
            windows: where to look, instead of the whole image and its crops.

        Raises:
            OptionError: there are windows, and crops in the options.
        """
        self._uploads = uploads
        self._options = options
        self._found: list[FoundMask] = []
        self.crops = _crops(uploads.size, options) if windows is None else _of(windows, options)
        self.total = sum(len(crop.points) for crop in self.crops)
        self._progress = progress
        self._answered = 0

    def upload_of(self, crop: Crop) -> Upload:
        """Return what the server gets to see of a crop."""
        return self._uploads.get(crop.box)

    def batches(self, crop: Crop) -> list[NDArray[np.float64]]:
        """Return the points of a crop, batch by batch."""
        size = self._options.points_per_batch
        return [crop.points[start : start + size] for start in range(0, len(crop.points), size)]

    def flow(self, upload: Upload, points: NDArray[np.float64]) -> Flow[list[Candidate]]:
        """Segment a batch of points; returns the masks of good scores, in order."""
        options = self._options
        prompts = prompt_encoding.build(upload.size, points[:, None])
        quality = Quality(
            options.pred_iou_thresh, options.stability_score_thresh, options.stability_score_offset
        )
        found = yield from everything_flow(upload, prompts, options.mode, quality)
        return [
            Candidate(runs, iou, score, (float(points[number, 0]), float(points[number, 1])))
            for number, runs, iou, score in found
        ]

    def answered(self, prompts: int) -> None:
        """Tell that so many more prompts were answered."""
        self._answered += prompts
        if self._progress is not None:
            self._progress(self._answered, self.total)

    def add(self, crop: Crop, candidates: Sequence[Candidate]) -> None:
        """Take all masks that were found in a crop, in the order of their prompts."""
        size = self._uploads.size
        kept = [it for it in candidates if not _is_cut(inclusive_box(it.runs), crop.box, size)]
        boxes = _boxes(it.runs for it in kept)
        ious = np.array([it.iou for it in kept], np.float32)
        x0, y0, _, _ = crop.box
        for number in suppress(boxes, ious, self._options.box_nms_thresh):
            runs, iou, score, (x, y) = kept[number]
            self._found.append(
                FoundMask(
                    runs.placed(crop.box[:2], size),
                    iou,
                    size,
                    self._uploads.full_image,
                    stability_score=score,
                    point=(x + x0, y + y0),
                    crop_box=crop.box,
                )
            )

    def masks(self) -> list[FoundMask]:
        """Return what was found, without duplicates, in the authors' order.

        Raises:
            MissingPackageError: small regions are to be removed, and OpenCV is not installed.
        """
        found, options = self._found, self._options
        if len(self.crops) > 1:
            boxes = _boxes(it.run_lengths for it in found)
            areas = [_area(it.crop_box) for it in found]
            scores = 1 / np.array(areas, np.float32)
            found = [found[number] for number in suppress(boxes, scores, options.crop_nms_thresh)]
        return _cleaned(found, options) if options.min_mask_region_area else found


def _crops(size: Size, options: EverythingOptions) -> list[Crop]:
    """Return the whole image, and the crops of each layer, with their points."""
    height, width = size
    boxes: list[tuple[Window, int]] = [((0, 0, width, height), 0)]
    for layer in range(1, options.crop_n_layers + 1):
        per_side = 2**layer
        overlap = int(options.crop_overlap_ratio * min(size) * (2 / per_side))
        crop_width, crop_height = (
            math.ceil((overlap * (per_side - 1) + side) / per_side) for side in (width, height)
        )
        for column, row in product(range(per_side), range(per_side)):
            x0, y0 = (crop_width - overlap) * column, (crop_height - overlap) * row
            box = (x0, y0, min(x0 + crop_width, width), min(y0 + crop_height, height))
            if box[0] < box[2] and box[1] < box[3]:  # a tiny image has no room for all
                boxes.append((box, layer))
    grids = _grids(options)
    return [_crop(box, grids[layer]) for box, layer in boxes]


def _of(windows: Sequence[Window], options: EverythingOptions) -> list[Crop]:
    """Return each window with its points."""
    if options.crop_n_layers:
        raise OptionError(
            f"crop_n_layers is {options.crop_n_layers} for an image in windows, expected 0: "
            "open it with smaller windows"
        )
    (points,) = _grids(options)
    return [_crop(window, points) for window in windows]


def _crop(box: Window, points: NDArray[Any]) -> Crop:
    return Crop(box, np.asarray(points, np.float64) * (box[2] - box[0], box[3] - box[1]))


def _grids(options: EverythingOptions) -> Sequence[NDArray[Any]]:
    """Return the points of each layer: (x, y) from 0 to 1, [N, 2]."""
    if options.point_grids is not None:
        return options.point_grids
    assert options.points_per_side is not None  # noqa: S101
    factor = options.crop_n_points_downscale_factor
    return [
        grid(int(options.points_per_side / factor**layer))
        for layer in range(options.crop_n_layers + 1)
    ]


def grid(per_side: int) -> NDArray[np.float64]:
    """Return the centres of a grid's cells, row by row: (x, y) from 0 to 1, [N, 2]."""
    if not per_side:
        return np.empty((0, 2))
    offset = 1 / (2 * per_side)
    side = np.linspace(offset, 1 - offset, per_side)
    x, y = np.meshgrid(side, side)
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def _boxes(runs: Iterable[RunLengths]) -> NDArray[np.float32]:
    """Return the `inclusive_box` of each mask, float32 [N, 4]."""
    return np.array([inclusive_box(it) for it in runs], np.float32).reshape(-1, 4)


def _area(box: Window) -> int:
    x0, y0, x1, y1 = box
    return (x1 - x0) * (y1 - y0)


def _is_cut(box: Window, crop_box: Window, size: Size) -> bool:
    """Tell whether a box of a crop comes near to an edge of the crop that is none of the image."""
    offset = np.array([crop_box[0], crop_box[1]] * 2)
    placed, image = np.array(box) + offset, np.array([0, 0, size[1], size[0]])
    near_crop = np.abs(placed - np.array(crop_box)) <= _EDGE_PX
    near_image = np.abs(placed - image) <= _EDGE_PX
    return bool((near_crop & ~near_image).any())


def suppress(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], threshold: float
) -> list[int]:
    """Return the numbers of boxes that duplicate none of a higher score, the highest score first.

    Non-maximum suppression in the arithmetic of `torchvision.ops.nms`.

    Args:
        boxes: float32 [N, 4], (x0, y0, x1, y1).
        scores: float32 [N]; of equal ones, the first counts more.
        threshold: a box is a duplicate if its IoU with a kept one is above this.
    """
    left = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(left):
        best, left = int(left[0]), left[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[left, :2])
        high = np.minimum(boxes[best, 2:], boxes[left, 2:])
        inner = np.maximum(high - low, 0).prod(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            iou = inner / (areas[best] + areas[left] - inner)
        left = left[~(iou.astype(np.float64) > threshold)]
    return kept


def _cleaned(found: Sequence[FoundMask], options: EverythingOptions) -> list[FoundMask]:
    """Remove small regions, and duplicates that this makes; masks that need none of it go first."""
    cleaned = [_clean(it, options.min_mask_region_area) for it in found]
    boxes = _boxes(it.run_lengths for it in cleaned)
    is_unchanged = [new is old for new, old in zip(cleaned, found, strict=True)]
    threshold = max(options.box_nms_thresh, options.crop_nms_thresh)
    kept = suppress(boxes, np.array(is_unchanged, np.float32), threshold)
    return [cleaned[number] for number in kept]


def _clean(mask: FoundMask, min_area: int) -> FoundMask:
    """Return the mask without small regions, or the same one if it has none."""
    cleaned = mask.cleaned(min_area)
    is_same = np.array_equal(cleaned.run_lengths.counts, mask.run_lengths.counts)
    return mask if is_same else cleaned
