"""Everything in an image: how objects are looked for, and the masks that are found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hqsam_client import contract
from hqsam_client.errors import OptionError
from hqsam_client.mask import Mask
from hqsam_client.shared.geometry import Size
from hqsam_client.shared.modes import Mode, choice
from hqsam_client.shared.run_lengths import RunLengths

OutputMode: TypeAlias = Literal["binary_mask", "uncompressed_rle", "coco_rle"]
"""Forms of a mask in a record, as the authors name them."""

MOST_PER_SIDE = 256
"""Points on a side of the grid, at most."""

_MOST_LAYERS = 4


@dataclass(frozen=True)
class EverythingOptions:
    """How `RemoteImage.everything` looks for objects.

    Names and defaults are those of the authors' `SamAutomaticMaskGenerator`.

    Attributes:
        points_per_side: points on each side of the grid of prompts; None with `point_grids`.
        points_per_batch: prompts in a request, 1 to 256.
        pred_iou_thresh: a mask is kept if its predicted IoU is above this.
        stability_score_thresh: and if its stability score reaches this: the IoU of the masks that
            are cut `stability_score_offset` above and below the usual threshold.
        stability_score_offset: in logits, 0 or more.
        box_nms_thresh: of two masks whose boxes have an IoU above this, the one with the lower
            predicted IoU is a duplicate.
        crop_n_layers: how many times to look again, in smaller crops of the image: 4 crops the
            first time, 16 the second, 64 the third. Each crop is encoded as an image of its own.
        crop_nms_thresh: like `box_nms_thresh`, between crops; the mask of the smaller crop stays.
        crop_overlap_ratio: how far crops of the first layer overlap, as a share of the image's
            shorter side; those of later layers overlap less.
        crop_n_points_downscale_factor: the points on a side are divided by this for each layer.
        point_grids: instead of `points_per_side`, the points for each layer: (x, y) from 0 to 1,
            an array [N, 2] for each.
        min_mask_region_area: if above 0, holes and parts of fewer pixels are removed. That needs
            OpenCV: ``pip install 'hqsam-triton[masks]'``.
        mode: which mask each prompt gives; the authors take the best of SAM's three.

    Raises:
        OptionError: an option is wrong.
    """

    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: Sequence[NDArray[Any]] | None = None
    min_mask_region_area: int = 0
    mode: Mode = "best"

    def __post_init__(self) -> None:
        """Check the options."""
        choice(self.mode)
        if (self.points_per_side is None) == (self.point_grids is None):
            raise OptionError("expected either points_per_side or point_grids; the other is None")
        _check("points_per_side", self.points_per_side, 1, MOST_PER_SIDE)
        _check("points_per_batch", self.points_per_batch, 1, contract.MAX_PROMPTS)
        _check("crop_n_layers", self.crop_n_layers, 0, _MOST_LAYERS)
        _check("crop_n_points_downscale_factor", self.crop_n_points_downscale_factor, 1, None)
        _check("min_mask_region_area", self.min_mask_region_area, 0, None)
        _check("stability_score_offset", self.stability_score_offset, 0, None)
        _check("crop_overlap_ratio", self.crop_overlap_ratio, 0, 1)
        for name in (
            "pred_iou_thresh",
            "stability_score_thresh",
            "box_nms_thresh",
            "crop_nms_thresh",
        ):
            _check(name, getattr(self, name), None, None)
        if self.point_grids is not None:
            _check_grids(self.point_grids, self.crop_n_layers + 1)


def _check(name: str, value: float | None, least: float | None, most: float | None) -> None:
    if value is None:
        return
    too_small = least is not None and not value >= least
    if too_small or (most is not None and not value <= most) or not np.isfinite(value):
        expected = "a finite number"
        if least is not None:
            expected = f"{least} or more" if most is None else f"{least} to {most}"
        raise OptionError(f"{name} is {value}, expected {expected}")


def _check_grids(grids: Sequence[NDArray[Any]], layers: int) -> None:
    if len(grids) < layers:
        raise OptionError(f"point_grids has {len(grids)} grids, expected one for each of {layers}")
    for grid in grids:
        points = np.asarray(grid)
        if points.ndim != 2 or points.shape[1] != 2 or not ((points >= 0) & (points <= 1)).all():
            raise OptionError(
                f"point_grids has a grid of shape {list(points.shape)}, expected [N, 2]: (x, y) "
                "from 0 to 1"
            )


class FoundMask(Mask):
    """The mask of one object that `everything` found. It has no logits.

    Attributes:
        stability_score: how little the mask depends on where its logits are cut, 0 to 1.
        point: the prompt that gave it, (x, y) in original pixels.
        crop_box: (x0, y0, x1, y1) of the crop where it was found, in original pixels.
    """

    def __init__(
        self,
        runs: RunLengths,
        iou: float,
        size: Size,
        image: Callable[[], Image.Image] | None,
        *,
        stability_score: float,
        point: tuple[float, float],
        crop_box: tuple[int, int, int, int],
    ) -> None:
        super().__init__(runs, iou, size, image)
        self.stability_score = stability_score
        self.point = point
        self.crop_box = crop_box

    def cleaned(self, min_area: int) -> FoundMask:
        """Return the mask without small holes and specks; see `Mask.cleaned`."""
        return FoundMask(
            super().cleaned(min_area).run_lengths,
            self.iou,
            self.size,
            self._image,
            stability_score=self.stability_score,
            point=self.point,
            crop_box=self.crop_box,
        )

    def record(self, output_mode: OutputMode = "binary_mask") -> dict[str, Any]:
        """Return what the authors' generator returns for a mask.

        Args:
            output_mode: the form of ``segmentation``: an array, bool [height, width], or COCO's
                run lengths, as a list of counts or compressed.

        Returns:
            ``segmentation``, ``area`` in pixels, ``bbox`` and ``crop_box`` as [x, y, width,
            height], ``predicted_iou``, ``point_coords`` as [[x, y]] and ``stability_score``. As
            the authors count, the width in ``bbox`` is that from the first to the last column: one
            less than the number of columns.

        Raises:
            OptionError: `output_mode` is unknown.
        """
        check_output_mode(output_mode)
        segmentation: Any = self.array
        if output_mode == "uncompressed_rle":
            segmentation = {"size": list(self.size), "counts": self.run_lengths.counts.tolist()}
        elif output_mode == "coco_rle":
            segmentation = self.rle()
        x0, y0, x1, y1 = inclusive_box(self.run_lengths)
        crop_x0, crop_y0, crop_x1, crop_y1 = self.crop_box
        return {
            "segmentation": segmentation,
            "area": self.area,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "predicted_iou": self.iou,
            "point_coords": [list(self.point)],
            "stability_score": self.stability_score,
            "crop_box": [crop_x0, crop_y0, crop_x1 - crop_x0, crop_y1 - crop_y0],
        }


def inclusive_box(runs: RunLengths) -> tuple[int, int, int, int]:
    """Return a mask's (x0, y0, x1, y1) as the authors count: x1 and y1 are the last column and row.

    It is 0, 0, 0, 0 if the mask is empty.
    """
    x0, y0, x1, y1 = runs.box or (0, 0, 1, 1)
    return x0, y0, x1 - 1, y1 - 1


def check_output_mode(output_mode: str) -> None:
    """Raise `OptionError` unless a record can have masks in this form."""
    if output_mode not in get_args(OutputMode):
        raise OptionError(
            f"output_mode is {output_mode!r}, expected one of {', '.join(get_args(OutputMode))}"
        )
