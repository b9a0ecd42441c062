"""The remote server as X-AnyLabeling calls it; with the real one in its own tests."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hqsam_client import HQSam, Mask, PromptError
from hqsam_server import TritonServer
from hqsam_testing.coins import COINS
from hqsam_x_anylabeling import shapes
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tests.integrations.http import call, refusal

COIN, BESIDE, BOX = (335, 44), (346, 92), (242, 92, 297, 145)
MODULE = "hqsam_x_anylabeling.service"
POINT = {"type": "point", "data": list(COIN), "label": 1}
NEGATIVE = {"type": "point", "data": list(BESIDE), "label": 0}
RECTANGLE = {"type": "rectangle", "data": [297, 145, 242, 92], "label": 1}


def request(*marks: dict[str, Any], **changes: Any) -> dict[str, Any]:
    image = "data:image/png;base64," + base64.b64encode(COINS.read_bytes()).decode()
    params = {"marks": list(marks), "epsilon_factor": 0.001}
    return {"model": "hq-sam", "image": image, "params": params, **changes}


def drawn(found: list[dict[str, Any]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels in polygons, bool [height, width]."""
    image = Image.new("1", size[::-1])
    for shape in found:
        ImageDraw.Draw(image).polygon([tuple(it) for it in shape["points"]], 1, 1)
    return np.asarray(image)


def agreement(found: NDArray[np.bool_], expected: NDArray[np.bool_]) -> float:
    """Return the intersection over the union of two masks."""
    return float((found & expected).sum() / (found | expected).sum())


def test_x_anylabeling_gets_polygons_for_points_and_a_rectangle(
    server: TritonServer, sam: HQSam, service: Callable[..., str]
) -> None:
    address = service(MODULE, server.grpc_url)
    ((model_id, model),) = call(address, "v1/models")["data"].items()
    assert (model_id, model["display_name"]) == ("hq-sam", "HQ-SAM")
    image = sam.open(COINS)
    for marks, expected in (
        ((POINT, NEGATIVE), image.segment([COIN, BESIDE], [1, 0])),
        ((RECTANGLE,), image.segment(box=BOX)),
    ):
        data = call(address, "v1/predict", request(*marks))["data"]
        assert data["replace"] is False
        assert {(it["label"], it["shape_type"]) for it in data["shapes"]} == {
            ("AUTOLABEL_OBJECT", "polygon")
        }
        assert agreement(drawn(data["shapes"], expected.size), expected.array) > 0.97


def test_the_user_reads_what_is_wrong(nobody: str, service: Callable[..., str]) -> None:
    address = service(MODULE, nobody)
    for body, status, text in (
        (request(), 400, "there is no mark"),
        (request(POINT, model="sam"), 400, "there is no model 'sam'"),
        (request(POINT, image="data:image/png;base64,!"), 400, "image is not base64"),
        (request(POINT, image=5), 400, "is not as X-AnyLabeling sends it"),
        (request(POINT, image="AAAA"), 400, "not an image that can be read"),
        ({"model": "hq-sam", "params": {"marks": [POINT]}}, 400, "the request has no 'image'"),
        (request(POINT), 503, f"no answer from {nobody}"),
    ):
        found, reason = refusal(address, "v1/predict", body)
        assert (found, text in reason) == (status, True), reason


@pytest.mark.parametrize(
    ("marks", "text"),
    [
        ([{**RECTANGLE, "label": 0}], "a negative rectangle is not supported"),
        ([RECTANGLE, RECTANGLE], "there are two rectangles"),
        ([{"type": "auto_grid", "data": []}], "of type auto_grid is not supported"),
    ],
)
def test_marks_that_mean_nothing_to_the_model_are_refused(
    marks: list[dict[str, Any]], text: str
) -> None:
    with pytest.raises(PromptError, match=text):
        shapes.prompt(marks)


def test_specks_are_left_out_and_small_parts_are_polygons() -> None:
    logits = np.full((256, 256), -1, np.float32)
    logits[20:120, 20:120] = 1
    logits[200, 200:203] = 1
    (part,) = shapes.polygons(Mask(logits, 1.0, (256, 256)))
    assert len(part["points"]) == 5 and part["points"][0] == part["points"][-1]
    logits[20:120, 20:120] = -1
    assert shapes.polygons(Mask(np.full((256, 256), -1, np.float32), 1.0, (256, 256))) == []
