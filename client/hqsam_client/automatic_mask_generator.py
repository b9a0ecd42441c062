"""Drop-in for the official `SamAutomaticMaskGenerator`: change one import, and a server works.

```python
from hqsam_client.automatic_mask_generator import SamAutomaticMaskGenerator
from hqsam_client.predictor import sam_model_registry

sam = sam_model_registry["vit_b"](checkpoint="sam_hq_vit_b.pth")
records = SamAutomaticMaskGenerator(sam).generate(image)
```
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hqsam_client.client import HQSam
from hqsam_client.everything import EverythingOptions, OutputMode, check_output_mode
from hqsam_client.predictor import RemoteSam, client_of

__all__ = ["SamAutomaticMaskGenerator"]


class SamAutomaticMaskGenerator:
    """Finds everything in images, with the official class's arguments and records.

    Args:
        model: what `sam_model_registry` of `hqsam_client.predictor` returns, or an `HQSam`.
        output_mode: form of the masks in the records; see `FoundMask.record`.

    The others are those of `EverythingOptions`.

    Raises:
        OptionError: an argument is wrong.
    """

    def __init__(
        self,
        model: RemoteSam | HQSam,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[NDArray[Any]] | None = None,
        min_mask_region_area: int = 0,
        output_mode: OutputMode = "binary_mask",
    ) -> None:
        check_output_mode(output_mode)
        self._client = client_of(model, "model")
        self._output_mode: OutputMode = output_mode
        self._options: dict[str, Any] = {
            "points_per_side": points_per_side,
            "points_per_batch": points_per_batch,
            "pred_iou_thresh": pred_iou_thresh,
            "stability_score_thresh": stability_score_thresh,
            "stability_score_offset": stability_score_offset,
            "box_nms_thresh": box_nms_thresh,
            "crop_n_layers": crop_n_layers,
            "crop_nms_thresh": crop_nms_thresh,
            "crop_overlap_ratio": crop_overlap_ratio,
            "crop_n_points_downscale_factor": crop_n_points_downscale_factor,
            "point_grids": point_grids,
            "min_mask_region_area": min_mask_region_area,
        }
        EverythingOptions(**self._options)  # refuses what is wrong now, not at the first image

    def generate(
        self, image: NDArray[np.uint8], multimask_output: bool = True
    ) -> list[dict[str, Any]]:
        """Find everything in an image.

        Args:
            image: uint8 [height, width, 3], RGB, 0 to 255.
            multimask_output: take the best of SAM's three masks for each point, instead of its
                one for clear prompts.

        Returns:
            A record for each mask; see `FoundMask.record`.

        Raises:
            ImageError: it is not such an array.
        """
        options = EverythingOptions(**self._options, mode="best" if multimask_output else "hq+sam")
        masks = self._client.open(image).everything(options)
        return [mask.record(self._output_mode) for mask in masks]
