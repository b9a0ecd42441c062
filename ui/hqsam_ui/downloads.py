"""Downloads, from the exact masks in the picture's own pixels."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from hqsam_client import Mask
from hqsam_client.shared.upload import Upload
from PIL import Image

from hqsam_ui import wire
from hqsam_ui.wire import Logits


class Download(NamedTuple):
    """A way to save masks: its media type, and what writes the file."""

    media_type: str
    write: Callable[[Upload, dict[str, Any], list[Logits]], bytes]


def _masks(upload: Upload, entries: list[dict[str, Any]], logits: list[Logits]) -> list[Mask]:
    return [
        Mask(one, wire.number(entry, "iou"), upload.size, upload.full_image)
        for entry, one in zip(entries, logits, strict=True)
    ]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _mask(upload: Upload, fields: dict[str, Any], logits: list[Logits]) -> bytes:
    """Write the first mask: 255 the object, 0 the rest."""
    return _png(_masks(upload, wire.objects(fields, logits), logits)[0].image())


def _overlay(upload: Upload, fields: dict[str, Any], logits: list[Logits]) -> bytes:
    """Draw all masks on the picture, each in its colour."""
    entries = wire.objects(fields, logits)
    colors = [wire.color(entry) for entry in entries]
    drawn = upload.full_image()
    for mask, color in zip(_masks(upload, entries, logits), colors, strict=True):
        drawn = mask.overlay(drawn, color)
    return _png(drawn)


def _coco(upload: Upload, fields: dict[str, Any], logits: list[Logits]) -> bytes:
    """Write all masks as a data set in COCO's format, run-length encoded."""
    entries = wire.objects(fields, logits)
    height, width = upload.size
    name = fields.get("name")
    image = {
        "id": 1,
        "file_name": name[:255] if isinstance(name, str) else "picture",
        "width": width,
        "height": height,
        "sha256": upload.image_id,
    }
    annotations = []
    for index, mask in enumerate(_masks(upload, entries, logits), start=1):
        x0, y0, x1, y1 = mask.box or (0, 0, 0, 0)
        annotations.append(
            {
                "id": index,
                "image_id": 1,
                "category_id": 1,
                "segmentation": mask.rle(),
                "area": mask.area,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": 0,
                "predicted_iou": round(mask.iou, 6),
            }
        )
    categories = [{"id": 1, "name": "object"}]
    data = {"images": [image], "annotations": annotations, "categories": categories}
    return json.dumps(data, indent=1).encode()


DOWNLOADS = {
    "mask.png": Download("image/png", _mask),
    "overlay.png": Download("image/png", _overlay),
    "coco.json": Download("application/json", _coco),
}
