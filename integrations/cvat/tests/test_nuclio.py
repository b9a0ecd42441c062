"""The serverless function with the real `nuclio-sdk`, and the shape that CVAT makes of it."""

from __future__ import annotations

import base64
import json
import os
import sys
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import nuclio_sdk
import nuclio_sdk.event
import pytest
import yaml
from cvat_sdk.masks import encode_mask
from hqsam_client import HQSam

FOLDER = Path(__file__).parents[1] / "nuclio"
sys.path.insert(0, str(FOLDER))
import main

COINS = Path(__file__).parents[3] / "demo" / "coins.png"
COIN, BOX = (335, 44), (242, 92, 297, 145)


@pytest.fixture(scope="module")
def context() -> nuclio_sdk.Context:
    """The context of a worker after the function's start."""
    made = nuclio_sdk.Context(logger=nuclio_sdk.Logger("INFO"))
    main.init_context(made)
    return made


def call(context: nuclio_sdk.Context, body: Any) -> dict[str, Any]:
    """Call the function as a worker does for a POST request of CVAT; return what it answers."""
    event = nuclio_sdk.Event.deserialize(
        {
            "body": json.dumps(body).encode(), "content_type": "application/json",
            "trigger": {"kind": "http", "name": "myHttpTrigger"}, "fields": {}, "headers": {},
            "id": "1", "method": "POST", "path": "/", "size": 1, "timestamp": 0, "url": "/",
            "shard_id": 0, "num_shards": 1, "type": "", "type_version": "", "version": "",
        },
        nuclio_sdk.event.EventDeserializerKinds.msgpack,
    )  # fmt: skip
    answer: dict[str, Any] = nuclio_sdk.Response.from_entrypoint_output(
        json.dumps, main.handler(context, event)
    )
    return answer


def request(**prompts: Any) -> dict[str, Any]:
    frame = base64.b64encode(COINS.read_bytes()).decode()
    return {"image": frame, "pos_points": [], "neg_points": [], "obj_bbox": None, **prompts}


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ({"pos_points": [[335.7, 44.7]], "obj_bbox": []}, {"points": [COIN]}),
        ({"obj_bbox": [list(BOX[:2]), list(BOX[2:])]}, {"box": BOX}),
    ],
)
def test_the_answer_is_the_mask_that_the_client_gets(
    context: nuclio_sdk.Context, prompts: dict[str, Any], expected: dict[str, Any]
) -> None:
    answer = call(context, request(**prompts))
    assert (answer["status_code"], answer["content_type"]) == (200, "application/json")
    body = json.loads(answer["body"])
    # CVAT's page turns the rows into runs that begin with background, and adds the bounds.
    flat = list(chain.from_iterable(body["mask"]))
    runs = [len(list(group)) for _, group in groupby(flat)]
    points = [*([0] if flat[0] else []), *runs, *body["bounds"]]
    with HQSam(os.environ["HQSAM_URL"]) as sam:
        assert points == encode_mask(sam.segment(COINS, **expected).array)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("no object", "not a JSON object"),
        ({}, "the request has no 'image'"),
        (request(), "draw a box around it"),
        (request(image="!"), "image is not base64"),
        (request(image="AAAA", pos_points=[[1, 1]]), "not an image that can be read"),
        (request(pos_points=[[999, 1]]), "outside the image"),
    ],
)
def test_a_bad_request_is_answered_with_what_is_wrong(
    context: nuclio_sdk.Context, body: Any, text: str
) -> None:
    answer = call(context, body)
    assert answer["status_code"] == 400
    assert text in answer["body"]


def test_the_configuration_names_the_handler_and_offers_points_and_a_box() -> None:
    config = yaml.safe_load((FOLDER / "function.yaml").read_text())
    module, _, function = config["spec"]["handler"].partition(":")
    assert callable(getattr(sys.modules[module], function))
    about = config["metadata"]["annotations"]
    assert about["type"] == "interactor"
    # The version that CVAT's page asks for.
    assert int(about["version"]) == 2
    assert (int(about["min_pos_points"]), int(about["min_neg_points"])) == (0, 0)
    assert about["startswith_box_optional"] is True
