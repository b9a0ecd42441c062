"""Files of masks in original pixels, for download.

Full-size masks are large: each is drawn or encoded alone, and freed before the next one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hqsam_client import AsyncRemoteImage, Mask
from PIL import Image

from hqsam_ui import wire
from hqsam_ui.decoding import ImageFiles
from hqsam_ui.wire import Logits


class Download(NamedTuple):
    """A kind of file: its media type, and the function that writes it."""

    media_type: str
    write: Callable[[ImageFiles, AsyncRemoteImage, dict[str, Any], list[Logits]], bytes]


def _masks(
    image: AsyncRemoteImage, entries: list[dict[str, Any]], logits: list[Logits]
) -> Iterator[Mask]:
    """Yield a mask for each object; a mask that nobody holds any more frees its pixels."""
    for entry, one in zip(entries, logits, strict=True):
        yield Mask(one, wire.iou(entry), image.size)


def _png(drawing: Image.Image) -> bytes:
    buffer = io.BytesIO()
    drawing.save(buffer, "PNG")
    return buffer.getvalue()


def _mask(
    files: ImageFiles, image: AsyncRemoteImage, fields: dict[str, Any], logits: list[Logits]
) -> bytes:
    """Write the first mask: 255 inside the object, 0 elsewhere."""
    return _png(next(_masks(image, wire.objects(fields, logits), logits)).image())


def _overlay(
    files: ImageFiles, image: AsyncRemoteImage, fields: dict[str, Any], logits: list[Logits]
) -> bytes:
    """Draw all masks on the image, each in its colour."""
    entries = wire.objects(fields, logits)
    colors = [wire.color(entry) for entry in entries]
    drawing = files.full_image(image.encoded)
    for mask, color in zip(_masks(image, entries, logits), colors, strict=True):
        drawing = mask.overlay(drawing, color)
    return _png(drawing)


def _coco(
    files: ImageFiles, image: AsyncRemoteImage, fields: dict[str, Any], logits: list[Logits]
) -> bytes:
    """Write all masks as a data set in COCO's format, run-length encoded."""
    entries = wire.objects(fields, logits)
    height, width = image.size
    name = fields.get("name")
    coco_image = {
        "id": 1,
        "file_name": name[:255] if isinstance(name, str) else "image",
        "width": width,
        "height": height,
        "sha256": image.image_id,
    }
    masks = _masks(image, entries, logits)
    data = {
        "images": [coco_image],
        "annotations": [_annotation(number, mask) for number, mask in enumerate(masks, start=1)],
        "categories": [{"id": 1, "name": "object"}],
    }
    return json.dumps(data, indent=1).encode()


def _annotation(number: int, mask: Mask) -> dict[str, Any]:
    x0, y0, x1, y1 = mask.box or (0, 0, 0, 0)
    return {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "segmentation": mask.rle(),
        "area": mask.area,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "iscrowd": 0,
        "predicted_iou": round(mask.iou, 6),
    }


DOWNLOADS = {
    "mask.png": Download("image/png", _mask),
    "overlay.png": Download("image/png", _overlay),
    "coco.json": Download("application/json", _coco),
}
