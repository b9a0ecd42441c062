"""The backend as Label Studio calls it; with the real one in integrations/label_studio/tests."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hqsam_client import HQSam
from hqsam_label_studio import backend, brush
from hqsam_server import TritonServer
from hqsam_testing.coins import COINS
from hqsam_testing.waiting import wait_until

from tests.integrations.http import call, refusal

LABEL_CONFIG = """
<View>
  <Image name="photo" value="$image"/>
  <BrushLabels name="brush" toName="photo"><Label value="coin"/></BrushLabels>
  <KeyPointLabels name="click" toName="photo" smart="true"><Label value="coin"/></KeyPointLabels>
  <RectangleLabels name="box" toName="photo" smart="true"><Label value="coin"/></RectangleLabels>
</View>
"""
COIN, BESIDE, BOX, SIZE = (335, 44), (346, 92), (242, 92, 297, 145), (303, 384)
MODULE = "hqsam_label_studio.service"


@pytest.fixture
def label_studio() -> Iterator[str]:
    """The address of a web server that serves the images, as Label Studio would."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=COINS.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


def keypoint(point: tuple[int, int], is_positive: bool = True) -> dict[str, Any]:
    """Return a smart keypoint: in percent, in the lower right half of a pixel."""
    x, y = (100 * (it + 0.75) / side for it, side in zip(point, SIZE[::-1], strict=True))
    value = {"x": x, "y": y, "width": 1, "keypointlabels": ["coin"]}
    return {"type": "keypointlabels", "is_positive": is_positive, "value": value}


def rectangle() -> dict[str, Any]:
    x0, y0, x1, y1 = (100 * it / side for it, side in zip(BOX, SIZE[::-1] * 2, strict=True))
    value = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rectanglelabels": ["coin"]}
    return {"type": "rectanglelabels", "value": value}


def request(*marks: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "tasks": [{"id": 1, "data": {"image": f"/{COINS.name}"}}],
        "label_config": LABEL_CONFIG,
        "params": {"login": None, "password": None, "context": {"result": list(marks)}},
        **changes,
    }


def test_label_studio_gets_a_brush_mask_for_clicks_and_a_box(
    server: TritonServer, sam: HQSam, label_studio: str, service: Callable[..., str]
) -> None:
    address = service(MODULE, server.grpc_url, LABEL_STUDIO_URL=label_studio)
    assert call(address, "health")["status"] == "UP"
    version = call(address, "setup", {"project": "1.1", "schema": LABEL_CONFIG})["model_version"]
    image = sam.open(COINS)
    for marks, expected in (
        ((keypoint(COIN), keypoint(BESIDE, False)), image.segment([COIN, BESIDE], [1, 0])),
        ((rectangle(),), image.segment(box=BOX)),
    ):
        answer = call(address, "predict", request(*marks))
        assert answer["model_version"] == version
        (prediction,) = answer["results"]
        (region,) = prediction["result"]
        assert (region["type"], region["from_name"], region["to_name"]) == (
            "brushlabels", "brush", "photo",
        )  # fmt: skip
        assert (region["original_height"], region["original_width"]) == SIZE
        assert region["value"]["brushlabels"] == ["coin"]
        assert np.array_equal(brush.decode(region["value"]["rle"], SIZE), expected.array)


def test_tasks_without_marks_are_encoded_ahead(
    server: TritonServer, sam: HQSam, label_studio: str, service: Callable[..., str]
) -> None:
    address = service(MODULE, server.grpc_url, LABEL_STUDIO_URL=label_studio)
    tasks = [{"id": 1, "data": {"image": f"/{COINS.name}"}}] * 2
    assert call(address, "predict", request(tasks=tasks, params={}))["results"] == [[], []]
    wait_until(lambda: sam.embed([COINS])[0].already_stored, "the image to be encoded")


def test_the_user_reads_what_is_wrong(
    nobody: str, label_studio: str, service: Callable[..., str]
) -> None:
    address = service(MODULE, nobody, LABEL_STUDIO_URL=label_studio)
    task = {"id": 1, "data": {"image": "/no-such.png"}}
    ellipse = {"type": "ellipselabels", "value": {"x": 1, "y": 1}}
    for body, status, text in (
        (request(keypoint(COIN), label_config="<View/>"), 400, "has no BrushLabels"),
        (request(keypoint(COIN), tasks=5), 400, "is not as Label Studio sends it"),
        (request(keypoint(COIN), label_config="<View"), 400, "is not XML"),
        (request(keypoint(COIN), tasks=[{"data": {}}]), 400, "has no 'image'"),
        (request(keypoint(COIN), tasks=[task]), 400, "no-such.png cannot be fetched: 404"),
        (request(keypoint(COIN)), 502, f"no answer from {nobody}"),
    ):
        found, reason = refusal(address, "predict", body)
        assert (found, text in reason) == (status, True), reason
    with pytest.raises(ValueError, match="a smart ellipselabels is not supported"):
        backend.prompt([ellipse], SIZE)


def test_a_stroke_is_a_few_points_on_it() -> None:
    drawn = np.zeros(SIZE, np.bool_)
    drawn[40:45, 320:350] = True
    value = {"format": "rle", "rle": brush.encode(drawn), "brushlabels": ["coin"]}
    points, labels, box = backend.prompt([{"type": "brushlabels", "value": value}], SIZE)
    assert len(points) == backend.STROKE_POINTS and labels == [1] * len(points) and box is None
    assert all(drawn[y, x] for x, y in points) and len({y for _, y in points}) > 1
    drawn[:] = False
    drawn[7, 9] = True
    assert backend.stroke_points(drawn) == [(9, 7)]


def test_a_brush_mask_is_encoded_as_label_studio_does() -> None:
    mask = np.array([[0, 1, 1], [0, 0, 1]], bool)
    # Of label-studio-sdk 2.1.2, converter.brush.encode_rle.
    expected = [0, 0, 0, 24, 57, 27, 252, 96, 19, 255, 206, 1, 31, 248]
    assert brush.encode(mask) == expected
    large = np.zeros((400, 300), np.bool_)
    large[3:390, 7:251] = True
    assert np.array_equal(brush.decode(brush.encode(large), (400, 300)), large)
    with pytest.raises(ValueError, match="the brush has 480000 values, expected 4"):
        brush.decode(brush.encode(large), (1, 1))
