"""What Label Studio asks for: a mask for the smart tools' marks, and images encoded ahead."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
from hqsam_client import AsyncRemoteImage, Mask, PromptError

from hqsam_label_studio import brush

MODEL_VERSION = "hq-sam"
STROKE_POINTS = 5
"""How many points of a brush stroke the model is shown."""

OpenImage = Callable[[str], Awaitable[AsyncRemoteImage]]
"""Fetches a task's image and has it encoded."""


class LabelConfig:
    """The names in a project's labelling interface that masks need.

    Attributes:
        from_name: name of the tag that masks belong to.
        to_name: name of the image.
        key: the field of a task with the image's address.
    """

    def __init__(self, xml: str) -> None:
        """Read the interface; raises `ValueError` if it has no place for masks."""
        try:
            root = ElementTree.fromstring(xml)  # noqa: S314 - of one's own Label Studio
        except ElementTree.ParseError as error:
            raise ValueError(f"the labelling interface is not XML: {error}") from error
        tag = root.find(".//BrushLabels")
        if tag is None:
            raise ValueError(
                "the labelling interface has no BrushLabels to give masks to; add the tag"
            )
        self.from_name, self.to_name = tag.attrib["name"], tag.attrib["toName"]
        images = {it.attrib["name"]: it.attrib["value"] for it in root.iter("Image")}
        if self.to_name not in images:
            raise ValueError(f"BrushLabels belongs to {self.to_name!r}, which is no Image")
        self.key = images[self.to_name].removeprefix("$")


class Backend:
    """Answers requests for predictions.

    Args:
        open_image: see `OpenImage`.
        ahead: how many images to encode ahead at once. A click has its own way past them.
    """

    def __init__(self, open_image: OpenImage, ahead: int = 2) -> None:
        self._open = open_image
        self._slots = asyncio.Semaphore(ahead)
        self._running: set[asyncio.Task[None]] = set()

    async def predict(
        self, xml: str, tasks: list[dict[str, Any]], context: dict[str, Any] | None
    ) -> list[Any]:
        """Return the predictions for each task.

        Args:
            xml: the project's labelling interface.
            tasks: with a context, the one that is open; without, any number.
            context: {"result": [...]}, the smart marks of one object so far. Without marks,
                the images are encoded ahead in the background, and there is no prediction.
        """
        config = LabelConfig(xml)
        marks = (context or {}).get("result", [])
        if not marks:
            for task in tasks:
                self._encode_ahead(task["data"][config.key])
            return [[] for _ in tasks]
        image = await self._open(tasks[0]["data"][config.key])
        mask = await image.segment(*prompt(marks, image.size))
        # Millions of pixels would block the event loop.
        region = await asyncio.to_thread(_region, mask, config, marks[-1])
        return [{"result": [region], "score": mask.iou, "model_version": MODEL_VERSION}]

    def _encode_ahead(self, address: str) -> None:
        async def encode() -> None:
            async with self._slots:
                await self._open(address)

        task = asyncio.create_task(encode())
        self._running.add(task)
        task.add_done_callback(self._running.discard)


def prompt(
    marks: list[dict[str, Any]], size: tuple[int, int]
) -> tuple[Any, Any, tuple[float, float, float, float] | None]:
    """Return points, labels and box of the marks, in pixels of the image.

    Args:
        marks: smart keypoints, rectangles and strokes, in percent of the image.
        size: (height, width).

    Raises:
        PromptError: a mark is of another kind.
    """
    height, width = size
    points: list[tuple[int, int]] = []
    labels: list[int] = []
    box = None
    for mark in marks:
        value, kind = mark["value"], mark["type"]
        if kind == "brushlabels":
            stroke = stroke_points(brush.decode(value["rle"], size))
            points += stroke
            labels += [1] * len(stroke)
            continue
        x, y = value["x"] * width / 100, value["y"] * height / 100
        if kind == "rectanglelabels":
            box = x, y, x + value["width"] * width / 100, y + value["height"] * height / 100
        elif kind == "keypointlabels":
            # The pixel under the pointer, whose position counts from the image's edge.
            points.append((min(int(x), width - 1), min(int(y), height - 1)))
            labels.append(int(mark.get("is_positive", True)))
        else:
            raise PromptError(
                f"a smart {kind} is not supported, expected keypoints, rectangles or brushes"
            )
    return points or None, labels or None, box


def stroke_points(stroke: Any) -> list[tuple[int, int]]:
    """Return a few (x, y) of a stroke, bool [height, width], spread from its top to its end."""
    rows, columns = np.nonzero(stroke)
    shares = (np.arange(min(STROKE_POINTS, rows.size)) + 0.5) / STROKE_POINTS
    chosen = (shares * rows.size).astype(int)
    return list(zip(columns[chosen].tolist(), rows[chosen].tolist(), strict=True))


def _region(mask: Mask, config: LabelConfig, mark: dict[str, Any]) -> dict[str, Any]:
    height, width = mask.size
    return {
        "id": uuid.uuid4().hex[:10],
        "type": "brushlabels",
        "from_name": config.from_name,
        "to_name": config.to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {
            "format": "rle",
            "rle": brush.encode(mask.array),
            "brushlabels": mark["value"][mark["type"]],
        },
    }
