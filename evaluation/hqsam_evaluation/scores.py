"""Segments objects by box and by clicks, and scores the masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hqsam_client.client import HQSam, RemoteImage
from hqsam_client.errors import HQSamError, OptionError
from hqsam_client.image_files import ValueRange
from hqsam_client.mask import Mask
from hqsam_client.shared.modes import Mode

from hqsam_evaluation.data_set import Pair, read_objects
from hqsam_evaluation.measures import BoolMask, boundary_iou, iou, next_click

TARGETS = (0.85, 0.90, 0.95)
"""IoU whose number of clicks is reported."""


@dataclass(frozen=True)
class Settings:
    """How to segment.

    Attributes:
        clicks: most clicks for an object; 0 for boxes alone.
        mode: as in `RemoteImage.segment`.
        refine: whether each mask is given back with the next click.
        labels: whether each value of a mask file is an object; see `read_objects`.
        value_range: as in `HQSam.open`.
    """

    clicks: int = 20
    mode: Mode = "hq"
    refine: bool = False
    labels: bool = False
    value_range: ValueRange | None = None


@dataclass
class Scores:
    """How well an object was segmented.

    Attributes:
        box_iou: IoU of the mask for the object's box.
        box_boundary_iou: boundary IoU of that mask.
        click_ious: IoU after each click; clicking ends where the highest of `TARGETS` is
            reached.
    """

    box_iou: float
    box_boundary_iou: float
    click_ious: list[float] = field(default_factory=list)


def evaluate_pairs(
    sam: HQSam,
    pairs: Sequence[Pair],
    settings: Settings,
    *,
    concurrency: int = 4,
    progress: Callable[[], object] = lambda: None,
) -> list[list[Scores] | HQSamError]:
    """Segment and score all objects of a data set.

    Args:
        sam: a client.
        pairs: images and their masks.
        settings: how to segment.
        concurrency: images under way at once.
        progress: called after each image, from any thread.

    Returns:
        for each pair the scores of its objects, or the error that it ended with.
    """

    def evaluate(pair: Pair) -> list[Scores] | HQSamError:
        try:
            return _evaluate_pair(sam, pair, settings)
        except HQSamError as error:
            return error
        finally:
            progress()

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(evaluate, pairs))


def _evaluate_pair(sam: HQSam, pair: Pair, settings: Settings) -> list[Scores]:
    truths = read_objects(pair.mask, settings.labels)
    image = sam.open(pair.image, value_range=settings.value_range)
    if truths[0].shape != image.size:
        raise OptionError(
            "mask and image differ in size (height, width): "
            f"{pair.mask} has {truths[0].shape}, {pair.image} {image.size}"
        )
    return [evaluate_object(image, truth, settings) for truth in truths]


def evaluate_object(image: RemoteImage, truth: BoolMask, settings: Settings) -> Scores:
    """Segment one object by its box and by clicks, and score the masks.

    Args:
        image: an opened image.
        truth: the object, bool [height, width] of the image's size, not empty.
        settings: how to segment.

    Raises:
        HQSamError: as `RemoteImage.segment`.
    """
    rows, columns = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    found = image.segment(box=box, mode=settings.mode).array
    scores = Scores(iou(found, truth), boundary_iou(found, truth))
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    mask: Mask | None = None
    found = np.zeros_like(truth)
    while len(points) < settings.clicks:
        click = next_click(found, truth)
        if click is None:
            break
        points.append(click[:2])
        labels.append(click[2])
        earlier = mask if settings.refine else None
        mask = image.segment(points, labels, mode=settings.mode, refine=earlier)
        found = mask.array
        scores.click_ious.append(iou(found, truth))
        if scores.click_ious[-1] >= TARGETS[-1]:
            break
    return scores


def summary(scores: Sequence[Scores], clicks: int) -> dict[str, Any]:
    """Return means over objects, as in the report's ``summary``.

    An object that does not reach a target counts as `clicks`, as in the protocol, and as a
    failure.
    """
    means: dict[str, Any] = {
        "box_iou": _mean([s.box_iou for s in scores]),
        "box_boundary_iou": _mean([s.box_boundary_iou for s in scores]),
    }
    if not clicks:
        return means
    means["iou_after_clicks"] = {
        str(count): _mean([s.click_ious[:count][-1] for s in scores])
        for count in (1, 2, 3, 5, 10, 20)
        if count <= clicks
    }
    for target in TARGETS:
        reached = [
            next((i for i, value in enumerate(s.click_ious, 1) if value >= target), None)
            for s in scores
        ]
        means[f"clicks_to_{round(100 * target)}"] = _mean([count or clicks for count in reached])
        means[f"failures_at_{round(100 * target)}"] = reached.count(None)
    return means


def _mean(values: list[float] | list[int]) -> float:
    return round(float(np.mean(values)), 4)
