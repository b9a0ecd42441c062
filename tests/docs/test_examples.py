"""The examples do what they say."""

from __future__ import annotations

import functools
import http.server
import io
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hqsam_client import HQSam
from hqsam_server import TritonServer
from hqsam_testing import command
from hqsam_testing.coins import COINS
from hqsam_testing.waiting import TIMEOUT_S
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from examples import label_studio_backend
from tests.docs.conftest import running
from tests.docs.pages import ROOT

LABEL_CONFIG = """
<View>
  <Image name="photo" value="$image"/>
  <BrushLabels name="brush" toName="photo"><Label value="coin"/></BrushLabels>
  <KeyPointLabels name="click" toName="photo" smart="true"><Label value="coin"/></KeyPointLabels>
  <RectangleLabels name="box" toName="photo" smart="true"><Label value="coin"/></RectangleLabels>
</View>
"""
COIN, BESIDE, BOX = (335, 44), (346, 92), (242, 92, 297, 145)


@pytest.fixture
def sam(server: TritonServer) -> Iterator[HQSam]:
    with HQSam(server.grpc_url, timeout_s=TIMEOUT_S) as client:
        yield client


def run(
    name: str, *arguments: str | Path, folder: Path, server: TritonServer
) -> subprocess.CompletedProcess[str]:
    """Run an example to its end, in a folder."""
    return command.run(
        [sys.executable, ROOT / "examples" / name, *arguments, f"--url={server.grpc_url}"],
        cwd=folder,
    )


def test_a_folder_is_labelled_in_coco_and_as_images(
    server: TritonServer, sam: HQSam, folder: Path
) -> None:
    done = run(
        "label_folder.py", "images", "prompts.jsonl", "--masks=masks",
        folder=folder, server=server,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = json.loads((folder / "coco.json").read_text())
    (image,) = written["images"]
    assert (image["file_name"], image["height"], image["width"]) == ("coins.png", 303, 384)
    assert written["categories"] == [{"id": 1, "name": "coin"}]
    image = sam.open(COINS)
    expected = [image.segment(points=[COIN]), image.segment(box=BOX)]
    for index, (annotation, mask) in enumerate(zip(written["annotations"], expected, strict=True)):
        found = coco.decode(annotation["segmentation"]).astype(bool)
        assert agreement(found, mask.array) > 0.99
        assert annotation["area"] == found.sum()
        drawn = np.asarray(Image.open(folder / "masks" / f"coins-{index}.png")) > 0
        assert np.array_equal(drawn, found)


def test_an_image_that_cannot_be_labelled_is_named_and_the_others_are(
    server: TritonServer, folder: Path
) -> None:
    (folder / "images" / "broken.png").write_bytes(b"no image")
    with (folder / "prompts.jsonl").open("a") as prompts:
        prompts.write('\n{"image": "broken.png", "category": "none", "points": [[1, 1]]}')
    done = run("label_folder.py", "images", "prompts.jsonl", folder=folder, server=server)
    assert done.returncode == 1
    assert "broken.png" in done.stderr
    written = json.loads((folder / "coco.json").read_text())
    assert len(written["annotations"]) == 2
    assert [image["file_name"] for image in written["images"]] == ["coins.png"]


def test_a_detectors_boxes_get_masks(server: TritonServer, sam: HQSam, folder: Path) -> None:
    weak = {"image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.1}
    beyond = {"image_id": 7, "category_id": 1, "bbox": [-0.5, -0.5, 385, 304], "score": 0.9}
    detections = json.loads((folder / "detections.json").read_text())
    (folder / "detections.json").write_text(json.dumps([*detections, weak, beyond]))
    done = run(
        "boxes_to_masks.py", "detections.json", "instances.json", "images",
        folder=folder, server=server,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    strong, whole = json.loads((folder / "segmentations.json").read_text())
    assert {**detections[0], "segmentation": strong["segmentation"]} == strong
    assert whole["bbox"] == beyond["bbox"]
    found = coco.decode(strong["segmentation"]).astype(bool)
    assert agreement(found, sam.segment(COINS, box=BOX).array) > 0.99


def test_the_service_answers_with_the_mask(service: str, sam: HQSam) -> None:
    query = f"point={COIN[0]},{COIN[1]}&background={BESIDE[0]},{BESIDE[1]}"
    request = urllib.request.Request(f"http://{service}/mask?{query}", COINS.read_bytes())
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        found = np.asarray(Image.open(io.BytesIO(answer.read()))) > 0
    expected = sam.segment(COINS, points=[COIN, BESIDE], labels=[1, 0]).array
    assert agreement(found, expected) > 0.99


@pytest.mark.parametrize(
    ("query", "body"), [("", COINS.read_bytes()), ("point=1", b"x"), ("point=1,1", b"no image")]
)
def test_the_service_says_what_is_wrong_with_a_request(
    service: str, query: str, body: bytes
) -> None:
    request = urllib.request.Request(f"http://{service}/mask?{query}", body)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    assert caught.value.code == 400
    assert json.load(caught.value)["error"]


@pytest.fixture
def label_studio(folder: Path) -> Iterator[str]:
    """The address of a web server that serves the images, as Label Studio would."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


def keypoint(x: int, y: int, positive: bool) -> dict[str, Any]:
    """Return a smart keypoint as Label Studio sends it: in percent of the image.

    The pointer is in the lower right half of the pixel (x, y).
    """
    return {
        "type": "keypointlabels",
        "from_name": "click",
        "to_name": "photo",
        "original_width": 384,
        "original_height": 303,
        "is_positive": positive,
        "value": {
            "x": 100 * (x + 0.75) / 384,
            "y": 100 * (y + 0.75) / 303,
            "width": 1,
            "keypointlabels": ["coin"],
        },
    }


def rectangle(x0: int, y0: int, x1: int, y1: int) -> dict[str, Any]:
    value = {
        "x": 100 * x0 / 384,
        "y": 100 * y0 / 303,
        "width": 100 * (x1 - x0) / 384,
        "height": 100 * (y1 - y0) / 303,
        "rectanglelabels": ["coin"],
    }
    return {"type": "rectanglelabels", "from_name": "box", "to_name": "photo", "value": value}


def test_label_studio_gets_a_brush_mask_for_clicks_and_a_box(
    sam: HQSam, label_studio: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", label_studio)
    backend = label_studio_backend.HQSamBackend(sam, LABEL_CONFIG)
    tasks = [{"id": 1, "data": {"image": "/images/coins.png"}}]
    image = sam.open(COINS)
    clicks = [keypoint(*COIN, positive=True), keypoint(*BESIDE, positive=False)]
    for marks, expected in (
        (clicks, image.segment([COIN, BESIDE], [1, 0])),
        ([rectangle(*BOX)], image.segment(box=BOX)),
    ):
        (prediction,) = backend.predict(tasks, {"result": marks}, login=None, password=None)
        (region,) = prediction["result"]
        assert (region["type"], region["from_name"], region["to_name"]) == (
            "brushlabels", "brush", "photo",
        )  # fmt: skip
        assert (region["original_width"], region["original_height"]) == (384, 303)
        assert region["value"]["brushlabels"] == ["coin"]
        assert agreement(decode(region["value"]["rle"], (303, 384)), expected.array) > 0.99
        # The same bits, so the same prompt: a click is the pixel under the pointer.
        assert prediction["score"] == expected.iou
    assert backend.predict(tasks, None) == []


def test_label_studio_calls_it_over_http(server: TritonServer, label_studio: str) -> None:
    body = {
        "tasks": [{"id": 1, "data": {"image": "/images/coins.png"}}],
        "model_version": None,
        "project": "1.1700000000",
        "label_config": LABEL_CONFIG,
        "params": {
            "login": None,
            "password": None,
            "context": {"result": [keypoint(*COIN, positive=True)]},
        },
    }
    with running("label_studio_backend.py", server, LABEL_STUDIO_URL=label_studio) as address:
        assert post(address, "health", None)["status"] == "UP"
        version = post(address, "setup", {"project": "1.1", "schema": LABEL_CONFIG})
        answer = post(address, "predict", body)
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(address, "predict", {**body, "label_config": "<View/>"})
        assert "BrushLabels" in json.load(caught.value)["error"]
    assert answer["model_version"] == version["model_version"]
    (prediction,) = answer["results"]
    assert prediction["result"][0]["value"]["format"] == "rle"


def test_a_brush_mask_is_encoded_as_label_studio_does() -> None:
    mask = np.array([[0, 1, 1], [0, 0, 1]], bool)
    # Of label-studio-sdk 2.1.2, converter.brush.encode_rle.
    expected = [0, 0, 0, 24, 57, 27, 252, 96, 19, 255, 206, 1, 31, 248]
    assert label_studio_backend.brush_rle(mask) == expected
    large = np.zeros((400, 300), np.bool_)
    large[3:390, 7:251] = True
    assert np.array_equal(decode(label_studio_backend.brush_rle(large), (400, 300)), large)


def decode(rle: list[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Read the runs of Label Studio's encoding; the alpha channel is the mask."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    count, value_bits = take(32), take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        assert take(1) == 1
        length = 1 + take(widths[take(2)])
        values += [take(value_bits)] * length
    alpha = np.array(values).reshape(*size, 4)[..., 3]
    return np.equal(alpha, 255)


def post(address: str, path: str, body: dict[str, Any] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://{address}/{path}", data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        return json.load(answer)


def agreement(found: NDArray[np.bool_], expected: NDArray[np.bool_]) -> float:
    """Return the share of pixels that two masks agree in."""
    return float((found == expected).mean())
