"""Masks for the boxes of supervision's detections and data sets.

```python
import supervision as sv
from hqsam_client import HQSam
from hqsam_supervision import masks_for_dataset

dataset = sv.DetectionDataset.from_coco("images", "boxes.json")
with HQSam("localhost:8001") as sam:
    masks_for_dataset(dataset, sam).as_coco(annotations_path="masks.json")
```
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import supervision as sv
from hqsam_client import HQSam, HQSamError

__all__ = ["masks_for_dataset", "masks_for_detections"]


def masks_for_detections(
    detections: sv.Detections, image: Any, sam: HQSam, *, mode: Any = "hq+sam"
) -> sv.Detections:
    """Return detections with a mask for each box.

    Args:
        detections: with boxes in pixels of the upright image.
        image: as in `HQSam.open`; an array is RGB, while OpenCV and supervision read BGR.
        sam: the client.
        mode: see `RemoteImage.segment`; the default is the one for images of many objects.

    Raises:
        HQSamError: see `HQSam.open` and `RemoteImage.segment`.
    """
    if not len(detections):
        return replace(detections, mask=None)
    masks = sam.open(image).segment(boxes=detections.xyxy, mode=mode)
    # What a COCO file said of the boxes, and supervision would write of the masks.
    data = {key: it for key, it in detections.data.items() if key not in ("area", "segmentation")}
    return replace(detections, mask=np.stack([mask.array for mask in masks]), data=data)


def masks_for_dataset(
    dataset: sv.DetectionDataset,
    sam: HQSam,
    *,
    mode: Any = "hq+sam",
    concurrency: int = 4,
    failed: Callable[[str, HQSamError], object] | None = None,
) -> sv.DetectionDataset:
    """Return a data set with a mask for each box.

    Image files are sent as they are, and only to a server that does not have them. So a second
    run continues an interrupted one.

    Args:
        dataset: with boxes in pixels of the upright images.
        sam: the client.
        mode: see `RemoteImage.segment`.
        concurrency: how many images to process at once.
        failed: called with the path and the error of an image that fails, which is left out of
            the result; without it, the first error is raised.

    Raises:
        HQSamError: an image failed, and `failed` is not given.
    """

    def masks(path: str) -> sv.Detections | HQSamError:
        try:
            return masks_for_detections(dataset.annotations[path], path, sam, mode=mode)
        except HQSamError as error:
            if failed is None:
                raise
            return error

    annotations = {}
    with ThreadPoolExecutor(concurrency, thread_name_prefix="hqsam-masks") as pool:
        results = pool.map(masks, dataset.image_paths)
        for path, result in zip(dataset.image_paths, results, strict=True):
            if not isinstance(result, HQSamError):
                annotations[path] = result
            elif failed is not None:
                failed(path, result)
    return sv.DetectionDataset(dataset.classes, list(annotations), annotations)
