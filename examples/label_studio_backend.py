"""HQ-SAM in Label Studio: a click or a box becomes a brush mask.

Start it, add its address to the project (Settings, Model; switch "interactive preannotations"
on), and use the smart tools. Use the same label names in all tags:

    <View>
      <Image name="image" value="$image"/>
      <BrushLabels name="brush" toName="image"><Label value="coin"/></BrushLabels>
      <KeyPointLabels name="click" toName="image" smart="true">
        <Label value="coin"/>
      </KeyPointLabels>
      <RectangleLabels name="box" toName="image" smart="true">
        <Label value="coin"/>
      </RectangleLabels>
    </View>

Set `LABEL_STUDIO_URL` and `LABEL_STUDIO_API_KEY` for images that were uploaded to Label Studio.
"""

from __future__ import annotations

import argparse
import os
import urllib.parse
import urllib.request
import uuid
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree

import numpy as np
import uvicorn
from hqsam_client import HQSam, Mask, RemoteImage
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

MODEL_VERSION = "hq-sam"
DOWNLOAD_TIMEOUT_S = 30.0


class HQSamBackend:
    """The methods of `label_studio_ml.model.LabelStudioMLBase` that Label Studio calls.

    Args:
        sam: the client.
        label_config: the project's labelling interface, as XML.
    """

    def __init__(self, sam: HQSam, label_config: str) -> None:
        self._sam = sam
        root = ElementTree.fromstring(label_config)  # noqa: S314 - of one's own Label Studio
        brush = root.find(".//BrushLabels")
        if brush is None:
            raise ValueError("the labelling interface has no BrushLabels to give masks to")
        self._from_name, self._to_name = brush.attrib["name"], brush.attrib["toName"]
        (image,) = (it for it in root.iter("Image") if it.attrib["name"] == self._to_name)
        self._key = image.attrib["value"].removeprefix("$")

    def predict(
        self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **_: Any
    ) -> list[dict[str, Any]]:
        """Return the mask for the clicks and boxes so far, as a Label Studio prediction.

        Args:
            tasks: one task with the image.
            context: {"result": [...]}, the smart keypoints and rectangles of one object.
        """
        marks = (context or {}).get("result", [])
        if not marks:
            return []
        image = open_image(self._sam, tasks[0]["data"][self._key])
        height, width = image.size
        points, labels, box = [], [], None
        for mark in marks:
            value = mark["value"]
            x, y = value["x"] * width / 100, value["y"] * height / 100
            if mark["type"] == "rectanglelabels":
                box = x, y, x + value["width"] * width / 100, y + value["height"] * height / 100
            else:
                # The pixel under the pointer, whose position counts from the image's edge.
                points.append((min(int(x), width - 1), min(int(y), height - 1)))
                labels.append(int(mark.get("is_positive", True)))
        mask = image.segment(points or None, labels or None, box)
        label = marks[-1]["value"][marks[-1]["type"]]
        return [
            {
                "result": [self._region(mask, label)],
                "score": mask.iou,
                "model_version": MODEL_VERSION,
            }
        ]

    def _region(self, mask: Mask, label: list[str]) -> dict[str, Any]:
        height, width = mask.size
        return {
            "id": uuid.uuid4().hex[:10],
            "type": "brushlabels",
            "from_name": self._from_name,
            "to_name": self._to_name,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": brush_rle(mask.array), "brushlabels": label},
        }


@lru_cache(maxsize=64)
def open_image(sam: HQSam, address: str) -> RemoteImage:
    """Fetch and embed a task's image; keep it for the next clicks."""
    home = os.environ.get("LABEL_STUDIO_URL", "http://localhost:8080")
    url = urllib.parse.urljoin(home, address)
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url} cannot be fetched, expected http or https")
    request = urllib.request.Request(url)  # noqa: S310 - checked above
    key = os.environ.get("LABEL_STUDIO_API_KEY")
    if key and urllib.parse.urlsplit(url).netloc == urllib.parse.urlsplit(home).netloc:
        request.add_header("Authorization", f"Token {key}")
    with urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_S) as response:  # noqa: S310
        return sam.open(response.read())


def brush_rle(mask: NDArray[np.bool_]) -> list[int]:
    """Return Label Studio's run-length encoding of a mask, [height, width], as bytes.

    The encoding is a stream of bits. Header: the number of values (32 bits), the bits of a
    value minus 1 (5 bits), and the four possible widths of a run's length minus 1 (4 bits each).
    Each run: a 1, the index of its width (2 bits), its length minus 1, and the value. Values are
    0 or 255, four for each pixel: red, green, blue and alpha.
    """
    widths = (3, 4, 8, 16)
    flat = mask.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate(([0], edges))
    lengths = 4 * np.diff(np.concatenate((starts, [flat.size])))
    bits = [f"{4 * flat.size:032b}{8 - 1:05b}", *(f"{width - 1:04b}" for width in widths)]
    for value, length in zip(flat[starts].tolist(), lengths.tolist(), strict=True):
        for start in range(0, length, 1 << widths[-1]):
            rest = min(length - start, 1 << widths[-1]) - 1
            number = next(i for i, width in enumerate(widths) if rest < 1 << width)
            bits.append(f"1{number:02b}{rest:0{widths[number]}b}{255 * value:08b}")
    stream = "".join(bits)
    return [int(stream[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(stream), 8)]


def service(url: str) -> Starlette:
    """Return the backend as the web service that Label Studio calls."""
    sam = HQSam(url)

    async def predict(request: Request) -> JSONResponse:
        body = await request.json()
        params = body.get("params") or {}
        try:
            backend = HQSamBackend(sam, body["label_config"])
            results = await run_in_threadpool(backend.predict, body["tasks"], **params)
        except Exception as error:
            # Label Studio shows this text to the user.
            return JSONResponse({"error": str(error)}, 500)
        return JSONResponse({"results": results, "model_version": MODEL_VERSION})

    async def setup(_: Request) -> JSONResponse:
        return JSONResponse({"model_version": MODEL_VERSION})

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "UP", "model_class": HQSamBackend.__name__})

    async def webhook(_: Request) -> JSONResponse:
        return JSONResponse({}, 201)  # nothing is trained

    return Starlette(
        routes=[
            Route("/predict", predict, methods=["POST"]),
            Route("/setup", setup, methods=["POST"]),
            Route("/health", health),
            Route("/", health),
            Route("/webhook", webhook, methods=["POST"]),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=9090, help="0 takes a free one")
    parser.add_argument("--url", default=os.environ.get("HQSAM_URL", "localhost:8001"))
    args = parser.parse_args()
    uvicorn.run(service(args.url), port=args.port)
